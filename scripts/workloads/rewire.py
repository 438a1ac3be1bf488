"""A column store that rewires its blocks: it swaps, reverses and sorts them by remapping instead of copying."""

import time

import numpy as np
import numpy.typing as npt

from emu.hw.mmu import AccessKind
from emu.lab.errors import BrokenExpectation, LabError
from emu.lab.lab import Lab
from emu.lab.stamps import first_words
from emu.mapping import Mapping
from emu.process import Process
from emu.units import MIB


class _Column:
    """A mapped file of blocks; `order[i]` is the block of the file that lies at place i."""

    def __init__(self, process: Process, mapping: Mapping, blocks: int, block_pages: int) -> None:
        self.process, self.mapping = process, mapping
        self.block_pages = block_pages
        self.block_nbytes = block_pages * process.page_size
        self.order = np.arange(blocks)

    def vaddr(self, place: int) -> int:
        """Return where the block at a place begins."""
        return self.mapping.vaddr + place * self.block_nbytes

    def rewire(self, order: npt.NDArray[np.int64]) -> float:
        """Remap the blocks into another order, one call a block that moves; return the seconds."""
        began_s = time.perf_counter()
        for place in np.flatnonzero(order != self.order).tolist():
            pgoff = int(order[place]) * self.block_pages
            self.process.remap_file_pages(self.vaddr(place), self.block_nbytes, 0, pgoff, 0)
        self.order = order.copy()
        return time.perf_counter() - began_s

    def copy_swap(self, one: int, other: int) -> float:
        """Swap two blocks by copying their bytes through the CPU, as without rewiring; return the seconds."""
        began_s = time.perf_counter()
        held = self.process.load(self.vaddr(one), self.block_nbytes)
        self.process.store(self.vaddr(one), self.process.load(self.vaddr(other), self.block_nbytes))
        self.process.store(self.vaddr(other), held)
        return time.perf_counter() - began_s

    def wrong_pages(self, seed: int) -> int:
        """Count pages that show something else than `order` says, by their stamps."""
        pages = (self.order[:, None] * self.block_pages + np.arange(self.block_pages)).ravel()
        steps = np.arange(len(pages), dtype=np.uint64) * np.uint64(self.process.page_size)
        seen = self.process.run(np.uint64(self.mapping.vaddr) + steps, AccessKind.LOAD)
        return int((seen != first_words(seed, pages, 0)).sum())


def rewire(lab: Lab, *, blocks: int = 128, block_pages: int = 32, swaps: int = 64) -> dict[str, object]:
    """Swap blocks, reverse them, and sort them by random keys, each by remapping; swap as many by copying, too.

    Remapping moves no bytes, so nothing is dirtied and nothing written back; copying dirties both blocks. What each
    page shows is checked after every step.
    """
    if blocks < 2 or block_pages < 1:
        raise LabError("rewire needs at least 2 blocks of at least 1 page")
    pages = blocks * block_pages
    path = lab.stamped_file("rewire.dat", pages)
    machine = lab.boot(ram=2 * pages * lab.page_size + 16 * MIB)
    process = machine.spawn()
    column = _Column(process, process.mmap(str(path), pages * lab.page_size), blocks, block_pages)
    column.wrong_pages(lab.seed)

    pairs = lab.rng.integers(0, blocks, (swaps, 2))
    swap_s = 0.0
    for one, other in pairs.tolist():
        order = column.order.copy()
        order[[one, other]] = order[[other, one]]
        swap_s += column.rewire(order)
    wrong = column.wrong_pages(lab.seed)
    reverse_s = column.rewire(column.order[::-1].copy())
    wrong += column.wrong_pages(lab.seed)
    keys = lab.rng.permutation(blocks)
    sort_s = column.rewire(column.order[np.argsort(keys)])
    wrong += column.wrong_pages(lab.seed)
    if wrong:
        raise BrokenExpectation(f"{wrong} pages lie elsewhere than the column's order says")
    vmas, dirtied = process.mm.map_count, machine.vmstat.nr_dirtied
    copy_s = sum(column.copy_swap(one, other) for one, other in pairs.tolist())
    return {
        "blocks": blocks,
        "swap_us_rewired": round(swap_s / swaps * 1e6, 2),
        "swap_us_copied": round(copy_s / swaps * 1e6, 2),
        "reverse_us_per_block": round(reverse_s / blocks * 1e6, 2),
        "sort_us_per_block": round(sort_s / blocks * 1e6, 2),
        "pages_dirtied_rewiring": dirtied,
        "pages_dirtied_copying": machine.vmstat.nr_dirtied - dirtied,
        "vmas": vmas,
        "rmap_bytes_peak": machine.kernel.rmap.cost.nbytes_peak,
    }
