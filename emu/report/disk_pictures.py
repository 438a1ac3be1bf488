"""Pictures of the disk experiment: dirty pages under their limits, syncs, and what a byte costs the disk."""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from matplotlib.figure import Figure

from emu.lab.disk_writeback import Measured
from emu.report.style import BLUE, GREEN, GREY, LIGHT, ORANGE, PURPLE, VERMILLION, legend, picture
from emu.report.timeline import column, times
from emu.units import MIB, format_size

TOLERANCE = 1.02
"""The kernel counts dirty pages a CPU at a time, and tells of its own limit only roughly."""

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE)
_WHO = {"fremap": "a mount of fremap", "kernel": "the real kernel"}


def _short(nbytes: int) -> str:
    return format_size(nbytes).replace(".0 ", " ")


def _name(one: Measured) -> str:
    return f"{one.cell.filesystem}, {_short(one.cell.limit)}, {one.cell.via}"


def draw_disk_dirty(found: Sequence[Measured]) -> Figure:
    """Draw what was dirty or under writeback on one filesystem: left in the mount, right in the kernel."""
    figure = Figure(figsize=(9, 4.2), dpi=120)
    held = all(one.most_dirty <= one.cell.limit * TOLERANCE for one in found)
    said = "the limits hold" if held else "beyond the limit"
    title = f"Dirty and under writeback, {found[0].cell.filesystem}: {said}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    limits = sorted({one.cell.limit for one in found})
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (via, who) in zip(panels, _WHO.items(), strict=True):
        for one in found:
            if one.cell.via != via:
                continue
            colour = _COLOURS[limits.index(one.cell.limit) % len(_COLOURS)]
            waits = (column(one.samples, "dirty") + column(one.samples, "writeback")) / MIB
            axes.plot(times(one.samples), waits, color=colour, label=f"under {_short(one.cell.limit)}",
                      drawstyle="steps-post")  # fmt: skip
            axes.axhline(one.cell.limit / MIB, color=colour, linestyle="--", linewidth=1)
        axes.set_title(who, fontsize=11, fontweight="normal", pad=26)
        axes.set_xlabel("seconds")
        axes.set_xlim(0, None)
        axes.set_ylim(0, max(limits) / MIB * 1.08)
        legend(axes)
    panels[0].set_ylabel("MiB; dashed: the limit")
    return figure


def draw_disk_fsync(found: Sequence[Measured]) -> Figure:
    """Draw how long the log's fsyncs took beside the writer: all of them, their median marked."""
    figure, axes = picture("How long a small fsync takes beside a large writer", "", "milliseconds (log scale)")
    figure.set_size_inches(9, 1.6 + 0.34 * len(found))
    for place, one in enumerate(found):
        if not one.fsync_s:
            continue
        spent_ms = np.array(one.fsync_s) * 1000
        mark, colour = ("o", BLUE) if one.cell.via == "fremap" else ("s", ORANGE)
        axes.plot(spent_ms, np.full(len(spent_ms), place), mark, color=colour, alpha=0.25, markersize=6,
                  markeredgewidth=0)  # fmt: skip
        axes.plot(np.median(spent_ms), place, "|", color="#000000", markersize=15, markeredgewidth=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _at: f"{value:g}")
    axes.set_yticks(range(len(found)), [_name(one) for one in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    for mark, colour, who in (("o", BLUE, "fremap"), ("s", ORANGE, "kernel")):
        axes.plot([], [], mark, color=colour, label=f"a sync under {who}")
    axes.plot([], [], "|", color="#000000", markersize=13, markeredgewidth=2, label="median")
    legend(axes)
    return figure


def draw_disk_amplification(found: Sequence[Measured]) -> Figure:
    """Draw the bytes that the device was given for each byte that the programs wrote."""
    figure, axes = picture("What a byte costs the disk", "", "bytes given to the device, for each written")
    figure.set_size_inches(9, 1.6 + 0.34 * len(found))
    values = [one.row.disk_per_byte for one in found]
    colours = [BLUE if one.cell.via == "fremap" else LIGHT for one in found]
    axes.barh(range(len(found)), values, height=0.62, color=colours)
    for place, value in enumerate(values):
        axes.annotate(f"{value:.3f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=9.5)  # fmt: skip
    axes.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(found)), [_name(one) for one in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, *values) * 1.12)
    return figure


def disk_pictures(found: Sequence[Measured]) -> dict[str, Callable[[], Figure]]:
    """Return what is to be drawn, by name: a picture of dirty pages for each filesystem, then the rest."""
    drawn: dict[str, Callable[[], Figure]] = {}
    for filesystem, group in groupby(found, key=lambda one: one.cell.filesystem):
        of_it = list(group)
        drawn[f"dirty-{filesystem}"] = lambda of_it=of_it: draw_disk_dirty(of_it)  # type: ignore[misc]
    drawn["fsync"] = lambda: draw_disk_fsync(found)
    drawn["amplification"] = lambda: draw_disk_amplification(found)
    return drawn
