"""A recorded mount's events as slices: each writer's pauses, writebacks with their pages, fsyncs, power cuts."""

from collections.abc import Iterable

from emu.lab.mount_events import LOST, POWER_CUT, THROTTLE, WRITEBACK, MountEvent
from emu.report.trace.model import Args, Instant, Lane, Slice, Thread, Trace, to_ns
from emu.units import KIB


def trace_of_mount_events(events: Iterable[MountEvent], pid: int) -> Trace:
    """Return the trace; `pid` is the mount's own process in it."""
    trace = Trace()
    for event in events:
        begin_ns, end_ns = to_ns(event.begin_s), to_ns(event.begin_s + event.seconds)
        told = event.told
        if event.kind == THROTTLE:
            tid, comm = int(told["tid"]), str(told["comm"])
            name = "balance_dirty_pages: pause"
            trace.slices.append(Slice(Thread(tid, tid, comm, comm), begin_ns, end_ns, name))
        elif event.kind == WRITEBACK:
            name = f"write {told['nr_pages']} pages: {told['path']}"
            trace.slices.append(Slice(Lane(pid, "writeback"), begin_ns, end_ns, name, _stretches(event)))
        elif event.kind == POWER_CUT:
            args: Args = {"survive": str(told["survive"])}
            trace.instants.append(Instant(Lane(pid, "power"), end_ns, "power cut", args))
        elif event.kind == LOST:
            trace.instants.append(Instant(Lane(pid, "writeback"), begin_ns, f"{told['count']} events lost"))
        else:
            path = str(told.get("path", ""))
            trace.slices.append(Slice(Lane(pid, event.kind), begin_ns, end_ns, f"{event.kind} {path}"))
    return trace


def _stretches(event: MountEvent) -> Args:
    told = event.told
    words = [f"{offset // KIB}+{nbytes / KIB:g}" for offset, nbytes in told["ranges"]]
    left = told["nr_ranges"] - len(words)
    args: Args = {"KiB at, how many": ", ".join(words) + (f" ... and {left} between" if left else "")}
    if "errno" in told:
        args["errno"] = int(told["errno"])
    return args
