"""What is mapped where while a trace runs, and where it goes if the machine's address space is too small for it."""

from bisect import bisect_left, bisect_right
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from emu.lab.errors import LabError
from emu.lab.memtrace.container import Trace
from emu.lab.memtrace.words import Call, Op, U64Array
from emu.lab.replay.survey import Survey
from emu.units import format_size

LOWEST = 0x10000
"""What lies below cannot be mapped (vm.mmap_min_addr)."""

Range = tuple[int, int]


class Sort(IntEnum):
    """Sorts of mappings that a result tells apart."""

    UNMAPPED = 0
    PROGRAM = 1
    LIBRARY = 2
    SHARED_FILE = 3
    HEAP = 4
    STACK = 5
    ANONYMOUS = 6
    ON_DEMAND = 7


SORT_NAMES = {
    Sort.UNMAPPED: "unmapped",
    Sort.PROGRAM: "program",
    Sort.LIBRARY: "libraries and private files",
    Sort.SHARED_FILE: "shared files",
    Sort.HEAP: "heap",
    Sort.STACK: "stack",
    Sort.ANONYMOUS: "anonymous memory",
    Sort.ON_DEMAND: "mapped by no call of the trace",
}


class Space:
    """Ranges of addresses, each with its sort and a number of the user's; none overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, Sort, int]] = []
        self._arrays: tuple[U64Array, U64Array, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._ranges)

    def add(self, start: int, end: int, sort: Sort, number: int = -1) -> None:
        """Put a range there, over whatever was there."""
        self.remove(start, end)
        at = bisect_left(self._starts, start)
        self._starts.insert(at, start)
        self._ranges.insert(at, (start, end, sort, number))

    def remove(self, start: int, end: int) -> None:
        """Take away what lies in a range."""
        self._arrays = None
        low = max(bisect_right(self._starts, start) - 1, 0)
        high = bisect_left(self._starts, end)
        kept = []
        for first, last, sort, number in self._ranges[low:high]:
            if first < start:
                kept.append((first, min(last, start), sort, number))
            if last > end:
                kept.append((max(first, end), last, sort, number))
        self._ranges[low:high] = kept
        self._starts[low:high] = [each[0] for each in kept]

    def within(self, start: int, end: int) -> list[tuple[int, int, Sort, int]]:
        """Return the ranges, cut to [start, end)."""
        low = max(bisect_right(self._starts, start) - 1, 0)
        high = bisect_left(self._starts, end)
        return [
            (max(first, start), min(last, end), sort, number)
            for first, last, sort, number in self._ranges[low:high]
            if last > start
        ]

    def sorts_at(self, vaddrs: U64Array) -> npt.NDArray[np.int64]:
        """Return the Sort at each address, UNMAPPED where nothing is."""
        if self._arrays is None:
            starts = np.array([0, *self._starts], np.uint64)
            ends = np.array([0, *(each[1] for each in self._ranges)], np.uint64)
            sorts = np.array([0, *(each[2] for each in self._ranges)], np.int64)
            self._arrays = starts, ends, sorts
        starts, ends, sorts = self._arrays
        at = np.searchsorted(starts, vaddrs, side="right") - 1
        return np.where(vaddrs < ends[at], sorts[at], int(Sort.UNMAPPED))


def _merged(ranges: list[Range]) -> list[Range]:
    """Return sorted ranges that neither overlap nor touch."""
    done: list[Range] = []
    for start, end in sorted(ranges):
        if done and start <= done[-1][1]:
            done[-1] = (done[-1][0], max(done[-1][1], end))
        else:
            done.append((start, end))
    return done


def _all_ranges(trace: Trace, survey: Survey, page_size: int) -> list[Range]:
    """Return everything that a trace maps or touches, in whole pages."""
    up = page_size - 1
    found: list[Range] = []
    for step in trace.steps():
        if isinstance(step, Call) and step.op in {Op.MMAP, Op.MREMAP}:
            found.append((step.vaddr & ~up, step.end + up & ~up))
            if step.op == Op.MREMAP:
                found.append((step.new_vaddr & ~up, step.new_vaddr + step.new_nbytes + up & ~up))
    shift = survey.page_shift
    breaks = np.flatnonzero(np.diff(survey.pages) != 1) + 1
    runs = [run for run in np.split(survey.pages, breaks) if len(run)]
    found.extend((int(run[0]) << shift, int(run[-1]) + 1 << shift) for run in runs)
    return _merged(found)


class Relocation:
    """Moves what lies above the machine's user space (or below what can be mapped) into a free part of it.

    Everything that fits stays where it was. `moved` tells old start, end and new start of what did not.

    Raises
    ------
    LabError
        If the address space is too small for all that the trace maps.

    """

    def __init__(self, trace: Trace, survey: Survey, task_size: int, page_size: int, format_name: str) -> None:
        ranges = _all_ranges(trace, survey, page_size)
        fits = [(start, end) for start, end in ranges if start >= LOWEST and end <= task_size]
        strays = [(start, end) for start, end in ranges if start < LOWEST or end > task_size]
        self.moved: list[tuple[int, int, int]] = []
        self._starts, self._deltas, self._ends = (np.zeros(0, np.uint64) for _ in range(3))
        if not strays:
            return
        # A page on each side stays free, so that nothing merges that did not touch.
        needed = sum(end - start + page_size for start, end in strays) + page_size
        place = self._gap(fits, needed, task_size & -page_size)
        if place is None:
            total = sum(end - start for start, end in ranges)
            raise LabError(
                f"{trace.name} maps {format_size(total)}, which do not fit into the address space of {format_name}: "
                "choose a format with more"
            )
        place += page_size
        for start, end in strays:
            self.moved.append((start, end, place))
            place += end - start + page_size
        self._starts = np.array([start for start, _, _ in self.moved], np.uint64)
        self._ends = np.array([end - 1 for _, end, _ in self.moved], np.uint64)
        self._deltas = np.array([(new - start) % (1 << 64) for start, _, new in self.moved], np.uint64)

    @staticmethod
    def _gap(fits: list[Range], needed: int, top: int) -> int | None:
        """Return where the highest gap of `needed` bytes begins."""
        for below, above in zip([(0, LOWEST), *fits][::-1], [*fits, (top, top)][::-1], strict=True):
            if above[0] - below[1] >= needed:
                return above[0] - needed
        return None

    def vaddrs(self, vaddrs: U64Array) -> U64Array:
        """Return where addresses are now; those that stay are not copied."""
        if not len(self._starts):
            return vaddrs
        at = np.searchsorted(self._starts, vaddrs, side="right").astype(np.int64) - 1
        inside = (at >= 0) & (vaddrs <= self._ends[at])
        if not inside.any():
            return vaddrs
        moved: U64Array = vaddrs + np.where(inside, self._deltas[at], np.uint64(0))
        return moved

    def vaddr(self, vaddr: int) -> int:
        """Return where one address is now."""
        return int(self.vaddrs(np.array([vaddr], np.uint64))[0])
