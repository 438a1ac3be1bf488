"""Reverse-map strategies, one file each; STRATEGIES is the registry that --rmap chooses from."""

from collections.abc import Callable

from emu.mm.kernel import Kernel
from emu.mm.rmap.base import RmapCost, RmapStrategy
from emu.mm.rmap.dirty_index import DirtyIndex
from emu.mm.rmap.none import NoRmap
from emu.mm.rmap.scan import ScanRmap

STRATEGIES: dict[str, Callable[[Kernel], RmapStrategy]] = {
    "none": NoRmap,
    "scan": ScanRmap,
    "dirty_index": DirtyIndex,
}

__all__ = ["STRATEGIES", "RmapCost", "RmapStrategy"]
