"""late_store on the kernel underneath: what a HostProcess can show of it.

Linux since 4.0 makes an ordinary mapping of every run of pages, so nothing is lost, and a permutation ends where the
process has vm.max_map_count of them. What only an emulated kernel can count is not known here.
"""

import errno
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emu.host import HostProcess
from emu.lab.errors import BrokenExpectation, LabError
from emu.lab.lab import Lab
from emu.lab.late_store import FILE_NAME
from emu.lab.rows import Row
from emu.lab.stamps import cyclic_permutation, page_words
from emu.lab.verify import read_by_ordinary_process
from fsbackend.bdi import parse_caps

HOST_RMAP = "linux"
"""How a row names the kernel underneath instead of a reverse map."""
Pgoffs = npt.NDArray[np.int64]
_PROBE_PAGES = 1000
_READ_PAGES = 4096


@dataclass(frozen=True, slots=True)
class HostLateStore:
    """What came out. Times in microseconds, memory in bytes; `note` is a sentence on what was otherwise, or None."""

    nr_pages: int
    nr_remapped: int
    nr_dirty_pages: int
    nr_lost_pages: int
    remap_us_per_page: float
    fault_us: float
    nr_vmas: int
    pte_bytes: int
    note: str | None


def max_map_count() -> int:
    """Return how many mappings a process of this kernel may have."""
    return int(Path("/proc/sys/vm/max_map_count").read_text())


def host_late_store(lab: Lab, nr_pages: int, share: float = 0.1) -> HostLateStore:
    """Do late_store's work on the real kernel, on the lab's ground.

    Raises
    ------
    LabError
        For fewer than 2 pages, or a share that is none.
    BrokenExpectation
        If a page holds what nobody stored.

    """
    if nr_pages < 2 or not 0 < share <= 1:
        raise LabError(f"late_store needs at least 2 pages and a share up to 1, not {nr_pages} and {share}")
    path = lab.stamped_file(FILE_NAME, nr_pages)
    with HostProcess() as process:
        pgoffs, found = _Steps(lab, process, path, nr_pages).run(share)
    return replace(found, nr_lost_pages=_crash_and_count(lab, pgoffs, nr_pages))


class _Steps:
    """The steps in their order, while the process lives."""

    def __init__(self, lab: Lab, process: HostProcess, path: Path, nr_pages: int) -> None:
        self.lab, self.process, self.nr_pages = lab, process, nr_pages
        self.page_nbytes = process.page_size
        self.empty_pte_nbytes = process.mm.pte_nbytes
        self.path = path
        self.mapping = process.mmap(path, nr_pages * self.page_nbytes)
        self.vaddrs = np.uint64(self.mapping.vaddr) + np.arange(nr_pages, dtype=np.uint64) * np.uint64(self.page_nbytes)

    def run(self, share: float) -> tuple[Pgoffs, HostLateStore]:
        """Read, remap, store twice with a writeback between, msync; return the pages stored to, and what came out."""
        with self.lab.progress.step("reading the file in", self.nr_pages) as advance:
            for part in np.array_split(self.vaddrs, -(-self.nr_pages // _READ_PAGES)):
                self.process.run(part, 0)
                advance(len(part))
        # order[i] is the page of the file that lies i pages into the mapping.
        order = cyclic_permutation(self.nr_pages, self.lab.rng)
        with self.lab.progress.step("remapping, one page a call"):
            done, remap_s, failed = self.process.remap_in_turn(self.vaddrs, order, 0, self.mapping.vaddr)
        if failed and failed != errno.ENOMEM:
            raise OSError(failed, f"remap_file_pages: {os.strerror(failed)}")
        pte_nbytes = self.process.mm.pte_nbytes - self.empty_pte_nbytes
        probe = self.lab.rng.choice(self.nr_pages, min(_PROBE_PAGES, self.nr_pages), replace=False)
        missed_s, hit_s = self.process.time_faults(self.vaddrs[probe])
        nr_dirty = min(max(1, round(self.nr_pages * share)), done)
        slots = np.sort(self.lab.rng.choice(done, nr_dirty, replace=False))
        self._store(slots, order[slots], 1)
        self._fsync()
        self._store(slots, order[slots], 2)
        with self.lab.progress.step("msync"):
            self.mapping.flush()
        start, end = self.mapping.vaddr, self.mapping.vaddr + self.nr_pages * self.page_nbytes
        vmas = sum(start <= vma.start < end for vma in self.process.vmas)
        note = None
        if failed:
            note = (
                f"{done:,} of {self.nr_pages:,} pages were remapped, then remap_file_pages failed with ENOMEM: "
                f"a process may have {max_map_count():,} mappings (vm.max_map_count)"
            )
        outcome = HostLateStore(
            nr_pages=self.nr_pages,
            nr_remapped=done,
            nr_dirty_pages=nr_dirty,
            nr_lost_pages=0,
            remap_us_per_page=remap_s / max(done, 1) * 1e6,
            fault_us=max(missed_s - hit_s, 0) * 1e6,
            nr_vmas=vmas,
            pte_bytes=pte_nbytes,
            note=note,
        )
        return order[slots], outcome

    def _store(self, slots: Pgoffs, pgoffs: Pgoffs, generation: int) -> None:
        stamps = page_words(self.lab.seed, pgoffs, generation, self.page_nbytes)
        with self.lab.progress.step(f"storing generation {generation}", len(slots)) as advance:
            for vaddr, stamp in zip(self.vaddrs[slots].tolist(), stamps, strict=True):
                self.process.store(vaddr, stamp.data)
                advance(1)

    def _fsync(self) -> None:
        with self.lab.progress.step("writing back"):
            fd = os.open(self.path, os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _crash_and_count(lab: Lab, pgoffs: Pgoffs, nr_pages: int) -> int:
    """Kill the filesystem's daemon where bytes survive that, and count the pages without generation 2 anywhere."""
    if parse_caps(lab.options.caps).account_dirty:
        lab.ground.crash()
    places = lab.ground.places(FILE_NAME)
    with lab.progress.step("reading by an ordinary process"):
        found = read_by_ordinary_process(list(places.values()), lab.seed, lab.page_size)
    lost = np.zeros(nr_pages, np.bool_)
    untouched = np.ones(nr_pages, np.bool_)
    untouched[pgoffs] = False
    for place, pages in zip(places, found, strict=True):
        if len(pages) != nr_pages or pages[untouched].any() or (pages[pgoffs] > 2).any():
            raise BrokenExpectation(f"on the {place}, a page holds what nobody stored there")
        lost[pgoffs] |= pages[pgoffs] != 2
    return int(lost.sum())


def host_row(lab: Lab, nr_pages: int, share: float) -> Row:
    """Run it, and return the row of a comparison; what the host cannot tell is None."""
    began_s = time.perf_counter()
    found = asdict(host_late_store(lab, nr_pages, share))
    return Row(
        rmap=HOST_RMAP,
        caps=lab.options.caps,
        format=lab.options.format,
        pages=nr_pages,
        dirty_pages=found["nr_dirty_pages"],
        lost_pages=found["nr_lost_pages"],
        pte_bytes=found["pte_bytes"],
        remap_us_per_page=round(found["remap_us_per_page"], 3),
        fault_us=round(found["fault_us"], 3),
        nr_vmas=found["nr_vmas"],
        seconds=round(time.perf_counter() - began_s, 3),
        note=found["note"],
    )
