"""The comparison as pictures: one idea each, log axes where values span decades, colours for everybody."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from emu.lab.rows import Row
from emu.report.style import BLUE, GREEN, GREY, ORANGE, VERMILLION
from emu.report.table import format_number, format_share, visits_per_call
from emu.units import format_size

__all__ = ["BLUE", "DRAWINGS", "GREEN", "GREY", "ORANGE", "VERMILLION", "labels", "save_pictures"]

_STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#dddddd",
    "ytick.left": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def labels(rows: Sequence[Row]) -> list[str]:
    """Return a label a row: the strategy, and what else tells it from the others."""
    several_caps = len({row.caps for row in rows}) > 1
    several_formats = len({row.format for row in rows}) > 1
    return [
        row.rmap + (f" · {row.caps}" if several_caps else "") + (f" · {row.format}" if several_formats else "")
        for row in rows
    ]


def _frame(rows: Sequence[Row], title: str, xlabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 1.9 + 0.42 * len(rows)), dpi=120)
    axes = figure.add_subplot()
    axes.set_title(title, pad=28)
    axes.set_xlabel(xlabel)
    axes.set_yticks(range(len(rows)), labels(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure, axes


def _legend(axes: Axes) -> None:
    """Put the legend between the title and the bars, where nothing can hide behind it."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, borderaxespad=0, handlelength=1.2)


def _write_beside(axes: Axes, values: Sequence[float], texts: Sequence[str], offset: float = 0.0) -> None:
    """Write each value at the end of its bar: exact numbers are read, lengths are compared."""
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(
            text,
            (value, place + offset),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
        )


def draw_lost(rows: Sequence[Row]) -> Figure:
    """Draw what an ordinary process found of the pages that msync promised."""
    shown = [row for row in rows if row.lost_pages is not None]
    figure, axes = _frame(shown, "msync said they are on the disk. Are they?", "pages stored after the writeback")
    lost = [row.lost_pages or 0 for row in shown]
    kept = [(row.dirty_pages or 0) - (row.lost_pages or 0) for row in shown]
    places = range(len(shown))
    axes.barh(places, kept, color=BLUE, height=0.62, label="found as stored")
    axes.barh(
        places, lost, left=kept, color=VERMILLION, height=0.62, hatch="///", edgecolor="white", label="lost"
    )
    totals = [row.dirty_pages or 0 for row in shown]
    texts = [f"{gone:,} lost" if gone else f"all {total:,}" for gone, total in zip(lost, totals, strict=True)]
    _write_beside(axes, totals, texts)
    axes.set_xlim(0, max([1, *totals]) * 1.16)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:,.0f}"))
    _legend(axes)
    return figure


def draw_memory(rows: Sequence[Row]) -> Figure:
    """Draw what each strategy allocates beyond the page tables, beside the page tables themselves."""
    shown = [row for row in rows if row.rmap_bytes is not None and row.pte_bytes is not None]
    figure, axes = _frame(shown, "What does finding the PTEs cost in memory?", "bytes at the peak (log scale)")
    own = [row.rmap_bytes or 0 for row in shown]
    ptes = [row.pte_bytes or 0 for row in shown]
    places = range(len(shown))
    axes.barh([at - 0.2 for at in places], ptes, height=0.34, color="#bbbbbb", label="page tables (leaves)")
    axes.barh([at + 0.2 for at in places], own, height=0.34, color=BLUE, label="the reverse map's own")
    low = min([value for value in [*own, *ptes] if value] or [1]) / 4
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, max([1, *own, *ptes]) * 3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _at: format_size(value).replace(".0 ", " ")))
    _write_beside(axes, ptes, [format_size(value) for value in ptes], -0.2)
    _write_beside(
        axes,
        [max(value, low) for value in own],
        [
            f"{format_size(mine)} ({format_share(mine / all_ptes)} of that)" if mine else "0"
            for mine, all_ptes in zip(own, ptes, strict=True)
        ],
        0.2,
    )
    _legend(axes)
    return figure


def draw_visits(rows: Sequence[Row]) -> Figure:
    """Draw how many PTEs and nodes one page_mkclean looks at: what a kernel would pay in time."""
    shown = [row for row in rows if visits_per_call(row) is not None]
    title = "How far must page_mkclean look for one page?"
    figure, axes = _frame(shown, title, "PTEs and nodes visited, a call (log scale)")
    if not shown:
        axes.text(0.5, 0.5, "page_mkclean was never called", transform=axes.transAxes, ha="center", color=GREY)
        return figure
    values = [visits_per_call(row) or 0.0 for row in shown]
    low = min([1.0, *(value for value in values if value)]) / 3
    axes.hlines(range(len(shown)), low, [max(value, low) for value in values], color="#cccccc", linewidth=2)
    ends = [max(value, low) for value in values]
    axes.plot(ends, range(len(shown)), "o", color=BLUE, markersize=9, clip_on=False)
    axes.set_xscale("log")
    axes.set_xlim(low, max([1, *values]) * 4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    texts = [format_number(value) if value else "0: it finds no PTE, and that is the hole" for value in values]
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(
            text, (max(value, low), place), xytext=(9, 0), textcoords="offset points", va="center", fontsize=9.5
        )
    return figure


def draw_times(rows: Sequence[Row]) -> Figure:
    """Draw microseconds for a remapped page and for a fault on a cached page."""
    shown = [row for row in rows if row.remap_us_per_page is not None]
    figure, axes = _frame(shown, "How long do a remap and a fault take?", "microseconds, in this emulator")
    remaps = [row.remap_us_per_page or 0.0 for row in shown]
    faults = [row.fault_us or 0.0 for row in shown]
    places = range(len(shown))
    axes.barh([at - 0.2 for at in places], remaps, height=0.34, color=BLUE, label="remap_file_pages, a page")
    axes.barh([at + 0.2 for at in places], faults, height=0.34, color=ORANGE, label="fault on a cached page")
    _write_beside(axes, remaps, [format_number(value) for value in remaps], -0.2)
    _write_beside(axes, faults, [format_number(value or None) for value in faults], 0.2)
    axes.set_xlim(0, max([1.0, *remaps, *faults]) * 1.12)
    _legend(axes)
    return figure


DRAWINGS: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "lost": draw_lost,
    "memory": draw_memory,
    "visits": draw_visits,
    "times": draw_times,
}


def draw_pictures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Draw every picture, by its name."""
    with mpl.rc_context(_STYLE):
        return {name: draw(rows) for name, draw in DRAWINGS.items()}


def save_pictures(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw every picture into a directory as PNG and return the files."""
    saved = []
    for name, figure in draw_pictures(rows).items():
        path = directory / f"{name}.png"
        with mpl.rc_context(_STYLE):
            figure.savefig(path)
        saved.append(path)
    return saved
