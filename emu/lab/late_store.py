"""late_store: store after a writeback, call msync, cut the power, and read the disk.

The hole of March 2007 as an experiment. A file of stamped pages is mapped MAP_SHARED and remapped in a random
order. Generation 1 is stored into some of the pages and written back; that cleans them, and a kernel that
finds their PTEs write-protects them again. Generation 2 is stored into the same pages. Where the PTEs were
found, each store faults and is accounted; where they were not, nobody notices. msync returns success in both
cases. Then the power goes, and an ordinary process reads what is left.
"""

import mmap
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.hw.mmu import AccessKind
from emu.lab.errors import BrokenExpectation, LabError
from emu.lab.lab import Lab
from emu.lab.measure import MapMeasure, is_accounted, measure_mapping
from emu.lab.stamps import cyclic_permutation, page_words
from emu.lab.verify import read_by_ordinary_process
from emu.units import MIB

FILE_NAME = "late_store.dat"
_PROBE_PAGES = 1000
_PROBE_ROUNDS = 3
_REPORT_EVERY = 2048
_BATCHES = 400
_CLEAN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LateStore:
    """What came out. Times in microseconds (None: could not be measured), memory in bytes."""

    nr_pages: int
    nr_dirty_pages: int
    nr_lost_pages: int
    accounted: bool
    unaccounted_dirty_max: int
    mkclean_calls: int
    mkclean_pte_visits: int
    mkclean_node_visits: int
    remap_us_per_page: float
    fault_us: float | None
    memory: MapMeasure


class _Experiment:
    """The steps, in the order of the issue; each leaves what the next one needs."""

    def __init__(self, lab: Lab, nr_pages: int, share: float) -> None:
        if nr_pages < 2:
            raise LabError(f"late_store needs at least 2 pages to remap without fixed points, not {nr_pages}")
        if not 0 < share <= 1:
            raise LabError(f"the share of pages to dirty lies above 0 and at most at 1, not at {share}")
        self.lab = lab
        self.nr_pages = nr_pages
        self.page_size = lab.page_size
        # permutation[i] is the page of the file that lies i pages into the mapping.
        self.permutation = cyclic_permutation(nr_pages, lab.rng)
        nr_dirty = max(1, round(nr_pages * share))
        self.dirty_slots = np.sort(lab.rng.choice(nr_pages, nr_dirty, replace=False))
        self.dirty_pgoffs = self.permutation[self.dirty_slots]
        path = lab.stamped_file(FILE_NAME, nr_pages)
        file_nbytes = nr_pages * self.page_size
        self.machine = lab.boot(
            ram=2 * file_nbytes + 16 * MIB, at_least=2 * file_nbytes, audit=True
        )
        self.process = self.machine.spawn()
        self.mapping = self.process.mmap(str(path), file_nbytes)

    def count(self, name: str) -> int:
        """Return a counter of the machine's, by the kernel's name."""
        return self.machine.vmstat.snapshot()[name]

    def slot_vaddrs(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return where pages of the mapping begin."""
        return np.uint64(self.mapping.vaddr) + slots.astype(np.uint64) * np.uint64(self.page_size)

    def read_all(self) -> None:
        """Load a word of every page, so that the whole file is in the page cache."""
        vaddrs = self.slot_vaddrs(np.arange(self.nr_pages))
        with self.lab.progress.step("reading the file in", self.nr_pages) as advance:
            for part in np.array_split(vaddrs, -(-self.nr_pages // _REPORT_EVERY)):
                self.process.run(part, AccessKind.LOAD)
                advance(len(part))

    def remap(self) -> float:
        """Remap one page a call into the permutation; return microseconds a page, the median of all batches.

        A median, since other processes delay some batches, and not the least, since some strategies slow down.
        """
        remap = self.process.remap_file_pages
        page_size = self.page_size
        calls = list(
            zip(self.slot_vaddrs(np.arange(self.nr_pages)).tolist(), self.permutation.tolist(), strict=True)
        )
        spent_s = []
        with self.lab.progress.step("remapping, one page a call", self.nr_pages) as advance:
            for first in range(0, self.nr_pages, _REPORT_EVERY):
                part = calls[first : first + _REPORT_EVERY]
                began_s = time.perf_counter()
                for vaddr, pgoff in part:
                    remap(vaddr, page_size, 0, pgoff, 0)
                spent_s.append((time.perf_counter() - began_s) / len(part))
                advance(len(part))
        return float(np.median(spent_s)) * 1e6

    def time_faults(self) -> float | None:
        """Drop some PTEs, fault them in from the page cache; return the least of three medians, in microseconds."""
        slots = self.lab.rng.choice(self.nr_pages, min(_PROBE_PAGES, self.nr_pages), replace=False)
        majors = self.count("pgmajfault")
        medians_s = [self._time_round(self.slot_vaddrs(slots).tolist()) for _ in range(_PROBE_ROUNDS)]
        if self.count("pgmajfault") != majors:
            raise BrokenExpectation("faults that were to find their pages in the cache went to the disk")
        found = [median_s for median_s in medians_s if median_s is not None]
        return min(found) * 1e6 if found else None

    def _time_round(self, vaddrs: list[int]) -> float | None:
        times_s = []
        for vaddr in vaddrs:
            self.process.madvise(vaddr, self.page_size, mmap.MADV_DONTNEED)
            faults = self.count("pgfault")
            began_s = time.perf_counter()
            self.process.load_word(vaddr)
            spent_s = time.perf_counter() - began_s
            if self.count("pgfault") == faults + 1:
                times_s.append(spent_s)
        return float(np.median(times_s)) if times_s else None

    def store_and_clean(self) -> None:
        """Store generation 1 and write it back, a few pages at a time.

        A page that the flusher wrote between a fault and its store would never hold generation 1 on the disk where
        PTEs are not found; so no more is dirtied at once than the strictest limit lets pass without writeback.
        """
        batch = max(1, self.nr_pages // _BATCHES)
        with self.lab.progress.step("storing generation 1, writing back", len(self.dirty_slots)) as advance:
            for slots in np.array_split(self.dirty_slots, -(-len(self.dirty_slots) // batch)):
                self.store(slots, 1)
                self.machine.sync()
                advance(len(slots))
            deadline_s = time.monotonic() + _CLEAN_TIMEOUT_S
            while self.count("nr_dirty") or self.count("nr_writeback"):
                if time.monotonic() > deadline_s:
                    raise BrokenExpectation(
                        f"writeback did not end: nr_dirty={self.count('nr_dirty')} "
                        f"nr_writeback={self.count('nr_writeback')}"
                    )
                self.machine.sync()

    def store_again(self) -> None:
        """Store generation 2 into the same pages."""
        with self.lab.progress.step("storing generation 2", len(self.dirty_slots)) as advance:
            for slots in np.array_split(self.dirty_slots, -(-len(self.dirty_slots) // _REPORT_EVERY)):
                self.store(slots, 2)
                advance(len(slots))

    def store(self, slots: npt.NDArray[np.int64], generation: int) -> None:
        """Store the stamps of a generation into some pages of the mapping, whole pages."""
        stamps = page_words(self.lab.seed, self.permutation[slots], generation, self.page_size)
        store = self.process.store
        for vaddr, stamp in zip(self.slot_vaddrs(slots).tolist(), stamps, strict=True):
            store(vaddr, stamp.data)

    def unmapped_so_far(self) -> dict[str, int]:
        """Return the counters that tell of reclaim and unmapping; equal twice means that none happened."""
        counters = self.machine.vmstat.snapshot()
        return {
            name: counters[name] for name in ("pgsteal_kswapd", "pgsteal_direct", "unmap_calls", "nr_mapped")
        }

    def crash_and_read(self, *, accounted: bool) -> int:
        """End the machine, read the file from every place by another process, and return the lost pages."""
        if accounted:
            self.machine.power_off()
            self.lab.ground.crash()
        else:
            self.machine.shutdown()
        places = self.lab.ground.places(FILE_NAME)
        with self.lab.progress.step("reading by an ordinary process"):
            found = read_by_ordinary_process(list(places.values()), self.lab.seed, self.page_size)
        lost = [self.lost_in(place, pages) for place, pages in zip(places, found, strict=True)]
        if any((one != lost[0]).any() for one in lost[1:]):
            raise BrokenExpectation(f"{' and '.join(places)} differ in which pages are lost")
        return int(lost[0].sum())

    def lost_in(self, place: str, found: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Return which of the dirty pages hold generation 1; any other content than 1 or 2 is an error."""
        if len(found) != self.nr_pages:
            raise BrokenExpectation(f"the {place} has {len(found)} pages instead of {self.nr_pages}")
        untouched = np.ones(self.nr_pages, np.bool_)
        untouched[self.dirty_pgoffs] = False
        changed = np.flatnonzero(untouched & (found != 0))
        if len(changed):
            raise BrokenExpectation(f"on the {place}, page {changed[0]} changed though nobody stored into it")
        held = found[self.dirty_pgoffs]
        foreign = np.flatnonzero((held != 1) & (held != 2))
        if len(foreign):
            pgoff = self.dirty_pgoffs[foreign[0]]
            raise BrokenExpectation(f"on the {place}, page {pgoff} holds neither generation 1 nor 2 whole")
        lost: npt.NDArray[np.bool_] = held == 1
        return lost


def late_store(lab: Lab, nr_pages: int, share: float = 0.1) -> LateStore:
    """Run the experiment on `lab` and return what came out.

    Raises
    ------
    LabError
        If it cannot run so (fewer than 2 pages, too little RAM ...).
    BrokenExpectation
        If a step did not do what it must, such as a page that holds neither generation.

    """
    steps = _Experiment(lab, nr_pages, share)
    accounted = is_accounted(steps.mapping)
    steps.read_all()
    remap_us = steps.remap()
    fault_us = steps.time_faults()
    steps.store_and_clean()
    before = steps.unmapped_so_far()
    steps.store_again()
    lab.look(steps.process, steps.mapping, "before msync")
    steps.mapping.flush()
    lab.look(steps.process, steps.mapping, "after msync")
    after = steps.unmapped_so_far()
    if before != after:
        raise BrokenExpectation(f"pages were reclaimed or unmapped after the writeback: {before} {after}")
    memory = measure_mapping(steps.machine, steps.process)
    counters = steps.machine.vmstat.snapshot()
    return LateStore(
        nr_pages=nr_pages,
        nr_dirty_pages=len(steps.dirty_pgoffs),
        nr_lost_pages=steps.crash_and_read(accounted=accounted),
        accounted=accounted,
        unaccounted_dirty_max=counters["unaccounted_dirty_max"],
        mkclean_calls=counters["mkclean_calls"],
        mkclean_pte_visits=counters["mkclean_pte_visits"],
        mkclean_node_visits=counters["mkclean_node_visits"],
        remap_us_per_page=remap_us,
        fault_us=fault_us,
        memory=memory,
    )
