"""The whole answer as pictures: cost against size, memory against dirty share, wait against threads.

A strategy has one colour and one marker in all of them; both tell it apart, so that neither has to alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from emu.lab.answer_bench import ORDERS
from emu.lab.answer_cells import SHARES
from emu.lab.answer_rows import Answer
from emu.lab.contention_inputs import mean_wait

_LOOKS: dict[str, tuple[str, str]] = {
    "none": ("#767676", "x"),
    "scan": ("#D55E00", "s"),
    "pte_chain": ("#E69F00", "^"),
    "slot_chain": ("#CC79A7", "v"),
    "range_tree": ("#009E73", "D"),
    "shadow": ("#56B4E9", "P"),
    "linear_vmas": ("#000000", "o"),
    "linear_vmas_accounted": ("#000000", "+"),
    "dirty_index": ("#0072B2", "*"),
}
_STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
Point = tuple[float, float]


def _look(name: str) -> dict[str, Any]:
    color, marker = _LOOKS.get(name, ("#767676", "."))
    return {"color": color, "marker": marker, "markersize": 9 if marker == "*" else 6, "linewidth": 1.6}


def _plot(axes: Axes, lines: dict[str, Sequence[Point]]) -> None:
    for name, points in lines.items():
        if points:
            axes.plot([x for x, _ in points], [y for _, y in points], label=name, **_look(name))


def _pages(axes: Axes, answer: Answer) -> None:
    """Label the axis with the sizes that were measured, as people say them."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted({row.pages for row in answer.costs})))
    axes.set_xlabel("pages mapped")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _at: _short(value)))


def _short(value: float) -> str:
    for unit, size in (("M", 1 << 20), ("k", 1 << 10)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _plain(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:,.10g}"))


def _fine(axes: Axes) -> None:
    """Label 1, 2 and 5 of each decade, for values that span few."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _plain(axes.yaxis)


def _by_size(answer: Answer, field: str) -> dict[str, Sequence[Point]]:
    lines: dict[str, list[Point]] = {row.rmap: [] for row in answer.costs}
    for row in answer.costs:
        value = getattr(row, field)
        if row.error is None and value:
            lines[row.rmap].append((row.pages, value))
    return dict(lines)


def draw_mkclean(answer: Answer) -> Figure:
    """Draw how far page_mkclean and reclaim must look for one page, against the size of the mapping."""
    figure = Figure(figsize=(10.5, 4.6), dpi=120)
    left, right = figure.subplots(1, 2)
    for axes, field, title in (
        (left, "mkclean_visits", "page_mkclean of one page"),
        (right, "unmap_visits_max", "reclaim of one page, the worst of 8"),
    ):
        _plot(axes, _by_size(answer, field))
        _pages(axes, answer)
        axes.set_yscale("log")
        axes.set_title(title)
        _plain(axes.yaxis)
    left.set_ylabel("PTEs and nodes visited (log)")
    _legend(figure, right)
    return figure


def draw_operations(answer: Answer) -> Figure:
    """Draw what a remap and a fault take, against the size of the mapping."""
    figure = Figure(figsize=(10.5, 4.6), dpi=120)
    left, right = figure.subplots(1, 2)
    for axes, field, title in ((left, "remap_us", "remap_file_pages, a page"), (right, "fault_us", "fault on a page")):
        _plot(axes, _by_size(answer, field))
        _pages(axes, answer)
        axes.set_yscale("log")
        axes.set_title(title)
        _fine(axes)
    left.set_ylabel("microseconds of CPU time in this emulator (log)")
    _legend(figure, right)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    for other in figure.axes:
        for handle, name in zip(*other.get_legend_handles_labels(), strict=True):
            if name not in names:
                handles.append(handle)
                names.append(name)
    figure.legend(handles, names, loc="outside right center")


def draw_memory(answer: Answer) -> Figure:
    """Draw bytes a page beyond the PTE against the dirty share, for each order at the largest size measured."""
    figure = Figure(figsize=(10.5, 6.4), dpi=120)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, order in zip(grid.flat, ORDERS, strict=True):
        lines: dict[str, list[Point]] = {row.rmap: [] for row in answer.memory}
        largest: dict[str, int] = {}
        for row in answer.memory:
            if row.order == order and row.error is None:
                largest[row.rmap] = max(largest.get(row.rmap, 0), row.pages)
        for row in answer.memory:
            if row.order == order and row.error is None and row.pages == largest[row.rmap]:
                lines[row.rmap].append((SHARES.index(row.dirty_share), row.bytes_per_page or 0.0))
        _plot(axes, {name: points for name, points in lines.items() if any(y for _, y in points)})
        axes.set_yscale("symlog", linthresh=0.01, linscale=0.4)
        axes.set_ylim(0, 400)
        axes.set_yticks([0, 0.01, 0.1, 1, 8, 24, 176], ["0", "0.01", "0.1", "1", "8", "24", "176"])
        axes.axhline(8, color="#999999", linewidth=1, linestyle="--")
        axes.set_xticks(range(len(SHARES)), [f"{share:.0%}" for share in SHARES])
        axes.set_title(f"{order} order")
    for axes in grid[:, 0]:
        axes.set_ylabel("bytes a mapped page (log)")
    for axes in grid[1]:
        axes.set_xlabel("share of the pages that is dirty")
    figure.suptitle("Memory beyond the page table; dashed: sizeof(pte_t). none and scan need nothing", fontsize=11)
    _legend(figure, grid[0, 0])
    return figure


def draw_waits(answer: Answer) -> Figure:
    """Draw the simulated wait for locks against threads, a panel for each price of a visit."""
    prices = sorted({row.visit_ns for row in answer.waits})
    figure = Figure(figsize=(10.5, 4.6), dpi=120)
    panels = figure.subplots(1, max(len(prices), 1), sharey=True, squeeze=False)[0]
    for axes, price in zip(panels, prices, strict=False):
        lines: dict[str, list[Point]] = {}
        dashed: list[Point] = []
        for row in answer.waits:
            if row.visit_ns != price:
                continue
            point = (row.threads, max(mean_wait(row), 1e-3))
            if row.rmap == "range_tree" and row.lock == "mmap_sem":
                dashed.append(point)
            else:
                lines.setdefault(row.rmap, []).append(point)
        _plot(axes, dict(lines))
        if dashed:
            style = _look("range_tree") | {"linestyle": "--", "markerfacecolor": "white"}
            axes.plot([x for x, _ in dashed], [y for _, y in dashed], label="range_tree, mm-wide", **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        _plain(axes.xaxis)
        _plain(axes.yaxis)
        axes.set_xlabel("threads")
        axes.set_title(f"{price:g} ns a visit")
    panels[0].set_ylabel("mean wait for locks, us (log)")
    _legend(figure, panels[0])
    return figure


DRAWINGS: dict[str, Callable[[Answer], Figure]] = {
    "answer_visits": draw_mkclean,
    "answer_operations": draw_operations,
    "answer_memory": draw_memory,
    "answer_waits": draw_waits,
}


def save_answer_pictures(answer: Answer, directory: Path) -> list[Path]:
    """Draw every picture that there are rows for into a directory as PNG and return the files."""
    saved = []
    rows: dict[str, Sequence[object]] = {"answer_memory": answer.memory, "answer_waits": answer.waits}
    with mpl.rc_context(_STYLE):
        for name, draw in DRAWINGS.items():
            if not rows.get(name, answer.costs):
                continue
            path = directory / f"{name}.png"
            draw(answer).savefig(path)
            saved.append(path)
    return saved
