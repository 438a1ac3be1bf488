"""All pictures of runs: a row a picture, a column a run, drawn from whatever each run recorded."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from emu.lab.activity import read_activities
from emu.lab.mount_events import read_mount_events
from emu.mm_types.events import EventKind
from emu.report import event_pictures
from emu.report.machine_pictures import OF_EVENTS, OF_SERIES, MachineRecord, draw_memory_of_runs
from emu.report.request_pictures import draw_requests
from emu.report.runs import Run
from emu.report.style import STYLE, share_axes
from emu.report.timeline import DRAWINGS
from emu.report.window_pictures import draw_window

LEAST_SERIES = 3
"""Lines of vmstat.csv below which there is no course of time to draw."""


def _pictures_of(run: Run) -> Iterator[tuple[str, Figure]]:
    """Draw what there is to draw of a run, in the order in which it is read."""
    if run.samples:
        began_s, ended_s = run.samples[0].time_s, run.samples[-1].time_s
        drawn = {name: draw(run.samples) for name, draw in DRAWINGS.items()}
        drawn |= event_pictures.drawings_of(list(read_mount_events(run.path)), began_s)
        for name, figure in drawn.items():
            if name != _LAW and ended_s > began_s:  # what happened at one time stands one below the other
                figure.axes[0].set_xlim(0, ended_s - began_s)
            yield name, figure
    activities = list(read_activities(run.path))
    if len(activities) > 1:
        yield "requests", draw_requests(activities)
    record = MachineRecord(run.series, run.events)
    if len(run.series) >= LEAST_SERIES:
        for name, draw_series in OF_SERIES.items():
            yield name, draw_series(record)
    if len(run.events):
        for name, draw_events in OF_EVENTS.items():
            yield name, draw_events(record)
    if run.looks:
        yield "window", draw_window(run.looks)


_LAW = "law"
_OF_MOUNTS = ["dirty", "rates", _LAW, "pauses", *event_pictures.ORDER, "amplification", "requests"]
_ORDER = [*_OF_MOUNTS, *OF_SERIES, *OF_EVENTS, "window"]
_OWN_AXES = {"window"}


def memory_of(run: Run) -> tuple[float, float] | None:
    """Return bytes of (page tables, the reverse map's own at its peak) of a run; None if it tells none."""
    tables = max((row["nr_page_table_pages"] for row in run.series if "nr_page_table_pages" in row), default=None)
    rmap, meminfo = run.counters.get("rmap"), run.counters.get("meminfo")
    if tables is None or rmap is None or not meminfo:
        return None
    pages = run.counters.get("vmstat", {}).get("nr_page_table_pages", 0)
    # The page size is nowhere in the series; meminfo says what the same gauge is in kB.
    page_bytes = meminfo["PageTables"] * 1024 / pages if pages else 4096
    return tables * page_bytes, float(rmap["nbytes_peak"])


def _name_of(run: Run, number: int, of: int) -> str:
    rmap = run.manifest["config"].get("rmap", run.name)
    return f"{rmap} ({run.name} {number})" if of > 1 else str(rmap)


def save_run_pictures(runs: Sequence[Run], directory: Path) -> list[list[Path | None]]:
    """Draw every picture of every run into a directory as PNG; return rows, with None where a run has no such one."""
    rows: list[list[Path | None]] = []
    with mpl.rc_context(STYLE):
        throttled = any((run.events["kind"] == EventKind.THROTTLE).any() for run in runs)
        drawn = [dict(_pictures_of(run)) for run in runs]
        for name in _ORDER:
            figures = [each.get(name) for each in drawn]
            present = [figure for figure in figures if figure is not None]
            if not present or (name == "machine_pauses" and not throttled):
                continue
            if name not in _OWN_AXES:
                share_axes(present)
            row: list[Path | None] = []
            for number, figure in enumerate(figures, 1):
                path = directory / (f"{number}-{name}.png" if len(runs) > 1 else f"{name}.png")
                if figure is not None:
                    figure.savefig(path)
                row.append(path if figure is not None else None)
            rows.append(row)
        memory = [
            (_name_of(run, number, len(runs)), *found)
            for number, run in enumerate(runs, 1)
            if (found := memory_of(run)) is not None
        ]
        if memory:
            path = directory / "memory.png"
            draw_memory_of_runs(memory).savefig(path)
            rows.append([path])
    return rows
