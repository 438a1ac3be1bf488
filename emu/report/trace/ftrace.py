"""The emulated kernel's events as /sys/kernel/tracing/trace prints them: what reads ftrace's text reads this.

Events that the kernel has tracepoints for carry its names and fields; FORMATS holds their print formats, as Linux
v6.18 shows them in events/*/*/format (v6.12 and before say bdi_setpoint and bdi_dirty in balance_dirty_pages). What
only an emulator sees (page_mkclean, writes in flight, counters) is written as user space writes to trace_marker, in
the words that trace viewers know: B|pid|name, E|pid, S and F with a cookie, I|pid|name, C|pid|name|value.

What the emulated kernel does not count is 0: instruction pointers, addresses of struct page, and of balance_dirty_pages
dirtied, dirtied_pause, paused and think.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from emu.mm_types.events import Counter, EventKind
from emu.report.trace.book import FLUSHER, IDLE, KSWAPD, Book
from emu.report.trace.from_events import Event, rows
from emu.report.trace.from_kernel import read_kernel_events
from emu.report.trace.model import Thread, Trace
from emu.units import KIB

_WRITEBACK_WORK = (
    "bdi %s: sb_dev %d:%d nr_pages=%ld sync_mode=%d kupdate=%d range_cyclic=%d background=%d reason=%s cgroup_ino=%lu"
)
_PAGE = "dev %d:%d ino %lx pfn=0x%lx ofs=%lu order=%u"

FORMATS = {
    "exceptions:page_fault_user": "address=%ps ip=%ps error_code=0x%lx",
    "filemap:mm_filemap_add_to_page_cache": _PAGE,
    "filemap:mm_filemap_delete_from_page_cache": _PAGE,
    "raw_syscalls:sys_enter": "NR %ld (%lx, %lx, %lx, %lx, %lx, %lx)",
    "raw_syscalls:sys_exit": "NR %ld = %ld",
    "sched:sched_switch": (
        "prev_comm=%s prev_pid=%d prev_prio=%d prev_state=%s%s ==> next_comm=%s next_pid=%d next_prio=%d"
    ),
    "tlb:tlb_flush": "pages:%ld reason:%s (%d)",
    "vmscan:mm_vmscan_direct_reclaim_begin": "order=%d gfp_flags=%s",
    "vmscan:mm_vmscan_direct_reclaim_end": "nr_reclaimed=%lu",
    "vmscan:mm_vmscan_kswapd_wake": "nid=%d order=%d",
    "vmscan:mm_vmscan_kswapd_sleep": "nid=%d",
    "vmscan:mm_vmscan_write_folio": "page=%p pfn=0x%lx flags=%s",
    "writeback:balance_dirty_pages": (
        "bdi %s: limit=%lu setpoint=%lu dirty=%lu wb_setpoint=%lu wb_dirty=%lu dirty_ratelimit=%lu task_ratelimit=%lu"
        " dirtied=%u dirtied_pause=%u paused=%lu pause=%ld period=%lu think=%ld cgroup_ino=%lu"
    ),
    "writeback:bdi_dirty_ratelimit": (
        "bdi %s: write_bw=%lu awrite_bw=%lu dirty_rate=%lu dirty_ratelimit=%lu task_ratelimit=%lu"
        " balanced_dirty_ratelimit=%lu cgroup_ino=%lu"
    ),
    "writeback:global_dirty_state": (
        "dirty=%lu writeback=%lu bg_thresh=%lu thresh=%lu limit=%lu dirtied=%lu written=%lu"
    ),
    "writeback:writeback_dirty_folio": "bdi %s: ino=%lu index=%lu",
    "writeback:writeback_start": _WRITEBACK_WORK,
    "writeback:writeback_written": _WRITEBACK_WORK,
}
"""Print formats of the tracepoints that are written here, by subsystem and name."""

_HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: {count}/{count}   #P:{cpus}
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""

_FLUSH_ALL, _LOCAL, _LOCAL_MM = -1, "local shootdown", "local MM shootdown"
_GLOBAL = (Counter.NR_DIRTY, Counter.NR_WRITEBACK, Counter.BACKGROUND_THRESH, Counter.DIRTY_THRESH)
_RATES = (Counter.WRITE_BANDWIDTH, Counter.DIRTY_RATELIMIT, Counter.TASK_RATELIMIT)
_ROOT_CGROUP = 1

Line = tuple[int, int, str]


def _line(comm: str, tid: int, cpu: int, at_ns: int, what: str, flags: str = ".....") -> str:
    """Return a line as Linux v6.18 kernel/trace/trace_output.c: trace_print_context() begins it."""
    seconds, ns = divmod(at_ns, 1_000_000_000)
    return f"{comm[:16]:>16}-{tid:<7} [{cpu:03}] {flags} {seconds:>5}.{ns // 1000:06}: {what}\n"


class _Writer:
    """Goes through the records once; knows the counters' values and who runs where."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.lines: list[Line] = []
        self._values: dict[tuple[int, int], int] = {}
        self._running: dict[int, int] = {}
        self._in_flight: dict[tuple[int, int], list[int]] = {}
        self._flushed: list[Event] = []
        self._cookie = 0
        self._idle, self._kswapd, self._flush = (book.kthread(thread) for thread in (IDLE, KSWAPD, FLUSHER))
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
            EventKind.ADD_TO_PAGE_CACHE: self._added,
            EventKind.DELETE_FROM_PAGE_CACHE: self._deleted,
            EventKind.FLUSHER: self._flusher,
            EventKind.COUNTER: self._counter,
            EventKind.SWAPOUT: self._swapped_out,
            EventKind.SWAPIN: self._swapped_in,
        }

    def take(self, event: Event) -> None:
        """Write the lines of one record; of kinds that this fremap does not know, none."""
        handler = self._handlers.get(event.kind)
        if handler is not None:
            handler(event)

    def _say(self, event: Event, at_ns: int, what: str, who: Thread | None = None) -> None:
        thread = who or self._current(event)
        comm, tid = ("<idle>", 0) if thread == self._idle else (thread.name, thread.tid)
        self.lines.append((at_ns, len(self.lines), _line(comm, tid, event.cpu, at_ns, what)))

    def _mark(self, event: Event, at_ns: int, words: str, who: Thread | None = None) -> None:
        self._say(event, at_ns, f"tracing_mark_write: {words}", who)

    def _current(self, event: Event) -> Thread:
        return self.book.thread(event.mm or self._running.get(event.cpu, 0))

    def _value(self, counter: Counter, bdi: int = 0) -> int:
        return self._values.get((counter, bdi), 0)

    def _kbps(self, counter: Counter, bdi: int) -> int:
        return self._value(counter, bdi) * self.book.page_size // KIB

    def _fault(self, event: Event) -> None:
        flags = event.flags
        # Linux arch/x86/include/asm/trap_pf.h: PROT 1, WRITE 2, USER 4, INSTR 16.
        code = (flags >> 3 & 1) | (flags & 1) << 1 | 4 | (flags >> 4 & 1) << 4
        what = f"page_fault_user: address=0x{event.vaddr:x} ip=0x0 error_code=0x{code:x}"
        self._say(event, event.begin_ns, what)

    def _remap(self, event: Event) -> None:
        nbytes = event.arg * self.book.page_size
        what = f"sys_enter: NR 216 ({event.vaddr:x}, {nbytes:x}, 0, {event.pgoff:x}, 0, 0)"
        self._say(event, event.end_ns, what)
        self._say(event, event.end_ns, "sys_exit: NR 216 = 0")

    def _syscall(self, event: Event) -> None:
        what = f"sys_enter: NR {event.flags} ({event.vaddr:x}, 0, 0, 0, 0, 0)"
        self._say(event, event.begin_ns, what)
        self._say(event, event.end_ns, f"sys_exit: NR {event.flags} = {-event.arg}")

    def _mkclean(self, event: Event) -> None:
        pid = self._current(event).pid
        self._mark(event, event.end_ns, f"I|{pid}|page_mkclean pgoff={event.pgoff} cleaned={event.arg}")

    def _writeback_start(self, event: Event) -> None:
        self._cookie += 1
        self._in_flight.setdefault((event.mapping, event.pgoff), []).append(self._cookie)
        if not event.mm:
            self._flushed.append(event)
        bdi = self.book.file(event.mapping).bdi
        self._mark(event, event.end_ns, f"S|{self._flush.pid}|write {bdi}|{self._cookie}", self._flush)

    def _writeback_end(self, event: Event) -> None:
        cookies = self._in_flight.get((event.mapping, event.pgoff))
        if cookies:
            bdi = self.book.file(event.mapping).bdi
            self._mark(event, event.end_ns, f"F|{self._flush.pid}|write {bdi}|{cookies.pop(0)}", self._flush)

    def _dirtied(self, event: Event) -> None:
        file = self.book.file(event.mapping)
        self._say(event, event.end_ns, f"writeback_dirty_folio: bdi {file.bdi}: ino={file.ino} index={event.pgoff}")

    def _throttle(self, event: Event) -> None:
        bdi = event.mapping
        limit, background = self._value(Counter.DIRTY_THRESH), self._value(Counter.BACKGROUND_THRESH)
        setpoint = ((background + limit) // 2 + limit) // 2
        wb_setpoint = setpoint * self._value(Counter.BDI_THRESH, bdi) // (limit + 1)
        dirty = self._value(Counter.NR_DIRTY) + self._value(Counter.NR_WRITEBACK)
        pause_ms = event.arg // 1000
        self._say(
            event,
            event.end_ns,
            f"balance_dirty_pages: bdi {self.book.bdi(bdi)}: limit={limit} setpoint={setpoint} dirty={dirty}"
            f" wb_setpoint={wb_setpoint} wb_dirty={self._value(Counter.BDI_DIRTY, bdi)}"
            f" dirty_ratelimit={self._kbps(Counter.DIRTY_RATELIMIT, bdi)}"
            f" task_ratelimit={self._kbps(Counter.TASK_RATELIMIT, bdi)} dirtied=0 dirtied_pause=0 paused=0"
            f" pause={pause_ms} period={pause_ms} think=0 cgroup_ino={_ROOT_CGROUP}",
        )

    def _tlb_flush(self, event: Event) -> None:
        number, reason = (3, _LOCAL_MM) if event.arg == _FLUSH_ALL else (2, _LOCAL)
        self._say(event, event.end_ns, f"tlb_flush: pages:{event.arg} reason:{reason} ({number})")

    def _reclaim(self, event: Event) -> None:
        if event.flags & 1:
            begins = "mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_HIGHUSER_MOVABLE"
            self._say(event, event.begin_ns, begins)
            self._say(event, event.end_ns, f"mm_vmscan_direct_reclaim_end: nr_reclaimed={event.arg}")
        else:
            self._say(event, event.begin_ns, "mm_vmscan_kswapd_wake: nid=0 order=0", self._kswapd)
            self._say(event, event.end_ns, "mm_vmscan_kswapd_sleep: nid=0", self._kswapd)

    def _power_off(self, event: Event) -> None:
        self._mark(event, event.end_ns, f"I|{self._flush.pid}|power off")

    def _switch(self, event: Event) -> None:
        before = self.book.thread(self._running.get(event.cpu, 0))
        after = self.book.thread(event.mm)
        comm, tid = (f"swapper/{event.cpu}", 0) if before == self._idle else (before.name, before.tid)
        self._say(
            event,
            event.end_ns,
            f"sched_switch: prev_comm={comm} prev_pid={tid} prev_prio=120 prev_state=R"
            f" ==> next_comm={after.name} next_pid={after.tid} next_prio=120",
            before,
        )
        self._running[event.cpu] = event.mm

    def _fsync(self, event: Event) -> None:
        pid = self._current(event).pid
        self._mark(event, event.begin_ns, f"B|{pid}|fdatasync")
        self._mark(event, event.end_ns, f"E|{pid}")

    def _added(self, event: Event) -> None:
        self._say(event, event.end_ns, f"mm_filemap_add_to_page_cache: {self._page(event)}")

    def _deleted(self, event: Event) -> None:
        self._say(event, event.end_ns, f"mm_filemap_delete_from_page_cache: {self._page(event)}")

    def _swapped_out(self, event: Event) -> None:
        what = f"mm_vmscan_write_folio: page=0x0 pfn=0x{event.pfn:x} flags=RECLAIM_WB_ANON|RECLAIM_WB_ASYNC"
        self._say(event, event.end_ns, what)

    def _swapped_in(self, event: Event) -> None:
        pid = self._current(event).pid
        self._mark(event, event.end_ns, f"I|{pid}|swap_readpage area={event.arg} slot={event.pgoff}")

    def _page(self, event: Event) -> str:
        file = self.book.file(event.mapping)
        first_byte = event.pgoff * self.book.page_size
        return f"dev {file.dev[0]}:{file.dev[1]} ino {file.ino:x} pfn=0x{event.pfn:x} ofs={first_byte} order=0"

    def _flusher(self, event: Event) -> None:
        periodic = event.flags >> 1 & 1
        # Its turn is told when it is over: what kernel threads submitted since the last one was submitted in it.
        nr_pages = sum(write.arg for write in self._flushed)
        file = self.book.file(self._flushed[-1].mapping if self._flushed else 0)
        self._flushed.clear()
        work = (
            f"bdi {file.bdi}: sb_dev {file.dev[0]}:{file.dev[1]} nr_pages={nr_pages} sync_mode=0"
            f" kupdate={periodic} range_cyclic=1 background={event.flags & 1}"
            f" reason={'periodic' if periodic else 'background'} cgroup_ino={_ROOT_CGROUP}"
        )
        self._say(event, event.begin_ns, f"writeback_start: {work}", self._flush)
        self._say(event, event.end_ns, f"writeback_written: {work}", self._flush)

    def _counter(self, event: Event) -> None:
        self._values[event.flags, event.mapping] = event.arg
        if event.flags in _GLOBAL:
            limit = self._value(Counter.DIRTY_THRESH)
            self._say(
                event,
                event.end_ns,
                f"global_dirty_state: dirty={self._value(Counter.NR_DIRTY)}"
                f" writeback={self._value(Counter.NR_WRITEBACK)}"
                f" bg_thresh={self._value(Counter.BACKGROUND_THRESH)} thresh={limit} limit={limit}"
                f" dirtied={self._value(Counter.NR_DIRTIED)} written={self._value(Counter.NR_WRITTEN)}",
            )
        elif event.flags in _RATES:
            bdi = event.mapping
            bandwidth, limit = self._kbps(Counter.WRITE_BANDWIDTH, bdi), self._kbps(Counter.DIRTY_RATELIMIT, bdi)
            self._say(
                event,
                event.end_ns,
                f"bdi_dirty_ratelimit: bdi {self.book.bdi(bdi)}: write_bw={bandwidth} awrite_bw={bandwidth}"
                f" dirty_rate=0 dirty_ratelimit={limit} task_ratelimit={self._kbps(Counter.TASK_RATELIMIT, bdi)}"
                f" balanced_dirty_ratelimit={limit} cgroup_ino={_ROOT_CGROUP}",
            )
        elif event.flags == Counter.NR_FREE:
            self._mark(event, event.end_ns, f"C|{self._flush.pid}|nr_free_pages|{event.arg}")


def ftrace_lines(events: npt.NDArray[Any], book: Book) -> list[Line]:
    """Return (time in ns, number, line) of everything that a run's events tell, in order."""
    writer = _Writer(book)
    for event in rows(events):
        writer.take(event)
    return sorted(writer.lines)


def counter_lines(trace: Trace) -> Iterator[Line]:
    """Yield a trace's counters as markers that viewers draw as lines."""
    for number, point in enumerate(trace.points):
        counter = point.counter
        words = f"C|{counter.pid}|{counter.name}|{int(point.value)}"
        yield point.at_ns, number, _line("fremap", counter.pid, 0, point.at_ns, f"tracing_mark_write: {words}")


def slice_lines(trace: Trace) -> Iterator[Line]:
    """Yield a trace's slices as markers of asynchronous sections, which may overlap what threads do."""
    for number, one in enumerate(trace.slices):
        pid = one.track.pid
        for at_ns, letter in ((one.begin_ns, "S"), (one.end_ns, "F")):
            words = f"{letter}|{pid}|{one.name}|{number}"
            yield at_ns, number, _line("fremap", pid, 0, at_ns, f"tracing_mark_write: {words}")


def kernel_lines(path: Path) -> Iterator[Line]:
    """Yield the lines that the real kernel printed, as they are."""
    for number, event in enumerate(read_kernel_events(path)):
        what = f"{event.name}: {event.text}"
        yield event.at_ns, number, _line(event.comm, event.tid, event.cpu, event.at_ns, what, event.flags)


def ftrace_text(lines: list[Line], nr_cpus: int) -> Iterator[str]:
    """Yield the header and the lines."""
    yield _HEADER.format(count=len(lines), cpus=nr_cpus)
    for _at_ns, _number, line in lines:
        yield line
