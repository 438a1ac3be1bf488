"""What all pictures of runs share: the palette, the axes, where the legend goes.

Colours are Okabe and Ito's (Color Universal Design, 2008), which stay apart under the usual kinds of colour
blindness; no picture relies on colour alone.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7"
SKY, BLACK, GREY, LIGHT = "#56B4E9", "#000000", "#767676", "#c8c8c8"

STYLE: Any = {
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


def picture(title: str, ylabel: str, xlabel: str = "seconds") -> tuple[Figure, Axes]:
    """Return an empty picture with its title and the names of its axes."""
    figure = Figure(figsize=(9, 3.8), dpi=120)
    axes = figure.add_subplot()
    axes.set_title(title, pad=28)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def legend(axes: Axes, **more: Any) -> None:
    """Put the legend between the title and the data, where nothing can hide behind it."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, borderaxespad=0, handlelength=1.6, **more)


def say(axes: Axes, text: str) -> None:
    """Write a sentence where the legend would be."""
    axes.annotate(text, (0.0, 1.03), xycoords="axes fraction")


def share_axes(figures: Sequence[Figure], *, only_x: bool = False) -> None:
    """Give pictures that stand side by side the same axes, so that lengths can be compared.

    `only_x` is for bars, whose places on the other axis are names.
    """
    plots = [axes for figure in figures for axes in figure.axes[:1]]
    if len(plots) < 2:
        return
    both = (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim"))
    for get, put in both[:1] if only_x else both:
        limits = [getattr(axes, get)() for axes in plots]
        for axes in plots:
            getattr(axes, put)(min(low for low, _high in limits), max(high for _low, high in limits))
