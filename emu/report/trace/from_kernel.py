"""The real kernel's tracepoints of a recorded mount as a trace: FUSE requests, writeback, throttling, its counters.

Reads the text of trace_pipe as fremap record --kernel keeps it. A line that makes no sense, as a kill may leave the
last one, is passed over; "[LOST n EVENTS]" becomes an instant of its own.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from emu.report.trace.model import Args, Counter, Instant, Lane, Point, Slice, Thread, Trace

_LINE = re.compile(r"\s*(.+)-(\d+)\s+\[(\d+)\]\s+(\S+)\s+(\d+)\.(\d+): (\w+): ?(.*)")
_LOST = re.compile(r"CPU:(\d+) \[LOST (\d+) EVENTS\]")
_FIELD = re.compile(r"([a-z_]+)[=:] ?(\S+?),?(?=\s|$)")
_REQUEST = re.compile(r"connection (\d+) req (\d+) opcode \d+ \((\w+)\) len (\d+)")
_REPLY = re.compile(r"connection (\d+) req (\d+) len (\d+) error (-?\d+)")
REAL_KERNEL_PID = (1 << 22) + 1
"""Above any Linux's; number 0 is the idle process to Perfetto, whose viewer leaves it out here and there."""
_PROCESS = "real kernel"
_STATE = {
    "dirty": "nr_dirty",
    "writeback": "nr_writeback",
    "bg_thresh": "dirty_background_threshold",
    "thresh": "dirty_threshold",
}


class KernelEvent(NamedTuple):
    """One line of ftrace's text."""

    at_ns: int
    comm: str
    tid: int
    cpu: int
    name: str
    text: str
    flags: str = "....."

    @property
    def fields(self) -> dict[str, str]:
        """What the line says as name=value."""
        return dict(_FIELD.findall(self.text))


def read_kernel_events(path: Path) -> Iterator[KernelEvent]:
    """Yield the events of a kernel.trace file, in its order."""
    with path.open(encoding="utf-8", errors="replace") as file:
        last_ns = 0
        for line in file:
            found = _LINE.match(line)
            if found is not None:
                comm, tid, cpu, flags, seconds, fraction, name, text = found.groups()
                last_ns = int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0"))
                yield KernelEvent(last_ns, comm.strip(), int(tid), int(cpu), name, text.strip(), flags)
            elif lost := _LOST.match(line):
                yield KernelEvent(last_ns, "ftrace", 0, int(lost[1]), "lost_events", f"count={lost[2]}")


class _Converter:
    """Pairs requests with replies and begins with ends."""

    def __init__(self) -> None:
        self.trace = Trace(processes={REAL_KERNEL_PID: _PROCESS})
        self._requests: dict[tuple[str, str], tuple[int, str, Args]] = {}
        self._turns: dict[int, tuple[int, str]] = {}
        self._handlers: dict[str, Callable[[KernelEvent], None]] = {
            "fuse_request_send": self._request,
            "fuse_request_end": self._reply,
            "writeback_start": self._turn_begins,
            "writeback_written": self._turn_ends,
            "balance_dirty_pages": self._throttled,
            "global_dirty_state": self._state,
            "bdi_dirty_ratelimit": self._rates,
        }

    def take(self, event: KernelEvent) -> None:
        """Convert one event; what has no meaning of its own here is an instant with its words."""
        self._handlers.get(event.name, self._other)(event)

    def finish(self, end_ns: int) -> Trace:
        """End the requests that were never answered."""
        for begin_ns, name, args in self._requests.values():
            self.trace.slices.append(Slice(self._lane(name), begin_ns, end_ns, name, args | {"failed": "no reply"}))
        return self.trace

    @staticmethod
    def _lane(name: str) -> Lane:
        return Lane(REAL_KERNEL_PID, f"requests: {name}")

    @staticmethod
    def _thread(event: KernelEvent) -> Thread:
        # A line names the thread only: each is shown as a process of its own.
        return Thread(event.tid, event.tid, event.comm, event.comm)

    def _other(self, event: KernelEvent) -> None:
        self.trace.instants.append(Instant(self._thread(event), event.at_ns, event.name, {"said": event.text}))

    def _request(self, event: KernelEvent) -> None:
        found = _REQUEST.match(event.text)
        if found is None:
            self._other(event)
            return
        connection, number, name, length = found.groups()
        args: Args = {"from": f"{event.comm} {event.tid}", "bytes": int(length)}
        self._requests[connection, number] = (event.at_ns, name.removeprefix("FUSE_"), args)

    def _reply(self, event: KernelEvent) -> None:
        found = _REPLY.match(event.text)
        sent = self._requests.pop((found[1], found[2]), None) if found is not None else None
        if found is None or sent is None:
            return
        begin_ns, name, args = sent
        args |= {"reply bytes": int(found[3])}
        if found[4] != "0":
            args["errno"] = -int(found[4])
        self.trace.slices.append(Slice(self._lane(name), begin_ns, event.at_ns, name, args))

    def _turn_begins(self, event: KernelEvent) -> None:
        self._turns[event.tid] = (event.at_ns, event.text)

    def _turn_ends(self, event: KernelEvent) -> None:
        begin_ns, text = self._turns.pop(event.tid, (event.at_ns, event.text))
        name = f"wb_writeback: {event.fields.get('reason', '?')}"
        self.trace.slices.append(Slice(self._thread(event), begin_ns, event.at_ns, name, {"said": text}))

    def _throttled(self, event: KernelEvent) -> None:
        pause_ms = max(_whole(event.fields.get("pause")), 0)
        name, args = "balance_dirty_pages: pause", {"said": event.text}
        end_ns = event.at_ns + pause_ms * 1_000_000
        self.trace.slices.append(Slice(self._thread(event), event.at_ns, end_ns, name, dict(args)))

    def _state(self, event: KernelEvent) -> None:
        fields = event.fields
        for field, name in _STATE.items():
            if field in fields:
                self._point(event, name, "pages", _whole(fields[field]))

    def _rates(self, event: KernelEvent) -> None:
        fields = event.fields
        bdi = event.text.removeprefix("bdi ").partition(":  ")[0].split(": ")[0]
        for field in ("write_bw", "dirty_ratelimit", "task_ratelimit"):
            if field in fields:
                self._point(event, f"{bdi} {field}", "KB/s", _whole(fields[field]))

    def _point(self, event: KernelEvent, name: str, unit: str, value: int) -> None:
        self.trace.points.append(Point(Counter(REAL_KERNEL_PID, name, unit), event.at_ns, value))


def _whole(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0


def trace_of_kernel(events: Iterable[KernelEvent]) -> Trace:
    """Return the trace that the kernel's lines tell."""
    converter = _Converter()
    end_ns = 0
    for event in events:
        converter.take(event)
        end_ns = event.at_ns
    return converter.finish(end_ns)
