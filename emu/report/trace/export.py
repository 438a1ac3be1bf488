"""From run directories to trace files: what each run holds goes onto one time line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from emu.lab.errors import LabError
from emu.lab.lab import EVENTS
from emu.lab.mount_events import read_mount_events
from emu.lab.tracefs import KERNEL_TRACE
from emu.lab.vmstat_series import VMSTAT
from emu.report.runs import Run
from emu.report.trace.book import MACHINE_PID, read_book, read_events
from emu.report.trace.from_events import trace_of_events
from emu.report.trace.from_kernel import read_kernel_events, trace_of_kernel
from emu.report.trace.from_mount_events import trace_of_mount_events
from emu.report.trace.from_samples import trace_of_samples, trace_of_steps, trace_of_vmstat
from emu.report.trace.ftrace import Line, counter_lines, ftrace_lines, ftrace_text, kernel_lines, slice_lines
from emu.report.trace.model import Trace
from emu.report.trace.perfetto import write_perfetto

_APART = 10_000_000
"""Process numbers of several emulated machines are this far apart, and above those of any Linux (pid_max: 2^22)."""

_MACHINE = "emulated machine"


def trace_of_run(run: Run, base: int = 0) -> Trace:
    """Return all that a run recorded as one trace; `base` is added to emulated process numbers.

    Raises
    ------
    LabError
        If it recorded nothing that has a time.

    """
    trace = Trace()
    machine = MACHINE_PID + base
    if (run.path / EVENTS).is_file():
        book = read_book((run.path / EVENTS).with_suffix(".json"), run.label, base)
        trace.add(trace_of_events(read_events(run.path / EVENTS), book))
    if (run.path / VMSTAT).is_file():
        known = frozenset(point.counter.name for point in trace.points)
        trace.processes.setdefault(machine, _MACHINE)
        trace.add(trace_of_vmstat(run.series, machine, known))
    trace.add(trace_of_steps(run.steps, run.series, machine))
    if run.samples:
        mountpoint = run.manifest["config"].get("mountpoint", "mount")
        trace.add(trace_of_samples(run.samples, machine, f"mount {mountpoint}"))
        trace.add(trace_of_mount_events(read_mount_events(run.path), machine))
    if (run.path / KERNEL_TRACE).is_file():
        trace.add(trace_of_kernel(read_kernel_events(run.path / KERNEL_TRACE)))
    if run.label != run.name and machine in trace.processes:
        trace.processes[machine] = f"{_MACHINE}: {run.label}"
    if not len(trace):
        raise LabError(f"{run.path} recorded nothing over time: run it with --events, or record a mount")
    return trace


def _bases(runs: Sequence[Run]) -> list[int]:
    """Return what to add to each run's process numbers: nothing for one that is alone."""
    alone = len(runs) == 1 and not (runs[0].path / KERNEL_TRACE).is_file()
    return [0] if alone else [(number + 1) * _APART for number in range(len(runs))]


def export_perfetto(runs: Sequence[Run], path: Path) -> int:
    """Write runs as one Perfetto trace; return how many slices, instants and counter values it has."""
    whole = Trace()
    for run, base in zip(runs, _bases(runs), strict=True):
        whole.add(trace_of_run(run, base))
    write_perfetto(whole, path)
    return len(whole)


def export_ftrace(runs: Sequence[Run], path: Path) -> int:
    """Write runs as one ftrace text; return how many lines it has, the header's not counted."""
    lines: list[Line] = []
    nr_cpus = 1
    for run, base in zip(runs, _bases(runs), strict=True):
        own = list(_lines_of_run(run, base))
        if not own:
            raise LabError(f"{run.path} recorded nothing over time: run it with --events, or record a mount")
        lines += own
        nr_cpus = max(nr_cpus, int(run.manifest.get("machine", {}).get("cores") or 1))
    lines.sort(key=lambda line: line[0])
    with path.open("w", encoding="utf-8") as file:
        file.writelines(ftrace_text(lines, nr_cpus))
    return len(lines)


def _lines_of_run(run: Run, base: int) -> Iterator[Line]:
    machine = MACHINE_PID + base
    if (run.path / EVENTS).is_file():
        book = read_book((run.path / EVENTS).with_suffix(".json"), run.label, base)
        yield from ftrace_lines(read_events(run.path / EVENTS), book)
    elif (run.path / VMSTAT).is_file():
        yield from counter_lines(trace_of_vmstat(run.series, machine))
    yield from slice_lines(trace_of_steps(run.steps, run.series, machine))
    if run.samples:
        yield from counter_lines(trace_of_samples(run.samples, machine, ""))
        yield from slice_lines(trace_of_mount_events(read_mount_events(run.path), machine))
    if (run.path / KERNEL_TRACE).is_file():
        yield from kernel_lines(run.path / KERNEL_TRACE)
