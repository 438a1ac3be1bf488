"""A recorded mount's samples, and a machine's counters over time, as counters of a trace."""

from collections.abc import Sequence
from itertools import pairwise

from emu.lab.observe import Rates, Sample
from emu.report.trace.model import Counter, Point, Trace, to_ns

_GAUGES = (
    ("dirty", "dirty"),
    ("writeback", "writeback"),
    ("own_limit", "limit"),
    ("setpoint", "setpoint"),
    ("limit", "dirty threshold"),
    ("background", "background threshold"),
    ("kernel_dirty", "system: Dirty"),
    ("kernel_writeback", "system: Writeback"),
)
_BYTE_RATES = (
    ("dirtied", "dirtied"),
    ("written", "written back"),
    ("disk_read", "disk: read"),
    ("disk_written", "disk: written"),
)
_SHARES = (("disk_busy", "disk: busy"), ("paused", "writers asleep"))
_LAW = (("bandwidth", "write bandwidth"), ("rate_limit", "dirty_ratelimit"))


def trace_of_samples(samples: Sequence[Sample], pid: int, process: str) -> Trace:
    """Return a mount's amounts, limits and rates as counters of the process that serves it."""
    trace = Trace(processes={pid: process})

    def point(name: str, unit: str, at_s: float, value: float) -> None:
        trace.points.append(Point(Counter(pid, name, unit), to_ns(at_s), value))

    for sample in samples:
        for field, name in _GAUGES:
            point(name, "bytes", sample.time_s, round(getattr(sample, field)))
        for field, name in _LAW:
            point(name, "bytes/s", sample.time_s, getattr(sample, field))
        point("pauses so far", "pauses", sample.time_s, sample.pauses)
        point("write errors so far", "errors", sample.time_s, sample.errors)
    for before, after in pairwise(samples):
        rates = Rates.between(before, after)
        for field, name in _BYTE_RATES:
            point(name, "bytes/s", before.time_s, round(getattr(rates, field)))
        for field, name in _SHARES:
            point(name, "%", before.time_s, round(100 * getattr(rates, field), 1))
    return trace


def trace_of_vmstat(series: Sequence[dict[str, float]], pid: int, without: frozenset[str] = frozenset()) -> Trace:
    """Return a machine's counters over its own time; those that never moved, and those in `without`, are left out."""
    trace = Trace()
    if not series:
        return trace
    moving = [
        name
        for name in series[0]
        if name not in without and name not in {"time_s", "clock_s"} and len({row[name] for row in series}) > 1
    ]
    for row in series:
        at_ns = to_ns(row["clock_s"])
        trace.points += [Point(Counter(pid, name, ""), at_ns, int(row[name])) for name in moving]
    return trace
