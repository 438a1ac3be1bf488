"""Recording a mount: samples as a time series in a run directory, as long as a command runs.

samples.csv gets a line a sample, flushed at once: what a killed recording had is there, and any tool reads it.
"""

import csv
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from emu.lab.errors import LabError, Terminated
from emu.lab.observe import FIELDS, Observer, Sample, as_record
from emu.lab.rundir import RunDirectory

SAMPLES = "samples.csv"


def record(
    observer: Observer,
    run: RunDirectory,
    *,
    interval_s: float,
    duration_s: float | None = None,
    command: Sequence[str] = (),
    tell: Callable[[Sample], None] | None = None,
) -> int:
    """Sample until the command ends, the duration is over, or Ctrl-C; return the command's exit code, else 0.

    Raises
    ------
    LabError
        If the command cannot be started.

    """
    child: subprocess.Popen[bytes] | None = None
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    due_s, count, status = began_s, 0, "done"
    try:
        with (run.path / SAMPLES).open("w", newline="", encoding="ascii") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            while True:
                ended = child is not None and child.poll() is not None
                try:
                    sample = observer.sample()
                except OSError as error:
                    status = f"the mount went away: {error.strerror}"
                    break
                writer.writerow(as_record(sample))
                file.flush()
                count += 1
                if tell is not None:
                    tell(sample)
                if command and child is None:
                    # Only now: the first sample is what the command found.
                    child = _start(command)
                    continue
                if ended or (duration_s is not None and time.monotonic() - began_s >= duration_s):
                    break
                due_s = max(due_s + interval_s, time.monotonic())
                _wait(child, due_s - time.monotonic())
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
        seconds = max(time.monotonic() - began_s, 1e-9)
        run.finish(
            status,
            samples=count,
            sampler_cpu_share=round((time.process_time() - cpu_began_s) / seconds, 5),
            exit_code=code,
        )
    return code or 0


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command)  # noqa: S603 - the user's own command
    except OSError as error:
        raise LabError(f"cannot run {command[0]}: {error.strerror}") from error


def _wait(child: "subprocess.Popen[bytes] | None", seconds: float) -> None:
    """Wait for the next sample, but not longer than the command runs."""
    if seconds <= 0:
        return
    if child is None:
        time.sleep(seconds)
        return
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return


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
