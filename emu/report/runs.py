"""Runs read back from their directories, and the numbers that a report shows of each."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from emu.lab.activity import read_activities
from emu.lab.errors import LabError
from emu.lab.lab import EVENTS
from emu.lab.observe import Sample
from emu.lab.record import SAMPLES, read_samples
from emu.lab.row_records import ROWS, row_directories
from emu.lab.rundir import MANIFEST_VERSION
from emu.lab.steps import Step, read_steps
from emu.lab.tracefs import KERNEL_TRACE
from emu.lab.vmstat_series import VMSTAT, read_vmstat_series
from emu.lab.window_map import Look, read_looks
from emu.mm_types.events import EVENT_DTYPE
from emu.report.trace.book import read_names
from emu.report.trace.from_kernel import read_kernel_events

_NPY_HEADER_NBYTES = 256
_MANIFEST: dict[str, type] = {
    "name": str, "command": list, "started": str, "status": str, "config": dict, "versions": dict, "machine": dict,
}  # fmt: skip
"""What no run can be reported without."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory's content.

    `samples` are of a mount; `series` (counters over time), `events`, `steps` and `looks` of an emulated machine;
    `rows` are the runs of a comparison's rows, without their events. Each is empty unless it was recorded.
    """

    path: Path
    manifest: dict[str, Any]
    counters: dict[str, Any]
    samples: list[Sample]
    series: list[dict[str, float]] = field(default_factory=list)
    events: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, EVENT_DTYPE))
    looks: list[Look] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    rows: list["Run"] = field(default_factory=list)
    damaged_rows: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What ran."""
        return str(self.manifest["name"])

    @property
    def label(self) -> str:
        """What to call it among others: a comparison's row has the name of its directory."""
        return self.path.resolve().name if self.path.resolve().parent.name == ROWS else self.name

    @property
    def cut_short(self) -> bool:
        """Whether it was killed before it could note how it ended."""
        return self.manifest.get("status") == "running"

    @property
    def has_events(self) -> bool:
        """Whether it recorded events, read or not."""
        path = self.path / EVENTS
        return path.is_file() and path.stat().st_size > _NPY_HEADER_NBYTES

    @property
    def missing(self) -> list[str]:
        """A line for each file that this run must have left and that cannot be used; the rest can."""
        lines = [*self.damaged_rows]
        if self.name == "record" and not self.samples:
            lack = "holds no samples" if (self.path / SAMPLES).is_file() else "is missing"
            lines.append(f"{self.path / SAMPLES} {lack}: nothing is shown of the mount's memory over time")
        if self.name != "record" and self.manifest.get("status") == "done" and not self.counters:
            lines.append(f"{self.path / 'counters.json'} is missing or empty: no counters are shown")
        names = (self.path / EVENTS).with_suffix(".json")
        if self.has_events and read_names(names) is None:
            lines.append(f"{names} is missing or damaged: files and disks have numbers instead of names")
        return lines

    def check_manifest(self) -> None:
        """Raise LabError if the manifest lacks what a page shows of each run."""
        for name in _MANIFEST:
            if name not in self.manifest:
                raise LabError(f"{self.path / 'manifest.json'} is damaged: it does not tell the run's {name}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise LabError(f"{path} is damaged: {error.msg} in line {error.lineno}") from error
    except (UnicodeDecodeError, RecursionError):
        raise LabError(f"{path} is damaged: it is no JSON") from None
    if not isinstance(told, dict):
        raise LabError(f"{path} is damaged: it holds no JSON object")
    return told


def load_run(path: Path, *, with_events: bool = True) -> Run:
    """Read a run directory; what a killed run did not get to write is left out.

    `with_events`: events may be large; without, there are none.

    Raises
    ------
    LabError
        If it is none, or of a version that this fremap does not know.

    """
    if not (path / "manifest.json").is_file():
        raise LabError(f"{path} is no run directory: it has no manifest.json")
    manifest = _read_json(path / "manifest.json")
    version = manifest.get("version")
    if version != MANIFEST_VERSION:
        raise LabError(f"{path} is a run of version {version}; this fremap reads version {MANIFEST_VERSION}")
    for name, kind in _MANIFEST.items():
        if (name in manifest or name == "name") and not isinstance(manifest.get(name), kind):
            raise LabError(f"{path / 'manifest.json'} is damaged: it does not tell the run's {name}")
    counters_path = path / "counters.json"
    counters = _read_json(counters_path) if counters_path.is_file() else _counters_of_a_killed_run(path)
    samples = read_samples(path) if (path / SAMPLES).is_file() else []
    return Run(
        path,
        manifest,
        counters,
        samples,
        read_vmstat_series(path) if (path / VMSTAT).is_file() else [],
        _read_events(path / EVENTS) if with_events else np.zeros(0, EVENT_DTYPE),
        read_looks(path),
        read_steps(path),
        *_load_rows(path),
    )


def _load_rows(path: Path) -> tuple[list[Run], list[str]]:
    """Return the runs of a comparison's rows, and a line for each that is damaged."""
    rows, damaged = [], []
    for row in row_directories(path):
        try:
            rows.append(load_run(row, with_events=False))
        except LabError as error:
            damaged.append(f"{error}; its course of time is not shown")
    return rows, damaged


def _read_events(path: Path) -> npt.NDArray[Any]:
    """Return the events, none if there are none; LabError if another fremap wrote them."""
    if not path.is_file():
        return np.zeros(0, EVENT_DTYPE)
    try:
        with path.open("rb") as file:  # numpy, given a name, leaves a damaged file open
            events: npt.NDArray[Any] = np.load(file)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError, BadZipFile):
        # numpy's own words are about pickles, which it takes for whatever it cannot read.
        raise LabError(f"{path} is damaged: it is no whole file of events") from None
    if not isinstance(events, np.ndarray):
        raise LabError(f"{path} is damaged: it is no whole file of events")
    if not set(EVENT_DTYPE.names or ()) <= set(events.dtype.names or ()):
        raise LabError(f"{path} holds events of another version of fremap")
    return events


def _counters_of_a_killed_run(path: Path) -> dict[str, Any]:
    """Return the last counters that a run noted before it was killed."""
    series = read_vmstat_series(path) if (path / VMSTAT).is_file() else []
    if not series:
        return {}
    return {"vmstat": {name: value for name, value in series[-1].items() if name not in {"time_s", "clock_s"}}}


def totals(run: Run) -> dict[str, float]:
    """Return the numbers of a run that two runs can be compared by, with the unit in the name."""
    found: dict[str, float] = {}
    if run.samples:
        first, last = run.samples[0], run.samples[-1]
        written = last.written - first.written
        found = {
            "seconds": last.time_s - first.time_s,
            "dirtied (bytes)": last.dirtied - first.dirtied,
            "written back (bytes)": written,
            "disk wrote (bytes)": last.disk_written - first.disk_written,
            "most dirty (bytes)": max(sample.dirty + sample.writeback for sample in run.samples),
            "throttle pauses": last.pauses - first.pauses,
            "paused (s)": last.paused_s - first.paused_s,
            "write errors": last.errors - first.errors,
        }
        if written:
            found["disk writes per byte written back"] = (last.disk_written - first.disk_written) / written
    looks = list(read_activities(run.path))
    if len(looks) > 1:
        for kind, figures in looks[-1].requests_since(looks[0]).items():
            found[f"requests: {kind}"] = figures["count"]
            found[f"latency_us: {kind}, median"] = figures["p50_us"]
            found[f"latency_us: {kind}, 99 % within"] = figures["p99_us"]
    if (run.path / KERNEL_TRACE).is_file():
        seen = Counter(event.name for event in read_kernel_events(run.path / KERNEL_TRACE))
        found |= {f"kernel: {name}": float(count) for name, count in seen.most_common()}
    for group in ("outcome", "vmstat", "rmap"):
        for name, value in run.counters.get(group, {}).items():
            # Counters that never moved say nothing, and there are dozens.
            if isinstance(value, (int, float)) and (value or group == "outcome"):
                found[f"{group}: {name}"] = float(value)
    return found
