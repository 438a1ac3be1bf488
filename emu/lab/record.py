"""Recording a mount: samples as a time series in a run directory, as long as a command runs.

samples.csv gets a line a sample, flushed at once: what a killed recording had is there, and any tool reads it.
Every second come a look at the mount's activity and its events (mount_events.jsonl).
(Parquet and Arrow files need a footer or a stream's end: of a killed recording nothing could be read.) With the real
kernel's tracepoints, kernel.trace grows beside it, on the same clock.
"""

import csv
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from emu.lab.activity import ACTIVITY, look_as_line
from emu.lab.errors import LabError, Terminated
from emu.lab.mount_events import MOUNT_EVENTS, EventCursor
from emu.lab.observe import FIELDS, Observer, Sample, as_row, why_gone
from emu.lab.rundir import RunDirectory, naming
from emu.lab.tracefs import KernelTrace

SAMPLES = "samples.csv"
LOOK_EVERY_S = 1.0
"""How often activity.jsonl gets a line: latencies by request, throttled writers, the flusher's file."""


def record(
    observer: Observer,
    run: RunDirectory,
    *,
    interval_s: float,
    duration_s: float | None = None,
    command: Sequence[str] = (),
    kernel: KernelTrace | None = None,
    warn: Callable[[str], None] = lambda _line: None,
) -> int:
    """Sample until the command ends, the duration is over, or Ctrl-C; return the command's exit code, else 0.

    `kernel` is taken along; where it cannot be, `warn` gets one line and the rest goes on.

    Raises
    ------
    LabError
        If the command cannot be started, or the mount went away; what was recorded before is there.

    """
    child: subprocess.Popen[bytes] | None = None
    began_s, status = time.monotonic(), "done"
    with ExitStack() as tracing, ExitStack() as files:
        facts = _begin_tracing(kernel, tracing, warn)
        series = _Series(observer, run.path, files)
        waiter = _Waiter(files)
        due_s = began_s
        # Opening files and the tracer is no sampling, and of a short recording it would be most of it.
        cpu_began_s = time.thread_time()
        try:
            while True:
                ended = child is not None and child.poll() is not None
                ends = ended or (duration_s is not None and time.monotonic() - began_s >= duration_s)
                series.take(last=ends)
                if command and child is None:
                    # Only now: the first sample is what the command found.
                    starts_s = time.thread_time()
                    child = _start(command)
                    waiter.watch(child)
                    # A fork is no sampling.
                    cpu_began_s += time.thread_time() - starts_s
                    continue
                if ends:
                    break
                due_s = max(due_s + interval_s, time.monotonic())
                waiter.wait(due_s - time.monotonic())
        except _MountGoneError as error:
            status = str(error)
            raise LabError(status) from None
        except Terminated:
            status = "terminated"
            raise
        except KeyboardInterrupt:
            status = "interrupted"
        except LabError as error:
            status = str(error)
            raise
        finally:
            cpu_s = time.thread_time() - cpu_began_s
            code = _finish(child)
            seconds = max(time.monotonic() - began_s, 1e-9)
            tracing.close()
            facts |= _traced(kernel, seconds) if "kernel" not in facts else {}
            share = round(cpu_s / seconds, 5)
            facts |= {"mount_events": series.cursor.nr_events, "mount_events_lost": series.cursor.nr_lost}
            run.finish(status, samples=series.count, sampler_cpu_share=share, exit_code=code, **facts)
    return code or 0


class _MountGoneError(Exception):
    """The mount went away while it was recorded."""


class _Series:
    """The growing files of a recording: a sample each time, a look at the mount's activity every second."""

    def __init__(self, observer: Observer, directory: Path, files: ExitStack) -> None:
        self._observer = observer
        self._directory = directory
        # Unbuffered: each line is one write, and there at once.
        self._samples = files.enter_context((directory / SAMPLES).open("wb", buffering=0))
        self._activity = files.enter_context((directory / ACTIVITY).open("wb", buffering=0))
        self._events = files.enter_context((directory / MOUNT_EVENTS).open("wb", buffering=0))
        self._samples.write(as_line(FIELDS))
        self.cursor = EventCursor(observer.mountpoint)
        self._look_due_s = 0.0
        self.count = 0

    def take(self, *, last: bool) -> None:
        """Look, and write what was seen; _MountGoneError."""
        activity, events = b"", b""
        try:
            sample = self._observer.sample()
            if last or sample.time_s >= self._look_due_s:
                self._look_due_s = sample.time_s + LOOK_EVERY_S
                activity = look_as_line(self._observer.mountpoint)
                events = b"".join(line + b"\n" for line in self.cursor.read())
        except OSError as error:
            raise _MountGoneError(f"the mount went away: {why_gone(error)}") from None
        with naming(self._directory):
            self._samples.write(as_line(as_row(sample)))
            if activity:
                self._activity.write(activity)
            if events:
                self._events.write(events)
        self.count += 1


def as_line(values: Sequence[object]) -> bytes:
    """Return numbers or names as a line of a CSV file; none needs quotes."""
    return (",".join(map(str, values)) + "\r\n").encode("ascii")


def _traced(kernel: KernelTrace | None, seconds: float) -> dict[str, object]:
    """Return what the manifest says of the kernel's tracepoints."""
    if kernel is None:
        return {}
    return {
        "kernel": "traced",
        "kernel_events": kernel.nr_events,
        "kernel_events_lost": kernel.nr_lost,
        "kernel_cpu_share": round(kernel.cpu_s / seconds, 5),
    }


def _begin_tracing(kernel: KernelTrace | None, tracing: ExitStack, warn: Callable[[str], None]) -> dict[str, object]:
    """Begin to take the kernel's tracepoints, if asked for; return what kept them away, for the manifest."""
    if kernel is None:
        return {}
    try:
        tracing.enter_context(kernel)
    except LabError as error:
        warn(f"{error}; going on without the kernel's tracepoints")
        return {"kernel": str(error)}
    return {}


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command)  # noqa: S603 - the user's own command
    except OSError as error:
        raise LabError(f"cannot run {command[0]}: {error.strerror}") from error


class _Waiter:
    """Waits for the next sample, but not longer than the command runs; asleep, where Popen.wait() would poll."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo
        self._poll = select.poll()

    def watch(self, child: "subprocess.Popen[bytes]") -> None:
        """Wake when this command ends, too."""
        pidfd = os.pidfd_open(child.pid)
        self._undo.callback(os.close, pidfd)
        self._poll.register(pidfd, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Sleep."""
        if seconds > 0:
            self._poll.poll(seconds * 1000)


def _finish(child: "subprocess.Popen[bytes] | None") -> int | None:
    """Return the command's exit code as a shell would; end it if it still runs."""
    if child is None:
        return None
    if child.poll() is None:
        child.terminate()
    code = child.wait()
    return code if code >= 0 else 128 - code


def read_samples(path: Path) -> list[Sample]:
    """Read a run's samples, none if the mount went away before the first; a line cut short by a kill is left out.

    Raises
    ------
    LabError
        If the file cannot be read, or is damaged.

    """
    samples = []
    try:
        with (path / SAMPLES).open(newline="", encoding="ascii", errors="replace") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames and "time_s" not in reader.fieldnames:
                raise LabError(f"{path / SAMPLES} is damaged: its first line does not name the columns")
            for row in reader:
                try:
                    samples.append(Sample.from_mapping(row))
                except (KeyError, TypeError, ValueError):
                    continue
    except OSError as error:
        raise LabError(f"{path}{os.sep}{SAMPLES}: {error.strerror}") from error
    except csv.Error as error:
        raise LabError(f"{path / SAMPLES} is damaged: {error}") from None
    return samples
