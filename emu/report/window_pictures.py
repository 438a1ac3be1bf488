"""The map of a window: which page of its file each page of a mapping shows, and in what state, look by look."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emu.lab.window_map import Look, PageState
from emu.report.style import BLACK, LIGHT, ORANGE, SKY, VERMILLION

# What there is most of is drawn first, and cannot hide the rest. Markers differ, too.
_LOOKS = (
    (PageState.ABSENT, "not present", LIGHT, "."),
    (PageState.CLEAN, "clean", SKY, "o"),
    (PageState.DIRTY, "dirty", VERMILLION, "s"),
    (PageState.WRITEBACK, "under writeback", ORANGE, "D"),
    (PageState.UNNOTICED, "dirty in the PTE only", BLACK, "X"),
)
_FEW, _MANY = 256, 8192


def draw_window(looks: Sequence[Look]) -> Figure:
    """Draw the first and the last look side by side; each point is a page of the mapping."""
    shown = [looks[0], looks[-1]] if len(looks) > 1 else list(looks)
    figure = Figure(figsize=(9, 4.9), dpi=120)
    figure.suptitle("The window onto the file", x=0.01, ha="left", fontsize=13, fontweight="bold")
    highest = max(int(look.pgoffs.max(initial=0)) for look in shown)
    for number, look in enumerate(shown, 1):
        axes = figure.add_subplot(1, len(shown), number)
        _draw(axes, look)
        axes.set_title(look.label, fontsize=11, fontweight="normal")
        axes.set_xlabel("page of the mapping")
        axes.set_ylim(-0.02 * (highest + 1), 1.02 * (highest + 1))
        if number == 1:
            axes.set_ylabel("page of the file")
    states = np.concatenate([look.states for look in shown])
    present = [(state, name) for state, name, _colour, _marker in _LOOKS if (states == state).any()]
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        [handles[name] for _state, name in present],
        [f"{name}: {' → '.join(f'{look.count(state):,}' for look in shown)}" for state, name in present],
        loc="outside lower center", ncols=3, markerscale=2.0, frameon=False,
    )  # fmt: skip
    return figure


def _draw(axes: Axes, look: Look) -> None:
    nr_pages = len(look.states)
    marker_size = 5.0 if nr_pages <= _FEW else 2.4 if nr_pages <= _MANY else 1.0
    for state, name, colour, marker in _LOOKS:
        slots = np.flatnonzero((look.states == state) & (look.pgoffs >= 0))
        if len(slots):
            larger = 1.0 if state in {PageState.ABSENT, PageState.CLEAN} else 1.6
            axes.plot(slots, look.pgoffs[slots], marker, color=colour, markersize=marker_size * larger,
                      markeredgewidth=0, label=name)  # fmt: skip
    axes.set_xlim(-0.02 * nr_pages, 1.02 * nr_pages)
