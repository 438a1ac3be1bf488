"""Pictures of a recorded mount: one idea each, time on the x axis, amounts in MiB."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from emu.lab.observe import Rates, Sample
from emu.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILLION, legend, picture, say
from emu.units import MIB, format_size
from fsbackend.throttle import pos_ratio_polynom

_LEAST_STEP_S = 0.2
_HIGHEST_RATIO = 3.0

Floats = npt.NDArray[np.float64]


def column(samples: Sequence[Sample], name: str) -> Floats:
    """Return one field (or property) of all samples."""
    return np.array([getattr(sample, name) for sample in samples], dtype=np.float64)


def times(samples: Sequence[Sample]) -> Floats:
    """Return seconds since the first sample."""
    began_s = samples[0].time_s
    return np.array([sample.time_s - began_s for sample in samples], dtype=np.float64)


def _steps(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Return neighbours at least 0.2 s apart, so that a rate between them means something."""
    kept = [samples[0]]
    for sample in samples[1:]:
        if sample.time_s - kept[-1].time_s >= _LEAST_STEP_S:
            kept.append(sample)
    if len(kept) == 1 and len(samples) > 1:
        kept.append(samples[-1])
    return list(pairwise(kept))


def rates(samples: Sequence[Sample]) -> tuple[Floats, list[Rates]]:
    """Return rates over steps of at least 0.2 s, and the time in the middle of each step."""
    steps = _steps(samples)
    middles = np.array([(a.time_s + b.time_s) / 2 - samples[0].time_s for a, b in steps])
    return middles, [Rates.between(a, b) for a, b in steps]


def law_points(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Return what really happened: (dirty as a share of the limit, rate dirtied as a share of the bandwidth).

    A point a step in which anything was dirtied; the dirty share is the mean of the step's ends.
    """
    points = []
    for before, after in _steps(samples):
        rate = Rates.between(before, after).dirtied
        if rate and after.own_limit and before.own_limit and after.bandwidth:
            share = sum((s.dirty + s.writeback) / s.own_limit for s in (before, after)) / 2
            points.append((share, rate / after.bandwidth))
    return points


def draw_dirty(samples: Sequence[Sample]) -> Figure:
    """Draw dirty and writeback bytes over time, with the limits drawn in."""
    at = times(samples)
    dirty, writeback = column(samples, "dirty") / MIB, column(samples, "writeback") / MIB
    most = format_size(float((dirty + writeback).max()) * MIB)
    figure, axes = picture(f"What waits to be written, and the limits: at most {most}", "MiB")
    axes.fill_between(at, dirty, color=BLUE, alpha=0.85, linewidth=0, label="dirty", step="post")
    axes.fill_between(
        at, dirty, dirty + writeback, color=ORANGE, alpha=0.9, linewidth=0, label="under writeback", step="post"
    )
    limit = column(samples, "own_limit") / MIB
    highest = float((dirty + writeback).max())
    # Far away limits would press the data into the floor: they are named instead.
    if limit.max() <= 20 * max(highest, 1e-9):
        background = column(samples, "background") / np.maximum(column(samples, "limit"), 1) * limit
        axes.plot(at, limit, color=VERMILLION, label="limit", drawstyle="steps-post")
        setpoint = column(samples, "setpoint") / MIB
        axes.plot(at, setpoint, color=BLACK, linestyle="--", linewidth=1.2, label="setpoint", drawstyle="steps-post")
        axes.plot(at, background, color=BLACK, linestyle=":", label="background", drawstyle="steps-post")
    else:
        axes.annotate(f"limit {limit.max():,.0f} MiB, far above", (1.0, 1.03), xycoords="axes fraction", ha="right")
    axes.set_ylim(0, None)
    legend(axes)
    return figure


def draw_rates(samples: Sequence[Sample]) -> Figure:
    """Draw what was dirtied, what was written back, and what the disk was given."""
    whole = Rates.between(samples[0], samples[-1])
    means = f"{whole.dirtied / MIB:,.1f} and {whole.written / MIB:,.1f} MiB/s"
    figure, axes = picture(f"How fast it is dirtied, and how fast written: {means}", "MiB a second")
    at, found = rates(samples)
    for name, label, colour, style in (
        ("dirtied", "dirtied by writers", BLUE, "-"),
        ("written", "written to the store", GREEN, "-"),
        ("disk_written", "written by the disk (all of it)", GREY, ":"),
    ):
        axes.plot(at, [getattr(rate, name) / MIB for rate in found], style, color=colour, label=label, marker=".")
    axes.set_ylim(0, None)
    legend(axes)
    return figure


def draw_pauses(samples: Sequence[Sample]) -> Figure:
    """Draw how much of the time writers were made to sleep."""
    figure, axes = picture("How long writers are made to wait", "seconds asleep, a second")
    at, found = rates(samples)
    axes.fill_between(at, [rate.paused for rate in found], color=VERMILLION, alpha=0.85, linewidth=0, step="mid")
    total = samples[-1].paused_s - samples[0].paused_s
    count = samples[-1].pauses - samples[0].pauses
    say(axes, f"{count:,} pauses, {total:.2f} s in all" if count else "nobody was ever throttled")
    axes.set_ylim(0, None)
    return figure


def draw_law(samples: Sequence[Sample]) -> Figure:
    """Draw the curve of the control law, and what writers really dirtied at each place of it."""
    usable = [sample for sample in samples if sample.own_limit]
    title = "The control law, and what writers really did"
    points = law_points(samples)
    if points:
        setpoint = usable[-1].setpoint / usable[-1].own_limit
        title += f": {sum(x > setpoint for x, _y in points) / len(points):.0%} above the setpoint".replace("%", " %")
    figure, axes = picture(title, "dirtied, of what the disk writes", "dirty, as a share of the limit")
    if not usable:
        axes.text(0.5, 0.5, "nothing is accounted here", transform=axes.transAxes, ha="center", color=GREY)
        return figure
    last = usable[-1]
    share = np.linspace(0, 1.02, 400)
    curve = [pos_ratio_polynom(x * last.own_limit, last.setpoint, last.own_limit) for x in share]
    axes.plot(share, curve, color=GREY, label="pos_ratio: what the law allows")
    shown = [(x, y) for x, y in points if y <= _HIGHEST_RATIO]
    axes.plot([x for x, _y in shown], [y for _x, y in shown], "o", color=BLUE, alpha=0.5, markersize=6,
              markeredgewidth=0, label="0.2 s of writing each")  # fmt: skip
    above = [x for x, y in points if y > _HIGHEST_RATIO]
    if above:
        axes.plot(above, [_HIGHEST_RATIO] * len(above), "^", color=BLUE, alpha=0.7, label="faster than shown")
    axes.axvline(last.setpoint / last.own_limit, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("setpoint", (last.setpoint / last.own_limit, 0.04), ha="right", rotation=90, fontsize=9.5)
    axes.set_ylim(-0.05, _HIGHEST_RATIO + 0.1)
    legend(axes)
    return figure


def draw_amplification(samples: Sequence[Sample]) -> Figure:
    """Draw bytes since the beginning: stored by programs, written to the store, written by its disk."""
    written = samples[-1].written - samples[0].written
    title = "What a stored byte costs the disk"
    if written:
        title += f": {(samples[-1].disk_written - samples[0].disk_written) / written:.2f} for each written back"
    figure, axes = picture(title, "MiB since the beginning")
    at = times(samples)
    for name, label, colour, style in (
        ("dirtied", "dirtied by writers", BLUE, "-"),
        ("written", "written to the store", GREEN, "--"),
        ("disk_written", "written by the disk (all of it)", GREY, ":"),
    ):
        grown = column(samples, name) - getattr(samples[0], name)
        axes.plot(at, grown / MIB, style, color=colour, label=label, linewidth=2)
    axes.set_ylim(0, None)
    legend(axes)
    return figure


DRAWINGS: dict[str, Callable[[Sequence[Sample]], Figure]] = {
    "dirty": draw_dirty,
    "rates": draw_rates,
    "law": draw_law,
    "pauses": draw_pauses,
    "amplification": draw_amplification,
}
