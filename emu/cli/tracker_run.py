"""What fremap trackers does: measure every row, show the table, keep the records."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import typer
from rich.console import Console

from emu.cli.progress import RichProgress
from emu.cli.show import print_marked, print_whole
from emu.lab.rundir import RunDirectory, write_records
from emu.report.trackers_page import write_trackers_page
from emu.report.trackers_table import trackers_said, trackers_table
from emu.trackers.emulated import measure_dirty_index
from emu.trackers.libc import PAGE_SIZE
from emu.trackers.measure import TRACKERS, MeasureOrder
from emu.trackers.region import MEMORIES, filesystem_of
from emu.trackers.rows import OK, WRONG, TrackerRow
from emu.trackers.run import run_trackers
from emu.units import format_size

_EMULATED = "dirty_index"
_MARKS = {True: "[green]ok[/]", False: "[bold red]BROKEN[/]", None: "[yellow]--[/]"}


@dataclass(frozen=True, slots=True)
class TrackersOrder:
    """What the user asked for; empty `trackers` or `memories` mean all of them."""

    pages: int
    dirty: int
    trackers: tuple[str, ...]
    memories: tuple[str, ...]
    rounds: int
    seed: int


def run_all_trackers(order: TrackersOrder, json_path: Path | None, report: Path | None) -> int:
    """Measure, print the table, leave the records; return the exit code: 1 if a tracker was wrong, or none worked."""
    _check(order)
    chosen = order.trackers or (*TRACKERS, _EMULATED)
    memories = order.memories or MEMORIES
    directory = None
    if report is not None:
        directory = RunDirectory("trackers", report, asdict(order), order.seed, overwrite=True, option="--report")
    measuring = MeasureOrder(order.pages, order.dirty, order.rounds, order.seed)
    todo = [(name, memory) for memory in memories for name in chosen if name != _EMULATED]
    rows = run_trackers(todo, measuring, RichProgress())
    if _EMULATED in chosen:
        with RichProgress().step("dirty_index, emulated"):
            rows.append(measure_dirty_index(measuring))
    filesystem = filesystem_of(None)
    console = Console(highlight=False)
    print_whole(console, trackers_table(rows, filesystem))
    for good, sentence in trackers_said(rows):
        print_marked(console, _MARKS[good], sentence)
    records = {"version": 1, "filesystem": filesystem, "rows": [row.as_json() for row in rows]}
    if json_path is not None:
        write_records(json_path, records)
    broken = _broken(rows)
    if directory is not None:
        directory.save_counters(records)
        directory.finish("broken" if broken else "done", broken=broken)
        page = write_trackers_page(rows, filesystem, directory.manifest, directory.path)
        console.print(f"picture and page: {page}", soft_wrap=True, style="dim", markup=False)
    return 1 if broken else 0


def _broken(rows: Iterable[TrackerRow]) -> list[str]:
    found = list(rows)
    wrong = [f"{row.tracker} on {row.memory}: {row.reason}" for row in found if row.status == WRONG]
    return wrong or ([] if any(row.status == OK for row in found) else ["no tracker could be measured"])


def _check(order: TrackersOrder) -> None:
    """Refuse, before anything runs, what cannot be measured."""
    for option, given, known in (
        ("tracker", order.trackers, (*TRACKERS, _EMULATED)),
        ("memory", order.memories, MEMORIES),
    ):
        unknown = [one for one in given if one not in known]
        if unknown:
            raise typer.BadParameter(f"--{option} {unknown[0]}: there are {', '.join(known)}")
    if order.dirty > order.pages:
        raise typer.BadParameter(f"--dirty {order.dirty} is more than --pages {order.pages}")
    needs_nbytes = 3 * order.pages * PAGE_SIZE
    has_nbytes = psutil.virtual_memory().available
    if needs_nbytes > has_nbytes:
        raise typer.BadParameter(
            f"--pages {order.pages} needs {format_size(needs_nbytes)} of memory, {format_size(has_nbytes)} are free"
        )
