"""Reverse-map strategies, one file each; STRATEGIES is the registry that --rmap chooses from."""

from collections.abc import Callable

from emu.mm.kernel import Kernel
from emu.mm.rmap.base import RmapCost, RmapStrategy
from emu.mm.rmap.dirty_index import DirtyIndex
from emu.mm.rmap.linear_vmas import LinearVmas, LinearVmasAccounted, vma_nbytes
from emu.mm.rmap.none import NoRmap
from emu.mm.rmap.pte_chain import PteChain
from emu.mm.rmap.range_tree import RangeTree
from emu.mm.rmap.scan import ScanRmap
from emu.mm.rmap.shadow import Shadow
from emu.mm.rmap.slot_chain import SlotChain

STRATEGIES: dict[str, Callable[[Kernel], RmapStrategy]] = {
    "none": NoRmap,
    "scan": ScanRmap,
    "pte_chain": PteChain,
    "slot_chain": SlotChain,
    "range_tree": RangeTree,
    "shadow": Shadow,
    "linear_vmas": LinearVmas,
    "linear_vmas_accounted": LinearVmasAccounted,
    "dirty_index": DirtyIndex,
}

__all__ = ["STRATEGIES", "RmapCost", "RmapStrategy", "vma_nbytes"]
