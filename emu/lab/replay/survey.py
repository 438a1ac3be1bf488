"""One pass over a trace before any machine runs: what is touched, and when first.

The trace is cut into windows of equally many accesses. Of each one the working set is known afterwards (Denning, "The
Working Set Model for Program Behavior", 1968): the distinct pages that it touches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.lab.memtrace.container import Trace
from emu.lab.memtrace.words import Call, Op, U64Array, vaddrs_of
from emu.lab.replay.expand import no_recent_pages, writable_words
from emu.lab.replay.kernels import touched_pages

WINDOWS = 64


@dataclass(frozen=True, slots=True)
class Window:
    """Distinct pages that a stretch of the trace touches; `end` is the number of accesses up to where it ends."""

    end: int
    pages: int
    code_pages: int
    data_pages: int
    stored_pages: int
    pages_so_far: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What a trace touches, in pages of `page_shift`; `pages` is sorted, `first_order` says who came how early."""

    page_shift: int
    nr_accesses: int
    by_kind: dict[str, int]
    windows: list[Window]
    pages: U64Array
    first_order: U64Array
    stored_pages: U64Array
    nr_mmaps: int

    @property
    def window_length(self) -> int:
        """Accesses in a window."""
        return window_length(self.nr_accesses)


def window_length(nr_accesses: int) -> int:
    """Return how many accesses make a window of a trace."""
    return max(1, -(-nr_accesses // WINDOWS))


class _Order:
    """Distinct pages in order of appearance."""

    def __init__(self) -> None:
        self._sorted: U64Array = np.zeros(0, np.uint64)
        self._found: list[U64Array] = []

    def add(self, pages: U64Array) -> None:
        distinct, first = np.unique(pages, return_index=True)
        at = np.searchsorted(self._sorted, distinct)
        known = np.zeros(len(distinct), np.bool_)
        inside = at < len(self._sorted)
        known[inside] = self._sorted[at[inside]] == distinct[inside]
        if known.all():
            return
        fresh = distinct[~known]
        self._found.append(fresh[np.argsort(first[~known], kind="stable")])
        self._sorted = np.insert(self._sorted, at[~known], fresh)

    def __len__(self) -> int:
        return len(self._sorted)

    def order(self) -> U64Array:
        return np.concatenate([np.zeros(0, np.uint64), *self._found])


class _Surveyor:
    def __init__(self, page_shift: int, nr_accesses: int) -> None:
        self.shift = page_shift
        self.length = window_length(nr_accesses)
        self.position = 0
        self.by_kind = np.zeros(4, np.int64)
        self.nr_mmaps = 0
        self.order = _Order()
        self.stored = _Order()
        self.windows: list[Window] = []
        self._code: list[U64Array] = []
        self._data: list[U64Array] = []
        self._written: list[U64Array] = []

    def accesses(self, words: U64Array) -> None:
        """Take accesses, all of one window."""
        words = writable_words(words)
        code, data, stored = (np.empty(2 * len(words), np.uint64) for _ in range(3))
        counts = np.zeros(7, np.uint64)
        vaddrs = writable_words(vaddrs_of(words))
        touched_pages(words, vaddrs, np.uint64(self.shift), code, data, stored, no_recent_pages(3), counts)
        self.by_kind += counts[3:].astype(np.int64)
        nr_code, nr_data, nr_stored = counts[:3].tolist()
        code_pages, data_pages, written = code[:nr_code], data[:nr_data], stored[:nr_stored]
        self._take(code_pages, data_pages, written)
        self.position += len(words)

    def _take(self, code: U64Array, data: U64Array, written: U64Array) -> None:
        self.order.add(np.concatenate([code, data]))
        self.stored.add(written)
        self._code.append(np.unique(code))
        self._data.append(np.unique(data))
        self._written.append(np.unique(written))

    def call(self, call: Call) -> None:
        """Take a call; the kernel's own accesses touch pages, too."""
        if call.op in {Op.COPY_IN, Op.COPY_OUT} and call.nbytes:
            first, last = call.vaddr >> self.shift, call.end - 1 >> self.shift
            pages = np.arange(first, last + 1, dtype=np.uint64)
            nothing = np.zeros(0, np.uint64)
            self._take(nothing, pages, pages if call.op == Op.COPY_IN else nothing)
        self.nr_mmaps += call.op == Op.MMAP

    def end_window(self) -> None:
        code, data, written = (np.unique(np.concatenate(x)) for x in (self._code, self._data, self._written))
        both = len(np.union1d(code, data))
        self.windows.append(Window(self.position, both, len(code), len(data), len(written), len(self.order)))
        self._code, self._data, self._written = [], [], []


def survey(trace: Trace, page_shift: int, advance: Callable[[int], None]) -> Survey:
    """Look through a trace; `advance` is called with accesses seen."""
    seen = _Surveyor(page_shift, trace.nr_accesses)
    for step in trace.steps():
        if isinstance(step, Call):
            seen.call(step)
            continue
        for part in cut_at_windows(step, seen.position, seen.length):
            seen.accesses(part)
            if seen.position % seen.length == 0:
                seen.end_window()
        advance(len(step))
    if seen.position % seen.length:
        seen.end_window()
    order = seen.order.order()
    ranks = np.argsort(order).astype(np.uint64)
    by_kind = dict(zip(("instructions", "loads", "stores", "modifies"), seen.by_kind.tolist(), strict=True))
    return Survey(
        page_shift, trace.nr_accesses, by_kind, seen.windows, np.sort(order), ranks,
        np.sort(seen.stored.order()), seen.nr_mmaps,
    )  # fmt: skip


def cut_at_windows(words: U64Array, position: int, length: int) -> list[U64Array]:
    """Return accesses from `position` on in pieces that end where windows of `length` end."""
    borders = range(length - position % length, len(words), length)
    parts: list[npt.NDArray[np.uint64]] = np.split(words, list(borders))
    return parts
