"""A recorded mount's samples, and a machine's counters and steps over time, as counters and slices of a trace."""

from collections.abc import Sequence
from itertools import pairwise

from emu.lab.observe import Rates, Sample
from emu.lab.steps import Step
from emu.report.trace.model import Counter, Lane, Point, Slice, Trace, to_ns

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


_TIMES = frozenset({
    "nr_remap", "nr_page_mkwrite", "nr_do_wp_page", "nr_cow", "nr_nonlinear_fault", "nr_copyout", "nr_throttled",
    "nr_writeback_io", "nr_write_errors", "nr_fsync", "nr_oom", "pgfault", "pgmajfault",
})  # fmt: skip
_PAGES = ("nr_", "pg", "psw", "unevictable_pgs", "unaccounted_dirty", "mkclean_cleaned")


def unit_of(name: str) -> str:
    """Return what a counter of /proc/vmstat, or of fremap's beside them, counts."""
    if name in {"pgpgin", "pgpgout"}:
        return "KiB"
    if name.endswith("_us"):
        return "us"
    if name.endswith("_visits"):
        return "visits"
    if name in _TIMES or name.startswith("nr_tlb_"):
        return "times"
    return "pages" if name.startswith(_PAGES) else "times"


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
        trace.points += [Point(Counter(pid, name, unit_of(name)), at_ns, int(row[name])) for name in moving]
    return trace


def trace_of_steps(steps: Sequence[Step], series: Sequence[dict[str, float]], pid: int) -> Trace:
    """Return an experiment's steps as slices on a lane of the machine; one cut short ends with the records."""
    trace = Trace()
    if not steps:
        return trace
    last_s = max([row["time_s"] for row in series[-1:]] + [step.began_s for step in steps])
    for step in steps:
        ended_s = last_s if step.ended_s is None else step.ended_s
        begin_ns, end_ns = (to_ns(_on_machine_clock(series, at_s)) for at_s in (step.began_s, ended_s))
        trace.slices.append(Slice(Lane(pid, "steps"), begin_ns, max(begin_ns, end_ns), step.title))
    return trace


def _on_machine_clock(series: Sequence[dict[str, float]], at_s: float) -> float:
    """Return a moment of the host's clock on the machine's, which is the same one unless it was made to be another."""
    after = next((row for row in series if row["time_s"] >= at_s), series[-1] if series else None)
    return at_s if after is None else at_s + after["clock_s"] - after["time_s"]
