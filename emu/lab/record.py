"""Recording a mount: samples as a time series in a run directory, as long as a command runs.

samples.csv gets a line a sample, flushed at once: what a killed recording had is there, and any tool reads it.
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

from emu.lab.errors import LabError, Terminated
from emu.lab.observe import FIELDS, Observer, Sample, as_row
from emu.lab.rundir import RunDirectory
from emu.lab.tracefs import KernelTrace

SAMPLES = "samples.csv"


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
        If the command cannot be started.

    """
    child: subprocess.Popen[bytes] | None = None
    tracing, waiting = ExitStack(), ExitStack()
    waiter = _Waiter(waiting)
    facts = _begin_tracing(kernel, tracing, warn)
    began_s, cpu_began_s = time.monotonic(), time.thread_time()
    due_s, count, status = began_s, 0, "done"
    try:
        with (run.path / SAMPLES).open("w", newline="", encoding="ascii") as file:
            writer = csv.writer(file)
            writer.writerow(FIELDS)
            while True:
                ended = child is not None and child.poll() is not None
                try:
                    sample = observer.sample()
                except OSError as error:
                    status = f"the mount went away: {error.strerror}"
                    break
                writer.writerow(as_row(sample))
                file.flush()
                count += 1
                if command and child is None:
                    # Only now: the first sample is what the command found.
                    child = _start(command)
                    waiter.watch(child)
                    continue
                if ended or (duration_s is not None and time.monotonic() - began_s >= duration_s):
                    break
                due_s = max(due_s + interval_s, time.monotonic())
                waiter.wait(due_s - time.monotonic())
    except Terminated:
        status = "terminated"
        raise
    except KeyboardInterrupt:
        status = "interrupted"
    except LabError as error:
        status = str(error)
        raise
    finally:
        code = _finish(child)
        cpu_s = time.thread_time() - cpu_began_s
        seconds = max(time.monotonic() - began_s, 1e-9)
        waiting.close()
        tracing.close()
        if kernel is not None and "kernel" not in facts:
            facts["kernel"] = "traced"
            facts |= {"kernel_events": kernel.nr_events, "kernel_events_lost": kernel.nr_lost}
            facts["kernel_cpu_share"] = round(kernel.cpu_s / seconds, 5)
        run.finish(
            status, samples=count, sampler_cpu_share=round(cpu_s / seconds, 5), exit_code=code, **facts
        )
    return code or 0


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
    """Read a run's samples; a line cut short by a kill is left out.

    Raises
    ------
    LabError
        If there are none.

    """
    samples = []
    try:
        with (path / SAMPLES).open(newline="", encoding="ascii") as file:
            for row in csv.DictReader(file):
                try:
                    samples.append(Sample.from_mapping(row))
                except (KeyError, TypeError, ValueError):
                    continue
    except OSError as error:
        raise LabError(f"{path}{os.sep}{SAMPLES}: {error.strerror}") from error
    if not samples:
        raise LabError(f"{path} holds no samples")
    return samples
