"""The page of fremap compare: one comparison, or several side by side with their differences."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from emu.lab.errors import LabError
from emu.lab.rows import Row
from emu.report.page import all_verdicts, render_page
from emu.report.pictures import draw_pictures, labels, save_pictures
from emu.report.row_pictures import courses_of
from emu.report.run_facts import change, differing, heading, number, picture_of, titles
from emu.report.runs import Run
from emu.report.save import save_page
from emu.report.style import STYLE, share_axes
from emu.report.table import share_of_ptes, summary_title, visits_per_call
from emu.units import format_size

Key = tuple[str, str, str]
Figures = dict[str, Figure]


def _size(value: float | None) -> str:
    return number(None) if value is None else format_size(round(value))


_COUNTS: tuple[tuple[str, Callable[[Row], float | None], Callable[[float | None], str]], ...] = (
    ("pages", lambda row: row.pages, number),
    ("pages stored to twice", lambda row: row.dirty_pages, number),
    ("pages lost", lambda row: row.lost_pages, number),
    ("most pages noticed by nobody", lambda row: row.unaccounted_dirty_max, number),
    ("calls of page_mkclean", lambda row: row.mkclean_calls, number),
    ("visits a call", visits_per_call, number),
    ("own memory", lambda row: row.rmap_bytes, _size),
    ("own memory, of that of PTEs", share_of_ptes, number),
    ("leaf page tables", lambda row: row.pte_bytes, _size),
    ("VMAs", lambda row: row.nr_vmas, number),
)
_TIMES: tuple[tuple[str, Callable[[Row], float | None], Callable[[float | None], str]], ...] = (
    ("remap, us a page", lambda row: row.remap_us_per_page, number),
    ("fault on a cached page, us", lambda row: row.fault_us, number),
    ("the whole row, s", lambda row: row.seconds, number),
)


def rows_of(run: Run) -> list[Row]:
    """Return the rows of a comparison that were done; LabError if they are of another version."""
    known = {field.name for field in fields(Row)}
    rows = run.counters.get("runs", [])
    try:
        return [Row(**{name: value for name, value in one.items() if name in known}) for one in rows]
    except (AttributeError, TypeError):
        raise LabError(f"{run.path / 'counters.json'} is damaged: it does not hold the rows of a comparison") from None


def write_compare_page(runs: Sequence[Run], directory: Path) -> Path:
    """Draw the pictures of one comparison, or of several, and write index.html into a directory; return the page."""
    page = directory / "index.html"
    if len(runs) == 1:
        [run] = runs
        rows = rows_of(run)
        pictures = save_pictures(rows, directory) if rows else []
        courses = _save({name: [figure] for name, figure in _courses(run).items()}, directory)
        shown = [path for row in courses for path in row if path is not None]
        save_page(page, render_page(rows, pictures, run.manifest, shown))
    else:
        save_page(page, _render_side_by_side(runs, directory))
    return page


def _courses(run: Run) -> Figures:
    with mpl.rc_context(STYLE):
        return courses_of(run)


def _save(rows: dict[str, list[Figure | None]], directory: Path) -> list[list[Path | None]]:
    """Save pictures, a row each name, a column each run."""
    saved: list[list[Path | None]] = []
    for name, figures in rows.items():
        line: list[Path | None] = []
        for place, figure in enumerate(figures, 1):
            path = directory / (f"{place}-{name}.png" if len(figures) > 1 else f"{name}.png")
            if figure is not None:
                with mpl.rc_context(STYLE):
                    figure.savefig(path)
            line.append(None if figure is None else path)
        saved.append(line)
    return saved


def _in_columns(each: Sequence[Figures], *, only_x: bool) -> dict[str, list[Figure | None]]:
    """Return a row of pictures for each name, in which all have the same axes."""
    found: dict[str, list[Figure | None]] = {}
    for name in dict.fromkeys(name for figures in each for name in figures):
        found[name] = [figures.get(name) for figures in each]
        share_axes([figure for figure in found[name] if figure is not None], only_x=only_x)
    return found


def _key(row: Row) -> Key:
    return row.rmap, row.caps, row.format


def _lines(
    figures: Sequence[tuple[str, Callable[[Row], float | None], Callable[[float | None], str]]],
    rows: Sequence[Row | None],
) -> list[dict[str, Any]]:
    """Return a line for each figure of one row in all runs; figures that no run tells are left out."""
    lines = []
    for name, value_of, write in figures:
        values = [None if row is None else value_of(row) for row in rows]
        if all(value is None for value in values):
            continue
        cells = [write(value) for value in values]
        if len(values) == 2:
            cells.append(change(*values))
        lines.append({"name": name, "cells": cells, "differs": len(set(values)) > 1})
    return lines


def _tables(each: Sequence[Sequence[Row]]) -> list[tuple[str, list[dict[str, Any]]]]:
    keys = list(dict.fromkeys(_key(row) for rows in each for row in rows))
    shown = [next(row for rows in each for row in rows if _key(row) == key) for key in keys]
    groups: dict[str, list[dict[str, Any]]] = {"counts": [], "times": []}
    for key, label in zip(keys, labels(shown), strict=True):
        same = [next((row for row in rows if _key(row) == key), None) for rows in each]
        errors = [None if row is None else row.error for row in same]
        outcome = [_outcome(row) for row in same] if any(errors) or None in same else []
        lines = _lines(_COUNTS, same)
        if outcome:
            cells = [*outcome, number(None)] if len(same) == 2 else outcome
            lines.insert(0, {"name": "outcome", "cells": cells, "differs": len(set(outcome)) > 1})
        groups["counts"].append({"label": label, "lines": lines})
        groups["times"].append({"label": label, "lines": _lines(_TIMES, same)})
    return [
        ("Counts and amounts, which the seed decides", groups["counts"]),
        ("Times, which depend on the computer and on what else it does", groups["times"]),
    ]


def _outcome(row: Row | None) -> str:
    if row is None:
        return "did not run"
    return row.error or "ran"


def _render_side_by_side(runs: Sequence[Run], directory: Path) -> str:
    each = [rows_of(run) for run in runs]
    bars = _in_columns([draw_pictures(rows) if rows else {} for rows in each], only_x=True)
    courses = _in_columns([_courses(run) for run in runs], only_x=False)
    pictures = _save(bars | courses, directory)
    headings = []
    for run, rows, title in zip(runs, each, titles(runs), strict=True):
        what = summary_title(rows, run.manifest["config"].get("nr_pages"))
        headings.append(heading(run, title) | {"said": all_verdicts(rows, run.manifest), "what": what})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emu.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("compare_runs.html.j2").render(
        runs=headings,
        differing=differing([one["facts"] for one in headings]),
        tables=_tables(each),
        pictures=[[None if path is None else picture_of(path) for path in row] for row in pictures],
    )
