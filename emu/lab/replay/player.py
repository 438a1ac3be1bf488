"""A trace, played on an emulated process: accesses in batches, the program's mmap calls between them.

Nothing that hits the TLB enters Python. What no call of the trace maps (a bare lackey text has no calls at all) is
mapped as anonymous memory when it is first touched, and counted.
"""

import errno
import mmap as host_mmap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emu.errors import BusError, OutOfMemory, SegmentationFault, Signal
from emu.lab.errors import LabError
from emu.lab.lab import Lab
from emu.lab.memtrace.container import Trace
from emu.lab.memtrace.words import Call, Label, Op, U64Array, vaddrs_of
from emu.lab.replay.expand import Batch, expand, values_of
from emu.lab.replay.files import MappedFiles
from emu.lab.replay.shadow import Shadow, cut_at_pages, sizes_of_kinds, stores_of
from emu.lab.replay.space import LOWEST, Relocation, Sort, Space
from emu.lab.replay.survey import Survey, cut_at_windows

if TYPE_CHECKING:
    from emu.machine import Machine
    from emu.process import Process

_KEPT_FLAGS = (
    host_mmap.MAP_SHARED | host_mmap.MAP_PRIVATE | host_mmap.MAP_ANONYMOUS | getattr(host_mmap, "MAP_POPULATE", 0x8000)
)
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_MREMAP_MAYMOVE_FIXED = 3
_READ_WRITE_EXEC = 7
_SIGNALS_MAX = 10_000
_SORTS = {Label.STACK: Sort.STACK, Label.HEAP: Sort.HEAP, Label.PROGRAM: Sort.PROGRAM}


@dataclass(slots=True)
class Mishaps:
    """What did not go as in the program: accesses that got a signal, calls that were refused; the first of each."""

    signals: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    first_signal: str = ""
    first_refused: str = ""


class Player:
    """Plays one trace on one process of a booted machine.

    `anonymous` passes over the trace's mappings: all that is touched becomes anonymous memory. `on_window` is called
    at the end of each window of the trace with the number of accesses so far.
    """

    def __init__(
        self,
        lab: Lab,
        trace: Trace,
        survey: Survey,
        *,
        anonymous: bool = False,
        on_window: Callable[[int], None] = lambda _position: None,
    ) -> None:
        self.lab = lab
        self.machine: Machine = lab.machine
        self.process: Process = self.machine.spawn()
        self.page_size = self.process.page_size
        self.trace = trace
        self.survey = survey
        self.anonymous = anonymous
        self.space = Space()
        self.ever = Space()
        self.shadows: list[tuple[str, Shadow]] = []
        self.mishaps = Mishaps()
        self.calls: Counter[str] = Counter()
        self.position = 0
        self.nr_pieces = 0
        self.nr_on_demand = 0
        self.copied_nbytes = 0
        self.relocation = Relocation(
            trace, survey, self.process.mm.task_size, self.page_size, self.machine.format.name
        )
        # Shared mappings that can be checked: their places in files, by the number that `space` knows.
        self.shared: list[tuple[int, int]] = []
        self._on_window = on_window
        # Last: what it makes is removed by close(), which nobody calls if this fails.
        self.files = MappedFiles(trace, lab.directory)

    def play(self, advance: Callable[[int], None]) -> None:
        """Play the whole trace; `advance` is called with accesses done.

        Raises
        ------
        LabError
            If the machine's memory does not suffice, or next to nothing of the trace works.

        """
        length = self.survey.window_length
        for step in self.trace.steps():
            if isinstance(step, Call):
                self._call(step)
                continue
            for words in cut_at_windows(step, self.position, length):
                if len(words):
                    self._accesses(words)
                    self.position += len(words)
                    if self.position % length == 0:
                        self._on_window(self.position)
            advance(len(step))
        if self.position % length:
            self._on_window(self.position)

    # Accesses

    def _accesses(self, words: U64Array) -> None:
        vaddrs = self.relocation.vaddrs(vaddrs_of(words))
        batch = expand(vaddrs, words, self.survey.page_shift, self.nr_pieces)
        self._map_on_demand(batch.pages)
        self.nr_pieces += len(batch.vaddrs)
        skipped = self._run(batch)
        if self.shadows:
            self._note_stores(batch, skipped)

    def _run(self, batch: Batch) -> list[int]:
        """Do a batch; return which accesses got a signal and were passed over."""
        skipped: list[int] = []
        task = self.process.task(batch.vaddrs, batch.kinds, batch.values)
        while not task.finished:
            try:
                self.machine.run([task])
            except Signal as signal:
                self._note_signal(signal)
                skipped.append(task.position)
                task.position += 1
        return skipped

    def _note_signal(self, signal: Signal) -> None:
        if isinstance(signal, OutOfMemory):
            raise LabError(
                f"the machine's RAM is too small for this trace ({signal}): give more --ram, or --swap"
            ) from None
        self.mishaps.signals[signal.name] += 1
        self.mishaps.first_signal = self.mishaps.first_signal or f"{signal}, near access {self.position:,}"
        if self.mishaps.signals.total() > _SIGNALS_MAX:
            raise LabError(f"{_SIGNALS_MAX:,} accesses got a signal, the first: {self.mishaps.first_signal}")

    def _map_on_demand(self, pages: U64Array) -> None:
        vaddrs = pages << np.uint64(self.survey.page_shift)
        missing = pages[self.space.sorts_at(vaddrs) == Sort.UNMAPPED]
        if not len(missing):
            return
        self.nr_on_demand += len(missing)
        for run in np.split(missing, np.flatnonzero(np.diff(missing) != 1) + 1):
            start, nbytes = int(run[0]) << self.survey.page_shift, len(run) << self.survey.page_shift
            try:
                self.map_missing(start, start + nbytes, _READ_WRITE_EXEC)
            except OSError as error:
                self._refused("mmap", start, error)

    def map_missing(self, start: int, end: int, prot: int) -> None:
        """Map what no call of the trace maps."""
        flags = host_mmap.MAP_PRIVATE | host_mmap.MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE
        self.process.sys_mmap(start, end - start, prot, flags, -1, 0)
        self.place(start, end, Sort.ON_DEMAND)

    def place(self, start: int, end: int, sort: Sort, shared: int = -1) -> None:
        """Note that a range is mapped, and which file it shares, if that can be checked."""
        self.space.add(start, end, sort, shared)
        self.ever.add(start, end, sort)

    def _note_stores(self, batch: Batch, skipped: list[int]) -> None:
        """Tell the shadows of shared files what was stored into them."""
        done = stores_of(batch.kinds)
        done[skipped] = False
        at = np.flatnonzero(done)
        vaddrs, values = batch.vaddrs[at], batch.values[at]
        nbytes = sizes_of_kinds(batch.kinds[at])
        low, high = self._shared_span()
        near = (vaddrs < np.uint64(high)) & (vaddrs + nbytes.astype(np.uint64) > np.uint64(low))
        if not near.any():
            return
        vaddrs, nbytes, values = cut_at_pages(vaddrs[near], nbytes[near], values[near], self.page_size)
        shadows, places = self.places_of(vaddrs)
        for number in np.unique(shadows[shadows >= 0]).tolist():
            mine = shadows == number
            self.shadows[number][1].store(places[mine], nbytes[mine], values[mine])

    def _shared_span(self) -> tuple[int, int]:
        shared = [each for each in self.space.within(0, 1 << 64) if each[3] >= 0]
        return (shared[0][0], shared[-1][1]) if shared else (0, 0)

    def places_of(self, vaddrs: U64Array) -> tuple[npt.NDArray[np.int64], U64Array]:
        """Return into which shadow each store goes (-1: none), and where in its file; no store crosses a page."""
        shadows = np.full(len(vaddrs), -1, np.int64)
        places = np.zeros(len(vaddrs), np.uint64)
        for start, end, _sort, shared in self.space.within(0, 1 << 64):
            if shared >= 0:
                inside = (vaddrs >= np.uint64(start)) & (vaddrs < np.uint64(end))
                number, delta = self.shared[shared]
                shadows[inside] = number
                places[inside] = vaddrs[inside] + np.uint64(delta % (1 << 64))
        return shadows, places

    # Calls

    def _call(self, call: Call) -> None:
        vaddr = self.relocation.vaddr(call.vaddr)
        self.calls[call.op.name.lower()] += 1
        try:
            if call.op in {Op.COPY_IN, Op.COPY_OUT}:
                self._copy(call, vaddr)
            elif not self.anonymous:
                self.apply(call, vaddr)
        except OSError as error:
            self._refused(call.op.name.lower(), vaddr, error)

    def _refused(self, name: str, vaddr: int, error: OSError) -> None:
        word = errno.errorcode.get(error.errno or 0, str(error.errno))
        self.mishaps.refused[f"{name}: {word}"] += 1
        self.mishaps.first_refused = self.mishaps.first_refused or f"{name} at {vaddr:#x}: {error.strerror or error}"

    def apply(self, call: Call, vaddr: int) -> None:
        """Do a call that changes mappings."""
        process, nbytes = self.process, call.nbytes
        if call.op == Op.MMAP:
            self.map(call, vaddr)
        elif call.op == Op.MUNMAP:
            process.munmap(vaddr, nbytes)
            self.space.remove(vaddr, vaddr + self.whole_pages(nbytes))
        elif call.op == Op.MPROTECT:
            process.mprotect(vaddr, nbytes, call.prot)
        elif call.op == Op.MREMAP:
            self.remap(call, vaddr, self.relocation.vaddr(call.new_vaddr))
        elif call.op == Op.MADVISE:
            process.madvise(vaddr, nbytes, call.flags)
        elif call.op == Op.MSYNC:
            process.msync(vaddr, nbytes, call.flags)
        elif call.op == Op.REMAP_FILE_PAGES:
            process.remap_file_pages(vaddr, nbytes, call.prot, call.offset, call.flags)
            self._note_window(vaddr & -self.page_size, nbytes & -self.page_size, call.offset)

    def _note_window(self, vaddr: int, nbytes: int, pgoff: int) -> None:
        """Note that a range of a shared mapping shows the file from page `pgoff` on."""
        for _start, _end, sort, shared in self.space.within(vaddr, vaddr + 1):
            if shared >= 0:
                self.shared.append((self.shared[shared][0], pgoff * self.page_size - vaddr))
                self.place(vaddr, vaddr + nbytes, sort, len(self.shared) - 1)

    def whole_pages(self, nbytes: int) -> int:
        """Round up to pages."""
        return nbytes + self.page_size - 1 & -self.page_size

    def map(self, call: Call, vaddr: int) -> None:
        """Map memory or a file where the program had it."""
        # The program's own kernel had room for it; the machine needs room for what is touched only.
        flags = call.flags & _KEPT_FLAGS | _MAP_FIXED | _MAP_NORESERVE
        end = vaddr + self.whole_pages(call.nbytes)
        if end <= LOWEST:
            return
        if call.file < 0:
            self.process.sys_mmap(vaddr, call.nbytes, call.prot, flags | host_mmap.MAP_ANONYMOUS, -1, 0)
            self.place(vaddr, end, _SORTS.get(call.label, Sort.ANONYMOUS))
            return
        path = self.trace.files[call.file].path
        shared = -1
        if flags & host_mmap.MAP_SHARED and call.prot & host_mmap.PROT_WRITE:
            copy = self.files.copy(path)
            self.process.sys_mmap(vaddr, call.nbytes, call.prot, flags, copy, call.offset)
            shared = self._share(path, call.offset - vaddr)
        else:
            descriptor = self._reader(path)
            self.process.sys_mmap(vaddr, call.nbytes, call.prot, flags, descriptor, call.offset)
        sort = Sort.SHARED_FILE if flags & host_mmap.MAP_SHARED else _SORTS.get(call.label, Sort.LIBRARY)
        self.place(vaddr, end, sort, shared)

    def _reader(self, path: str) -> int | str:
        """Return what to map for reading: the copy, if the program writes to the file elsewhere."""
        copy = self.files.copies.get(path)
        return self.files.descriptor(path) if copy is None else str(copy)

    def _share(self, path: str, delta: int) -> int:
        """Return the number of a shared mapping of a file, whose addresses plus `delta` are places in the file."""
        known = [name for name, _ in self.shadows]
        if path not in known:
            self.shadows.append((path, Shadow(self.files.copies[path].read_bytes())))
            known.append(path)
        self.shared.append((known.index(path), delta))
        return len(self.shared) - 1

    def remap(self, call: Call, vaddr: int, new_vaddr: int) -> None:
        """Grow, shrink or move a mapping to where the program's kernel put it."""
        old = self.space.within(vaddr, vaddr + self.whole_pages(call.nbytes))
        if new_vaddr == vaddr:
            self.process.mremap(vaddr, call.nbytes, call.new_nbytes, 0)
        else:
            self.process.mremap(vaddr, call.nbytes, call.new_nbytes, _MREMAP_MAYMOVE_FIXED, new_vaddr)
        self.space.remove(vaddr, vaddr + self.whole_pages(call.nbytes))
        sort, shared = (old[0][2], old[0][3]) if old else (Sort.ANONYMOUS, -1)
        if shared >= 0:
            number, delta = self.shared[shared]
            self.shared.append((number, delta + vaddr - new_vaddr))
            shared = len(self.shared) - 1
        self.place(new_vaddr, new_vaddr + self.whole_pages(call.new_nbytes), sort, shared)

    def _copy(self, call: Call, vaddr: int) -> None:
        """Let the kernel read or write the program's memory, as read(2) and write(2) do."""
        if not call.nbytes:
            return
        first, last = vaddr >> self.survey.page_shift, vaddr + call.nbytes - 1 >> self.survey.page_shift
        self._map_on_demand(np.arange(first, last + 1, dtype=np.uint64))
        try:
            if call.op == Op.COPY_OUT:
                self.process.load(vaddr, call.nbytes)
            else:
                nr_words = -(-call.nbytes // 8)
                data = values_of(self.nr_pieces, nr_words).view(np.uint8)[: call.nbytes]
                self.nr_pieces += nr_words
                self.process.store(vaddr, data)
                self._note_copy(vaddr, data)
        except (SegmentationFault, BusError) as signal:
            self._note_signal(signal)
        self.copied_nbytes += call.nbytes

    def _note_copy(self, vaddr: int, data: npt.NDArray[np.uint8]) -> None:
        if not self.shadows:
            return
        starts = np.arange(vaddr, vaddr + len(data), dtype=np.uint64)
        shadows, places = self.places_of(starts)
        for number in np.unique(shadows[shadows >= 0]).tolist():
            mine = shadows == number
            single = np.ones(int(mine.sum()), np.int64)
            self.shadows[number][1].store(places[mine], single, data[mine].astype(np.uint64))

    def close(self) -> None:
        """Close the files and remove copies."""
        self.files.close()
