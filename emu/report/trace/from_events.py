"""The emulated kernel's events as a trace: faults, system calls and pauses on processes, kernel threads, counters."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

from emu.mm_types.events import Counter as What
from emu.mm_types.events import EventKind
from emu.report.trace.book import FLUSHER, KERNEL_PID, KSWAPD, MACHINE_PID, Book
from emu.report.trace.model import Args, Counter, Instant, Lane, Point, Slice, Thread, Trace, to_ns

if TYPE_CHECKING:
    from collections.abc import Callable

SYSCALLS = {
    9: "mmap",
    10: "mprotect",
    11: "munmap",
    25: "mremap",
    26: "msync",
    27: "mincore",
    28: "madvise",
    57: "fork",
    77: "ftruncate",
    149: "mlock",
    150: "munlock",
    151: "mlockall",
    152: "munlockall",
    216: "remap_file_pages",
    231: "exit_group",
}
"""Linux arch/x86/entry/syscalls/syscall_64.tbl; a number that is missing here shows as itself."""

_COUNTERS = {
    What.NR_DIRTY: ("nr_dirty", "pages"),
    What.NR_WRITEBACK: ("nr_writeback", "pages"),
    What.NR_FREE: ("nr_free_pages", "pages"),
    What.BACKGROUND_THRESH: ("nr_dirty_background_threshold", "pages"),
    What.DIRTY_THRESH: ("nr_dirty_threshold", "pages"),
    What.NR_DIRTIED: ("nr_dirtied", "pages"),
    What.NR_WRITTEN: ("nr_written", "pages"),
    What.WRITE_BANDWIDTH: ("write bandwidth", "pages/s"),
    What.DIRTY_RATELIMIT: ("dirty_ratelimit", "pages/s"),
    What.TASK_RATELIMIT: ("task_ratelimit", "pages/s"),
    What.BDI_DIRTY: ("dirty and writeback", "pages"),
    What.BDI_THRESH: ("threshold", "pages"),
}


class Event(NamedTuple):
    """One record, as Python's own numbers."""

    time_s: float
    kind: int
    cpu: int
    flags: int
    mm: int
    mapping: int
    pfn: int
    vaddr: int
    pgoff: int
    arg: int
    duration_ns: int

    @property
    def end_ns(self) -> int:
        """When it was over."""
        return to_ns(self.time_s)

    @property
    def begin_ns(self) -> int:
        """When it began."""
        return to_ns(self.time_s) - self.duration_ns


def rows(events: npt.NDArray[Any]) -> list[Event]:
    """Return the records as Python tuples."""
    columns = [events[name].tolist() for name in Event._fields]
    return [Event(*values) for values in zip(*columns, strict=True)]


def fault_name(flags: int) -> str:
    """Return what a fault was, from its flags."""
    words = ["write" if flags & 1 else "fetch" if flags & 16 else "read"]
    words += [word for bit, word in ((2, "major"), (4, "nonlinear"), (8, "write-protected")) if flags & bit]
    return f"page fault: {', '.join(words)}"


class _Converter:
    """Goes through the records once and remembers what is in flight."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._machine = MACHINE_PID + book.base
        kernel = KERNEL_PID + book.base
        self.trace = Trace(processes={self._machine: "emulated machine", kernel: "kernel threads"})
        self._writes: dict[tuple[int, int], list[Event]] = {}
        self._running: dict[int, Event] = {}
        self._nr_cached = 0
        self._handlers: dict[int, Callable[[Event], None]] = {
            EventKind.FAULT: self._fault,
            EventKind.REMAP: self._remap,
            EventKind.MKCLEAN: self._mkclean,
            EventKind.WRITEBACK_START: self._writeback_start,
            EventKind.WRITEBACK_END: self._writeback_end,
            EventKind.DIRTIED: self._dirtied,
            EventKind.THROTTLE: self._throttle,
            EventKind.TLB_FLUSH: self._tlb_flush,
            EventKind.RECLAIM: self._reclaim,
            EventKind.SYSCALL: self._syscall,
            EventKind.POWER_OFF: self._power_off,
            EventKind.SWITCH: self._switch,
            EventKind.FSYNC: self._fsync,
            EventKind.ADD_TO_PAGE_CACHE: self._cached,
            EventKind.DELETE_FROM_PAGE_CACHE: self._cached,
            EventKind.FLUSHER: self._flusher,
            EventKind.COUNTER: self._counter,
            EventKind.SWAPOUT: self._swapped,
            EventKind.SWAPIN: self._swapped,
        }
        self._last: Event | None = None

    def take(self, event: Event) -> None:
        """Convert one record; of kinds that this fremap does not know, nothing."""
        self._last = event
        handler = self._handlers.get(event.kind)
        if handler is not None:
            handler(event)

    def finish(self) -> Trace:
        """End what never ended: writes in flight when the power went, who was running."""
        if self._last is not None:
            end_ns = self._last.end_ns
            for waiting in self._writes.values():
                for event in waiting:
                    self._write(event, end_ns, "never finished")
            for event in self._running.values():
                self._ran(event, end_ns)
        return self.trace

    def _slice(self, event: Event, name: str, args: Args, track: Thread | None = None) -> None:
        who = track or self._current(event)
        self.trace.slices.append(Slice(who, event.begin_ns, event.end_ns, name, args))

    def _instant(self, event: Event, name: str, args: Args, track: Lane | None = None) -> None:
        self.trace.instants.append(Instant(track or self._current(event), event.end_ns, name, args))

    def _point(self, event: Event, name: str, unit: str, value: int) -> None:
        self.trace.points.append(Point(Counter(self._machine, name, unit), event.end_ns, value))

    def _current(self, event: Event) -> Thread:
        """Return who runs on the event's CPU."""
        if event.mm:
            return self.book.thread(event.mm)
        running = self._running.get(event.cpu)
        return self.book.thread(running.mm) if running is not None else self.book.thread(0)

    def _fault(self, event: Event) -> None:
        self._slice(event, fault_name(event.flags), {"address": f"{event.vaddr:#x}"})

    def _remap(self, event: Event) -> None:
        args: Args = {"address": f"{event.vaddr:#x}", "pages": event.arg, "pgoff": event.pgoff}
        self._instant(event, "remap_file_pages", args)

    def _mkclean(self, event: Event) -> None:
        self._instant(event, "page_mkclean", {"pgoff": event.pgoff, "cleaned PTEs": event.arg})

    def _writeback_start(self, event: Event) -> None:
        self._writes.setdefault((event.mapping, event.pgoff), []).append(event)

    def _writeback_end(self, event: Event) -> None:
        waiting = self._writes.get((event.mapping, event.pgoff))
        if waiting:
            self._write(waiting.pop(0), event.end_ns, f"errno {event.flags}" if event.flags else "")

    def _write(self, start: Event, end_ns: int, failed: str) -> None:
        file = self.book.file(start.mapping)
        args: Args = {"file": file.name, "first page": start.pgoff, "pages": start.arg}
        if failed:
            args["failed"] = failed
        name = f"write {start.arg} pages"
        self.trace.slices.append(Slice(Lane(self._machine, f"I/O {file.bdi}"), start.end_ns, end_ns, name, args))

    def _dirtied(self, event: Event) -> None:
        self._point(event, "nr_dirty", "pages", event.arg)

    def _throttle(self, event: Event) -> None:
        args: Args = {"bdi": self.book.bdi(event.mapping)}
        end_ns = event.end_ns + event.arg * 1000
        who = self._current(event)
        self.trace.slices.append(Slice(who, event.end_ns, end_ns, "balance_dirty_pages: pause", args))

    def _tlb_flush(self, event: Event) -> None:
        self._instant(event, "tlb_flush", {"pages": "all" if event.arg < 0 else event.arg})

    def _reclaim(self, event: Event) -> None:
        if event.flags & 1:
            self._slice(event, "direct reclaim", {"reclaimed": event.arg})
        else:
            self._slice(event, "balance_pgdat", {"reclaimed": event.arg}, self.book.kthread(KSWAPD))

    def _syscall(self, event: Event) -> None:
        name = SYSCALLS.get(event.flags, f"syscall {event.flags}")
        args: Args = {"address": f"{event.vaddr:#x}"} if event.vaddr else {}
        if event.arg:
            args["errno"] = event.arg
        self._slice(event, name, args)

    def _power_off(self, event: Event) -> None:
        self._instant(event, "power off", {}, Lane(self._machine, "power"))

    def _switch(self, event: Event) -> None:
        before = self._running.get(event.cpu)
        if before is not None:
            self._ran(before, event.end_ns)
        self._running[event.cpu] = event

    def _ran(self, event: Event, end_ns: int) -> None:
        who = self.book.thread(event.mm)
        lane = Lane(self._machine, f"CPU {event.cpu}")
        self.trace.slices.append(Slice(lane, event.end_ns, end_ns, f"{who.name} {who.pid}"))

    def _fsync(self, event: Event) -> None:
        self._slice(event, "fdatasync", {"file": self.book.file(event.mapping).name})

    def _cached(self, event: Event) -> None:
        self._nr_cached += 1 if event.kind == EventKind.ADD_TO_PAGE_CACHE else -1
        self._point(event, "nr_file_pages", "pages", self._nr_cached)

    def _swapped(self, event: Event) -> None:
        name = "swap out" if event.kind == EventKind.SWAPOUT else "swap in"
        self._instant(event, name, {"area": event.arg, "slot": event.pgoff})

    def _flusher(self, event: Event) -> None:
        name = "wb_writeback: periodic" if event.flags & 2 else "wb_writeback: background"
        self._slice(event, name, {"writes": event.arg}, self.book.kthread(FLUSHER))

    def _counter(self, event: Event) -> None:
        if event.flags in _COUNTERS:
            name, unit = _COUNTERS[What(event.flags)]
            own = f"{self.book.bdi(event.mapping)} {name}" if event.mapping else name
            self._point(event, own, unit, event.arg)


def trace_of_events(events: npt.NDArray[Any], book: Book) -> Trace:
    """Return the trace that a run's events tell."""
    converter = _Converter(book)
    for event in rows(events):
        converter.take(event)
    return converter.finish()
