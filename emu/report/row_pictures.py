"""The courses of time of a comparison's rows: one idea a picture, a panel or a line for each reverse map.

Time is seconds since the row's machine booted, counts are pages, or PTEs and nodes. Rows of one backing and format
share a picture; pictures of two comparisons share their axes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emu.report.runs import Run
from emu.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

Floats = npt.NDArray[np.float64]

LEAST_SERIES = 3
"""Lines of vmstat.csv below which there is no course of time to draw."""

_WIDE_ENOUGH = 0.1
_MOST_APART = 4
"""Rows whose times differ by a larger factor have no linear axis of time in common."""

_FIRST_S = 0.1
_SHORT = {
    "reading the file in": "read in",
    "remapping, one page a call": "remap",
    "storing generation 1, writing back": "store, write back",
    "storing generation 2": "store again",
    "reading by an ordinary process": "power cut, read",
}
_LINES = {
    "none": (GREY, "--"),
    "scan": (VERMILLION, "-"),
    "pte_chain": (ORANGE, "-."),
    "slot_chain": (PURPLE, ":"),
    "range_tree": (GREEN, "-"),
    "shadow": (SKY, "--"),
    "linear_vmas": (BLACK, "-."),
    "linear_vmas_accounted": (BLACK, ":"),
    "dirty_index": (BLUE, "-"),
}
"""The colours of compare --all; the styles tell lines apart where colours do not."""


def has_course(run: Run) -> bool:
    """Tell whether a row has enough lines over time to be drawn."""
    return len(run.series) >= LEAST_SERIES


def _column(run: Run, name: str) -> Floats:
    return np.array([row.get(name, 0) for row in run.series], dtype=np.float64)


def _at(run: Run) -> Floats:
    return _column(run, "time_s") - run.series[0]["time_s"]


def _span_s(runs: Sequence[Run]) -> float:
    return max([float(_at(run)[-1]) for run in runs] + [1e-3])


def _name(run: Run) -> str:
    state = " (cut short)" if run.cut_short else ""
    return f"{run.manifest['config'].get('rmap', run.label)}{state}"


def _mark_steps(axes: Axes, run: Run, span_s: float) -> None:
    """Shade every other step; name those that are wide enough, above the panel."""
    began_s = run.series[0]["time_s"]
    for number, step in enumerate(run.steps):
        start_s = max(step.began_s - began_s, 0.0)
        end_s = float(_at(run)[-1]) if step.ended_s is None else step.ended_s - began_s
        if end_s <= start_s:
            continue
        if number % 2:
            axes.axvspan(start_s, end_s, color="#f2f2f2", linewidth=0, zorder=0)
        if end_s - start_s > _WIDE_ENOUGH * span_s and step.title in _SHORT:
            middle = ((start_s + end_s) / 2, 1.0)
            axes.annotate(_SHORT[step.title], middle, xycoords=("data", "axes fraction"), xytext=(0, -3),
                          textcoords="offset points", ha="center", va="top", fontsize=8, color="#444444",
                          bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1})  # fmt: skip


def _panels(runs: Sequence[Run], title: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """Return a panel for each row, each with a time of its own where the shortest would be lost in the longest's."""
    common = _span_s(runs) <= _MOST_APART * min(_span_s([run]) for run in runs)
    figure = Figure(figsize=(9, 1.2 + (1.15 if common else 1.3) * len(runs)), dpi=120)
    panels = list(figure.subplots(len(runs), 1, sharex=common, sharey=True, squeeze=False)[:, 0])
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.supylabel(ylabel, fontsize=11)
    for axes, run in zip(panels, runs, strict=True):
        span_s = _span_s(runs if common else [run])
        _mark_steps(axes, run, span_s)
        axes.set_title(_name(run), loc="left", fontsize=10.5, pad=3)
        axes.set_xlim(0, span_s)
        axes.yaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    own = "" if common else "; each panel has its own time"
    panels[-1].set_xlabel(f"seconds since the machine booted{own}")
    return figure, panels


def draw_waiting(runs: Sequence[Run]) -> Figure:
    """Draw, a panel for each reverse map, the pages that the kernel knows to be dirty or under writeback.

    Pages that were stored to and that nobody noticed stand beside them, hatched.
    """
    figure, panels = _panels(runs, "What waits to be written, and what the kernel knows of", "pages")
    for axes, run in zip(panels, runs, strict=True):
        at, dirty, writeback = _at(run), _column(run, "nr_dirty"), _column(run, "nr_writeback")
        axes.fill_between(at, dirty, color=BLUE, linewidth=0, label="dirty")
        axes.fill_between(at, dirty, dirty + writeback, color=ORANGE, linewidth=0, label="under writeback")
        unnoticed = _column(run, "unaccounted_dirty_max")
        axes.fill_between(at, unnoticed, facecolor="none", edgecolor=VERMILLION, hatch="////", linewidth=0.8,
                          label="stored to, noticed by nobody (most so far)")  # fmt: skip
    # Room above for the names of the steps.
    panels[0].set_ylim(0, 1.25 * max(panels[0].get_ylim()[1], 1.0))
    _legend_below(figure, panels[0])
    return figure


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=5, fontsize=10)


def _draw_lines(runs: Sequence[Run], title: str, ylabel: str, values: Callable[[Run], Floats], scale: str) -> Figure:
    figure = Figure(figsize=(9, 4.2), dpi=120)
    axes = figure.add_subplot()
    axes.set_title(title, pad=10)
    apart = _span_s(runs) > _MOST_APART * min(_span_s([run]) for run in runs)
    axes.set_xlabel(f"seconds since the machine booted{' (log scale)' if apart else ''}")
    axes.set_ylabel(ylabel)
    for run in runs:
        colour, style = _LINES.get(run.manifest["config"].get("rmap", ""), (GREY, "-"))
        found = values(run)
        label = f"{_name(run)}: {found[-1]:,.0f}"
        axes.plot(_at(run), found, color=colour, linestyle=style, linewidth=2, drawstyle="steps-post", label=label)
    if scale == "log":
        axes.set_yscale("symlog", linthresh=1)
        # Whole decades only, and no more of them than can be read.
        most = max([10.0, *(float(values(run)[-1]) for run in runs)])
        axes.set_ylim(0, most * 3)
    else:
        axes.set_ylim(0, None)
    if apart:
        axes.set_xscale("log")
        axes.set_xlim(_FIRST_S, _span_s(runs))
        axes.xaxis.set_major_formatter(lambda value, _at: f"{value:g}")
    else:
        axes.set_xlim(0, _span_s(runs))
    axes.yaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9.5, title="at the end", alignment="left")
    return figure


def draw_written(runs: Sequence[Run]) -> Figure:
    """Draw how many pages writeback had written so far, a line for each reverse map."""
    title = "What writeback has written so far"
    return _draw_lines(runs, title, "pages", lambda run: _column(run, "nr_written"), "linear")


def draw_looked_at(runs: Sequence[Run]) -> Figure:
    """Draw how many PTEs and nodes page_mkclean had looked at so far, a line for each reverse map."""

    def visits(run: Run) -> Floats:
        return _column(run, "mkclean_pte_visits") + _column(run, "mkclean_node_visits")

    title = "How much page_mkclean has looked at so far"
    return _draw_lines(runs, title, "PTEs and nodes (log scale)", visits, "log")


COURSES: dict[str, Callable[[Sequence[Run]], Figure]] = {
    "waiting": draw_waiting,
    "written": draw_written,
    "looked_at": draw_looked_at,
}


def courses_of(run: Run) -> dict[str, Figure]:
    """Return the pictures of a comparison's rows by name: NAME, or NAME-CAPS-FORMAT where there are several grounds."""
    grounds: dict[tuple[str, str], list[Run]] = {}
    for row in run.rows:
        config = row.manifest["config"]
        if has_course(row):
            grounds.setdefault((str(config.get("caps")), str(config.get("format"))), []).append(row)
    found = {}
    for (caps, fmt), rows in grounds.items():
        accounted = any(_column(row, "nr_written").any() or _column(row, "nr_dirty").any() for row in rows)
        if not accounted:
            continue  # memory without writeback: there is nothing to see, and the table says so
        for name, draw in COURSES.items():
            found[f"{name}-{caps}-{fmt}" if len(grounds) > 1 else name] = draw(rows)
    return found
