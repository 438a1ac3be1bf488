"""Pictures of a recorded mount: one idea each, time on the x axis, amounts in MiB."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emu.lab.observe import Rates, Sample
from emu.report.pictures import BLUE, GREEN, GREY, ORANGE, VERMILLION
from emu.units import MIB
from fsbackend.throttle import pos_ratio_polynom

_STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_LEAST_STEP_S = 0.2

Floats = npt.NDArray[np.float64]


def column(samples: Sequence[Sample], name: str) -> Floats:
    """Return one field (or property) of all samples."""
    return np.array([getattr(sample, name) for sample in samples], dtype=np.float64)


def times(samples: Sequence[Sample]) -> Floats:
    """Return seconds since the first sample."""
    began_s = samples[0].time_s
    return np.array([sample.time_s - began_s for sample in samples], dtype=np.float64)


def rates(samples: Sequence[Sample]) -> tuple[Floats, list[Rates]]:
    """Return rates over steps of at least 0.2 s, and the time in the middle of each step."""
    kept = [samples[0]]
    for sample in samples[1:]:
        if sample.time_s - kept[-1].time_s >= _LEAST_STEP_S:
            kept.append(sample)
    if len(kept) == 1 and len(samples) > 1:
        kept.append(samples[-1])
    steps = list(pairwise(kept))
    middles = np.array([(a.time_s + b.time_s) / 2 - samples[0].time_s for a, b in steps])
    return middles, [Rates.between(a, b) for a, b in steps]


def _frame(title: str, ylabel: str, xlabel: str = "seconds") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 3.8), dpi=120)
    axes = figure.add_subplot()
    axes.set_title(title, pad=28)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, borderaxespad=0, handlelength=1.6)


def draw_dirty(samples: Sequence[Sample]) -> Figure:
    """Draw dirty and writeback bytes over time, with the limits drawn in."""
    figure, axes = _frame("What waits to be written, and the limits", "MiB")
    at = times(samples)
    dirty, writeback = column(samples, "dirty") / MIB, column(samples, "writeback") / MIB
    axes.fill_between(at, dirty, color=BLUE, alpha=0.85, linewidth=0, label="dirty", step="post")
    axes.fill_between(
        at, dirty, dirty + writeback, color=ORANGE, alpha=0.9, linewidth=0, label="under writeback", step="post"
    )
    limit = column(samples, "own_limit") / MIB
    setpoint = column(samples, "setpoint") / MIB
    highest = float((dirty + writeback).max())
    # Far away limits would press the data into the floor: they are named instead.
    if limit.max() <= 20 * max(highest, 1e-9):
        axes.plot(at, limit, color=VERMILLION, label="limit", drawstyle="steps-post")
        axes.plot(at, setpoint, color=GREY, linestyle="--", label="setpoint", drawstyle="steps-post")
    else:
        axes.annotate(f"limit {limit.max():,.0f} MiB, far above", (1.0, 1.03), xycoords="axes fraction", ha="right")
    axes.set_ylim(0, None)
    _legend(axes)
    return figure


def draw_rates(samples: Sequence[Sample]) -> Figure:
    """Draw what was dirtied, what was written back, and what the disk was given."""
    figure, axes = _frame("How fast it is dirtied, and how fast written", "MiB a second")
    at, found = rates(samples)
    for name, label, colour, style in (
        ("dirtied", "dirtied by writers", BLUE, "-"),
        ("written", "written to the store", GREEN, "-"),
        ("disk_written", "written by the disk (all of it)", GREY, ":"),
    ):
        axes.plot(at, [getattr(rate, name) / MIB for rate in found], style, color=colour, label=label, marker=".")
    axes.set_ylim(0, None)
    _legend(axes)
    return figure


def draw_pauses(samples: Sequence[Sample]) -> Figure:
    """Draw how much of the time writers were made to sleep."""
    figure, axes = _frame("How long writers are made to wait", "seconds asleep, a second")
    at, found = rates(samples)
    axes.fill_between(at, [rate.paused for rate in found], color=VERMILLION, alpha=0.85, linewidth=0, step="mid")
    total = samples[-1].paused_s - samples[0].paused_s
    count = samples[-1].pauses - samples[0].pauses
    said = f"{count:,} pauses, {total:.2f} s in all" if count else "nobody was ever throttled"
    axes.annotate(said, (0.0, 1.03), xycoords="axes fraction")
    axes.set_ylim(0, None)
    return figure


def draw_law(samples: Sequence[Sample]) -> Figure:
    """Draw the curve of the control law, and where the mount really was on it."""
    title = "The control law, and where the mount was on it"
    figure, axes = _frame(title, "pos_ratio", "dirty, as a share of the limit")
    usable = [sample for sample in samples if sample.own_limit]
    if not usable:
        axes.text(0.5, 0.5, "nothing is accounted here", transform=axes.transAxes, ha="center", color=GREY)
        return figure
    last = usable[-1]
    share = np.linspace(0, 1.02, 400)
    curve = [pos_ratio_polynom(x * last.own_limit, last.setpoint, last.own_limit) for x in share]
    axes.plot(share, curve, color=GREY, label="1 + ((setpoint - dirty) / (limit - setpoint))³")
    here = [(s.dirty + s.writeback) / s.own_limit for s in usable]
    ratio = [pos_ratio_polynom(s.dirty + s.writeback, s.setpoint, s.own_limit) for s in usable]
    axes.plot(here, ratio, "o", color=BLUE, alpha=0.35, markersize=6, markeredgewidth=0, label="samples")
    axes.axvline(last.setpoint / last.own_limit, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("setpoint", (last.setpoint / last.own_limit, 2.08), ha="center", fontsize=9.5)
    axes.set_ylim(-0.05, 2.2)
    _legend(axes)
    return figure


DRAWINGS: dict[str, Callable[[Sequence[Sample]], Figure]] = {
    "dirty": draw_dirty,
    "rates": draw_rates,
    "pauses": draw_pauses,
    "law": draw_law,
}


def save_timeline(samples: Sequence[Sample], directory: Path, prefix: str = "") -> list[Path]:
    """Draw every picture into a directory as PNG and return the files."""
    saved = []
    with mpl.rc_context(_STYLE):
        for name, draw in DRAWINGS.items():
            path = directory / f"{prefix}{name}.png"
            draw(samples).savefig(path)
            saved.append(path)
    return saved
