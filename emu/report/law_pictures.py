"""The control law drawn from its own code: `python -m emu.report.law_pictures DIRECTORY` makes the pictures."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emu.report.law_model import Setting, simulate
from emu.report.style import BLUE, GREEN, GREY, ORANGE, STYLE, VERMILLION, legend, picture
from fsbackend.throttle import DirtyParams, Thresholds, pos_ratio

PAGES_PER_MIB = 256
LIMITS = Thresholds(32 * PAGES_PER_MIB, 64 * PAGES_PER_MIB)
DISK_RATE = 100 * PAGES_PER_MIB


def _mark_limits(axes: Axes, *, upright: bool) -> None:
    """Draw the four amounts that the law knows, named at the edge."""
    for name, at, colour in (
        ("background", LIMITS.background, GREY),
        ("freerun", LIMITS.freerun, GREY),
        ("setpoint", LIMITS.setpoint, GREEN),
        ("limit", LIMITS.dirty, VERMILLION),
    ):
        value = at / PAGES_PER_MIB
        if upright:
            axes.axvline(value, color=colour, linestyle="--", linewidth=1)
            axes.annotate(name, (value, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9.5)
        else:
            axes.axhline(value, color=colour, linestyle="--", linewidth=1)
            axes.annotate(
                name, (1.005, value), xycoords=("axes fraction", "data"), va="center", fontsize=9.5,
                annotation_clip=False,
            )  # fmt: skip


def draw_ratio() -> Figure:
    """Draw pos_ratio from nothing dirty to the limit."""
    figure, axes = picture("What share of the fair rate a writer is given", "pos_ratio", "dirty, MiB")
    dirty = np.linspace(0, LIMITS.dirty, 600)
    axes.plot(dirty / PAGES_PER_MIB, [pos_ratio(pages, LIMITS) for pages in dirty], color=BLUE, linewidth=2.2)
    axes.axvspan(0, LIMITS.freerun / PAGES_PER_MIB, color="#f1f1f1", zorder=0)
    axes.annotate("nobody is asked to wait here", (LIMITS.freerun / PAGES_PER_MIB / 2, 1.0), ha="center")
    _mark_limits(axes, upright=True)
    axes.set_xlim(0, LIMITS.dirty / PAGES_PER_MIB * 1.03)
    axes.set_ylim(0, 2.1)
    return figure


def draw_writers() -> Figure:
    """Draw the dirty pages of one, four and sixteen writers who write as fast as they can."""
    figure, axes = picture("However many write, the limit holds", "dirty, MiB")
    for writers, colour, style in ((1, BLUE, "-"), (4, ORANGE, "--"), (16, VERMILLION, ":")):
        course = simulate(Setting(DirtyParams(), LIMITS, DISK_RATE, writers=writers, seconds=20.0))
        label = f"{writers} writer{'s' if writers > 1 else ''}"
        axes.plot(course.times_s, np.array(course.dirty) / PAGES_PER_MIB, style, color=colour, label=label)
    _mark_limits(axes, upright=False)
    axes.set_ylim(0, LIMITS.dirty / PAGES_PER_MIB * 1.08)
    legend(axes)
    return figure


def draw_kernels() -> Figure:
    """Draw the dirty pages of four writers under the law, and under the rule of Linux 2.6.20."""
    figure, axes = picture("Linux 2.6.20 knew no setpoint: its writers ran into the limit", "dirty, MiB")
    for kernel, colour, style in (("2.6.20", VERMILLION, "-"), ("3.6", BLUE, "-")):
        setting = Setting(DirtyParams.preset(kernel), LIMITS, DISK_RATE, writers=4, seconds=20.0)
        course = simulate(setting)
        longest_ms = max(pause_s for _when, pause_s in course.pauses) * 1000
        name = f"Linux {kernel}: {len(course.pauses):,} pauses, the longest {longest_ms:.0f} ms"
        axes.plot(course.times_s, np.array(course.dirty) / PAGES_PER_MIB, style, color=colour, label=name)
    _mark_limits(axes, upright=False)
    axes.set_ylim(0, LIMITS.dirty / PAGES_PER_MIB * 1.08)
    legend(axes)
    return figure


DRAWINGS = {"law_ratio": draw_ratio, "law_writers": draw_writers, "law_kernels": draw_kernels}


def save_law(directory: Path) -> list[Path]:
    """Draw every picture into a directory as PNG and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    saved = []
    with mpl.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            path = directory / f"{name}.png"
            draw().savefig(path)
            saved.append(path)
    return saved


if __name__ == "__main__":
    for saved_path in save_law(Path(sys.argv[1] if len(sys.argv) > 1 else ".")):
        print(saved_path)  # noqa: T201 - what a command says
