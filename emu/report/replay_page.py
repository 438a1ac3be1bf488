"""A replay as pictures and one HTML page that needs no other file."""

import base64
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emu.lab.errors import LabError
from emu.lab.replay.result import FaultRow, Replay, StrategyRow, WindowRow
from emu.report.pictures import BLUE, GREEN, GREY, ORANGE, VERMILLION
from emu.report.replay_tables import STRATEGY_HEADINGS, facts, headline, remarks, strategy_cells
from emu.report.runs import Run
from emu.report.save import save_page
from emu.report.style import STYLE
from emu.units import format_size


def replay_from_json(content: dict[str, Any]) -> Replay:
    """Return a Replay from a run's records; LabError if they are not of this version's form."""
    rows = {"fault_rows": FaultRow, "windows": WindowRow, "strategies": StrategyRow}
    try:
        values = {field.name: content[field.name] for field in fields(Replay)}
        for name, kind in rows.items():
            values[name] = [kind(**row) for row in values[name]]
        return Replay(**values)
    except (KeyError, TypeError) as error:
        raise LabError(f"the records of this replay are not of a form that this fremap knows: {error}") from None


def _frame(title: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 3.8), dpi=120)
    axes = figure.add_subplot()
    axes.set_title(title, pad=28)
    axes.set_xlabel("million accesses of the trace")
    axes.set_ylabel(ylabel)
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, borderaxespad=0, handlelength=1.6)


def _ends(windows: Sequence[WindowRow]) -> Any:
    return np.array([0, *(row.end for row in windows)]) / 1e6


def draw_working_set(replay: Replay) -> Figure:
    """Draw the distinct pages of each window, code and data."""
    windows = replay.windows
    figure, axes = _frame(f"Working set: pages touched within {windows[0].end:,} accesses", "pages")
    edges = _ends(windows)
    code = [row.code_pages for row in windows]
    both = [row.code_pages + row.data_pages for row in windows]
    stored = [row.stored_pages for row in windows]
    axes.stairs(both, edges, fill=True, color=ORANGE, label="data")
    axes.stairs(code, edges, fill=True, color=BLUE, label="code")
    axes.stairs(stored, edges, color="#1a1a1a", linewidth=1.4, label="stored into")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def draw_memory(replay: Replay) -> Figure:
    """Draw what has been touched so far and what is resident and dirty."""
    windows = replay.windows
    figure, axes = _frame("Memory over time", "pages")
    at = _ends(windows)[1:]
    axes.plot(at, [row.pages_so_far for row in windows], color=GREY, linestyle="--", label="touched so far")
    axes.plot(at, [row.resident_pages for row in windows], color=BLUE, label="resident")
    dirty = [row.dirty_file_pages for row in windows]
    if any(dirty):
        axes.plot(at, dirty, color=VERMILLION, label="dirty file pages")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def draw_misses(replay: Replay) -> Figure:
    """Draw faults and page walks of each window."""
    windows = replay.windows
    figure, axes = _frame("Page walks and page faults", f"in {windows[0].end:,} accesses")
    edges = _ends(windows)
    axes.stairs([row.walks for row in windows], edges, fill=True, color=GREEN, label="page walks")
    axes.stairs([row.faults for row in windows], edges, color=VERMILLION, linewidth=1.6, label="page faults")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def draw_strategies(replay: Replay) -> Figure:
    """Draw what a page_mkclean costs under each reverse map, and what is lost."""
    rows = [row for row in replay.strategies if row.error is None]
    figure = Figure(figsize=(9, 1.9 + 0.42 * len(rows)), dpi=120)
    axes = figure.add_subplot()
    axes.set_title("PTEs and nodes that one page_mkclean looks at")
    values = [row.visits_per_mkclean or 0.0 for row in rows]
    colours = [VERMILLION if row.lost_pages else BLUE for row in rows]
    axes.barh(range(len(rows)), values, color=colours, height=0.62)
    axes.set_yticks(range(len(rows)), [row.rmap for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(lambda value, _at: f"{value:,.10g}")
    axes.set_xlabel("visits")
    axes.grid(visible=False, axis="y")
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        lost = f", {row.lost_pages:,} pages lost" if row.lost_pages else ""
        axes.annotate(f"{value:,.3g}{lost}", (value, place), xytext=(4, 0), textcoords="offset points", va="center")
    return figure


def save_replay_pictures(replay: Replay, directory: Path) -> list[Path]:
    """Write the pictures as PNG files; return their paths."""
    drawn = {}
    with mpl.rc_context(STYLE):
        if replay.windows:
            drawn = {"working_set": draw_working_set, "memory": draw_memory, "misses": draw_misses}
        if any(row.error is None for row in replay.strategies):
            drawn["strategies"] = draw_strategies
        saved = []
        for name, draw in drawn.items():
            path = directory / f"{name}.png"
            draw(replay).savefig(path)
            saved.append(path)
    return saved


def _tables(replay: Replay) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = [{"title": "Totals", "headings": (), "rows": facts(replay)}]
    faults = [(row.memory, f"{row.faults:,}", f"{row.for_stores:,}", f"{row.major:,}") for row in replay.fault_rows]
    tables.append(
        {"title": "Page faults by memory", "headings": ("memory", "faults", "for stores", "from disk"), "rows": faults}
    )
    if replay.strategies:
        tables.append(
            {
                "title": "What each reverse map pays, with all writable memory in one file, mapped nonlinearly",
                "headings": [heading.replace("\n", " ") for heading in STRATEGY_HEADINGS],
                "rows": [strategy_cells(row) for row in replay.strategies],
            }
        )
    return tables


def write_replay_page(run: Run, directory: Path) -> Path:
    """Draw a replay's pictures and write index.html into a directory; return the page."""
    replay = replay_from_json(run.counters.get("replay", {}))
    manifest = run.manifest
    pictures = [
        {"name": path.stem.replace("_", " "), "base64": base64.b64encode(path.read_bytes()).decode("ascii")}
        for path in save_replay_pictures(replay, directory)
    ]
    machine, versions = manifest["machine"], manifest["versions"]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emu.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = directory / "index.html"
    save_page(
        page,
        environment.get_template("replay.html.j2").render(
            title=f"Replay of {shlex.join(replay.command) or replay.trace}",
            command=shlex.join(["fremap", *manifest["command"][1:]]),
            started=manifest["started"],
            status="cut short" if manifest["status"] == "running" else manifest["status"],
            seconds=manifest["seconds"],
            headline=headline(replay),
            remarks=list(remarks(replay)),
            pictures=pictures,
            tables=_tables(replay),
            facts={
                "run": str(run.path),
                "trace": replay.trace,
                "RAM of the machine": format_size(replay.ram),
                "computer": f"{machine['cpu']}, {machine['cores']} cores, {format_size(machine['ram_bytes'])}",
                "system": machine["system"],
                "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
                "seed": manifest["seed"],
            },
        ),
    )
    return page
