"""AnswerBench: one process, one file, one mapping remapped in a given order; the place where a strategy is measured.

The file is sparse and the machine's RAM is reserved lazily, so that a mapping may have far more pages than the host has
memory: all `nr_pages` of it are remapped, and `nr_present` of them are shown by PTEs (file pages 0 to nr_present - 1,
wherever the order puts them); the rest stay file PTEs. The flusher is kept asleep: page_mkclean runs when it is called.
"""

import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.errors import KernelBug
from emu.hw.mmu import AccessKind
from emu.hw.pte import get_format
from emu.lab.stamps import cyclic_permutation
from emu.machine import Machine
from emu.mapping import Mapping
from emu.mm.inode import Inode
from emu.mm.mkclean import clear_page_dirty_for_io
from emu.mm.mmap import MAP_NONBLOCK
from emu.mm.page_alloc import lock_page, unlock_page
from emu.mm.unmap import page_referenced, try_to_unmap
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.page import PG_DIRTY
from emu.process import Process
from emu.units import MIB
from fsbackend.throttle import DirtyParams

ORDERS = ("random", "reverse", "block", "linear")
BLOCK_PAGES = 64
"""Pages that stay together in the order `block`."""

_NEVER_S = 1e9
_HUGE = 1 << 50
_ASLEEP = DirtyParams(background_bytes=_HUGE, dirty_bytes=2 * _HUGE, periodic_s=_NEVER_S, expire_s=_NEVER_S)

Pages = npt.NDArray[np.int64]


@dataclass(slots=True)
class OpCost:
    """What a number of equal operations cost: PTEs and nodes looked at, seconds of CPU time, locks by class."""

    count: int = 0
    pte_visits: int = 0
    node_visits: int = 0
    seconds: float = 0.0
    visits_max: int = 0
    locks: dict[str, dict[str, int]] | None = None

    @property
    def visits(self) -> float:
        """PTEs and nodes looked at by one operation, on average."""
        return (self.pte_visits + self.node_visits) / self.count if self.count else 0.0

    @property
    def us(self) -> float:
        """Microseconds of one operation, on average, in this emulator."""
        return self.seconds / self.count * 1e6 if self.count else 0.0


def order_of(name: str, nr_pages: int, rng: np.random.Generator) -> Pages:
    """Return which page of the file each page of the mapping shows. ValueError for an unknown order."""
    if name == "random":
        return cyclic_permutation(nr_pages, rng)
    if name == "reverse":
        return np.arange(nr_pages - 1, -1, -1, dtype=np.int64)
    if name == "block":
        block = min(BLOCK_PAGES, max(nr_pages // 4, 1))
        starts = rng.permutation(nr_pages // block).astype(np.int64) * block
        whole = (starts[:, None] + np.arange(block)).ravel()
        return np.concatenate([whole, np.arange(len(whole), nr_pages, dtype=np.int64)])
    if name == "linear":
        return np.arange(nr_pages, dtype=np.int64)
    raise ValueError(f"no order {name!r}; there are {', '.join(ORDERS)}")


class AnswerBench:
    """A machine with one process whose mapping was remapped; what is measured on it comes back as OpCost."""

    def __init__(self, machine: Machine, process: Process, mapping: Mapping, nr_present: int) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self.process = process
        self.mapping = mapping
        self.page_size = machine.kernel.page_size
        self.nr_pages = mapping.nbytes // self.page_size
        self.nr_present = nr_present
        self.order: Pages = np.arange(self.nr_pages, dtype=np.int64)

    @property
    def space(self) -> AddressSpace:
        """The mapped file's page cache."""
        assert isinstance(self.mapping.file, Inode)
        return self.mapping.file.mapping

    @property
    def nbytes_peak(self) -> int:
        """What the strategy allocated, at the peak."""
        return self.kernel.rmap.cost.nbytes_peak

    def vaddrs(self, places: Pages) -> npt.NDArray[np.uint64]:
        """Return where pages of the mapping lie."""
        return np.uint64(self.mapping.vaddr) + places.astype(np.uint64) * np.uint64(self.page_size)

    def places_of(self, pgoffs: Pages) -> Pages:
        """Return which page of the mapping shows each file page."""
        inverse = np.empty(self.nr_pages, np.int64)
        inverse[self.order] = np.arange(self.nr_pages)
        return inverse[pgoffs]

    def read_in(self) -> None:
        """Bring the pages that are to be present into the page cache."""
        self.process.madvise(self.mapping.vaddr, self.nr_present * self.page_size, mmap.MADV_WILLNEED)

    def convert(self) -> None:
        """Make the VMA nonlinear by moving two pages there and back, so that `linear` is measured in one, too."""
        first = self.mapping.vaddr
        for pgoff in (1, 0):
            self.process.remap_file_pages(first, self.page_size, 0, pgoff, MAP_NONBLOCK)

    def remap_all(self, order: Pages) -> OpCost:
        """Remap the whole mapping with one bulk call."""
        self.order = order
        places = self.vaddrs(np.arange(self.nr_pages))
        with self._measured(self.nr_pages) as cost:
            self.process.remap_file_pages_bulk(places, order)
        cost.pte_visits += self.nr_pages
        return cost

    def fault_in(self, pgoffs: Pages, kind: AccessKind = AccessKind.LOAD) -> OpCost:
        """Access file pages through the mapping, each for the first time, so that each access faults."""
        vaddrs = self.vaddrs(self.places_of(pgoffs))
        before = self.machine.vmstat.pgfault
        with self._measured(len(pgoffs)) as cost:
            self.process.run(vaddrs, kind, 1)
        cost.count = self.machine.vmstat.pgfault - before
        cost.pte_visits += cost.count
        return cost

    def remap_pages(self, pgoffs: Pages) -> OpCost:
        """Swap the places of file pages that are present, in pairs, one page a call."""
        places = self.places_of(pgoffs)
        swapped = places.reshape(-1, 2)[:, ::-1].ravel()
        calls = list(zip(self.vaddrs(swapped).tolist(), pgoffs.tolist(), strict=True))
        remap, page_size = self.process.remap_file_pages, self.page_size
        with self._measured(len(calls)) as cost:
            for vaddr, pgoff in calls:
                remap(vaddr, page_size, 0, pgoff, 0)
        self.order[swapped] = pgoffs
        cost.pte_visits += len(calls)
        return cost

    def mkclean(self, pgoffs: Pages) -> OpCost:
        """Clean file pages as writeback does just before their I/O, without the I/O."""
        k, space, vmstat = self.kernel, self.space, self.machine.vmstat
        worst = 0
        with self._measured(len(pgoffs)) as cost:
            before = (vmstat.mkclean_pte_visits, vmstat.mkclean_node_visits)
            for pgoff in pgoffs.tolist():
                start = vmstat.mkclean_pte_visits + vmstat.mkclean_node_visits
                pfn = space.pages.lookup(pgoff)
                lock_page(k, pfn)
                clear_page_dirty_for_io(k, space, pfn)
                unlock_page(k, pfn)
                worst = max(worst, vmstat.mkclean_pte_visits + vmstat.mkclean_node_visits - start)
        cost.pte_visits = vmstat.mkclean_pte_visits - before[0]
        cost.node_visits = vmstat.mkclean_node_visits - before[1]
        cost.visits_max = worst
        return cost

    def unnoticed(self, pgoffs: Pages) -> int:
        """Store into clean file pages once more and count those whose page is not marked dirty by it."""
        self.process.run(self.vaddrs(self.places_of(pgoffs)), AccessKind.STORE, 2)
        flags = self.kernel.mem_map.flags
        return sum(1 for pgoff in pgoffs.tolist() if not flags[self.space.pages.lookup(pgoff)] & PG_DIRTY)

    def reclaim(self, pgoffs: Pages, attempts_max: int) -> tuple[OpCost, int]:
        """Take file pages out of all page tables, each tried until nothing maps it; return also PTEs taken on the way.

        Visits are those of try_to_unmap and of page_referenced before it. KernelBug if a page stays mapped.
        """
        mem_map, mm = self.kernel.mem_map, self.process.mm
        others = worst = 0
        with self._measured(len(pgoffs)) as cost:
            for pgoff in pgoffs.tolist():
                pfn = self.space.pages.lookup(pgoff)
                before = self._reclaim_visits()
                mapped_before, own = mm.file_rss, mem_map.mapcount[pfn]
                for _ in range(attempts_max):
                    if not mem_map.mapcount[pfn]:
                        break
                    self._unmap_once(pfn)
                else:
                    raise KernelBug(f"reclaim did not unmap: {mem_map.describe(pfn)}")
                others += mapped_before - mm.file_rss - own
                spent = self._reclaim_visits() - before
                worst = max(worst, spent)
                cost.visits_max += spent
        cost.pte_visits, cost.node_visits, cost.visits_max = cost.visits_max, 0, worst
        return cost, others

    def _unmap_once(self, pfn: int) -> None:
        k = self.kernel
        lock_page(k, pfn)
        if not page_referenced(k, pfn):
            try_to_unmap(k, self.space, pfn)
        unlock_page(k, pfn)

    def _reclaim_visits(self) -> int:
        """Return an odometer of reclaim's visits, each PTE counted once for each time that it is read."""
        cost, vmstat = self.kernel.rmap.cost, self.machine.vmstat
        if self.kernel.rmap.finds_all:
            return cost.pte_visits + cost.node_visits
        return cost.node_visits + vmstat.unmap_pte_visits + vmstat.referenced_pte_visits

    @contextmanager
    def _measured(self, count: int) -> Iterator[OpCost]:
        """Measure what is done inside: time, the strategy's visits, and locks."""
        cost, rmap = OpCost(count), self.kernel.rmap.cost
        locks_before = self.kernel.locks.snapshot()
        before = (rmap.pte_visits, rmap.node_visits)
        # The thread's own time: the machine is shared, and nothing measured here waits for I/O.
        began_s = time.thread_time()
        yield cost
        cost.seconds = time.thread_time() - began_s
        cost.pte_visits += rmap.pte_visits - before[0]
        cost.node_visits += rmap.node_visits - before[1]
        after = self.kernel.locks.snapshot()
        cost.locks = {
            name: {what: counts[what] - locks_before[name][what] for what in counts if what != "visits_max"}
            for name, counts in after.items()
        }


@contextmanager
def answer_bench(rmap: str, fmt: str, nr_pages: int, nr_present: int, *, seed: int = 0, **more: object) -> Iterator[
    AnswerBench
]:
    """Boot a machine over a sparse file of `nr_pages` pages and map all of it, linearly so far.

    RAM is lazily reserved and not filled with junk; `more` goes to Machine. At the end the power is cut: nothing
    that was stored is wanted.
    """
    with tempfile.NamedTemporaryFile(prefix="fremap-answer-") as file:
        # Page tables of the worst case, a leaf for every page, and as many frames again as pages are present.
        machine = boot(rmap, fmt, 2 * nr_present, nr_pages // 64, seed=seed, **more)
        page_size = machine.kernel.page_size
        os.truncate(file.name, nr_pages * page_size)
        try:
            process = machine.spawn()
            yield AnswerBench(machine, process, process.mmap(file.name, nr_pages * page_size), nr_present)
        finally:
            machine.power_off()


def boot(rmap: str, fmt: str, nr_frames: int, nr_tables: int, *, seed: int = 0, **more: object) -> Machine:
    """Boot a machine whose flusher sleeps, with room for `nr_frames` pages and `nr_tables` page tables."""
    make: Callable[..., Machine] = Machine
    ram = ((nr_frames + nr_tables) << get_format(fmt).page_shift) + 16 * MIB
    return make(
        format=fmt, ram=ram, rmap=rmap, seed=seed, junk=False, readahead=256, params=_ASLEEP, **more
    )
