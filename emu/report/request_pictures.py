"""A picture of a recorded mount's requests: how long each kind took, from the histograms that its daemon keeps."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from emu.lab.activity import Activity, Histogram
from emu.report.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, picture, say
from fsbackend.latency import CONTROL, THROTTLED_WRITE

_FIRST = ("write", THROTTLED_WRITE, "read", "fsync")
_LOOKS = ((BLUE, "-"), (VERMILLION, "--"), (GREEN, "-."), (ORANGE, ":"), (GREY, (0, (5, 1))))
"""Colour and line by place."""


def shown_kinds(spans: dict[str, Histogram]) -> list[str]:
    """Return the kinds that are drawn: those of data first, then the most frequent; control files never."""
    asked = [kind for kind, one in spans.items() if one.count and kind != CONTROL]
    first = [kind for kind in _FIRST if kind in asked]
    others = sorted((kind for kind in asked if kind not in first), key=lambda kind: -spans[kind].count)
    return [*first, *others][: len(_LOOKS)]


def draw_requests(looks: Sequence[Activity]) -> Figure:
    """Draw how many of the requests between the first look and the last had ended after how long."""
    before, after = looks[0].latency, looks[-1].latency
    spans = {kind: one.since(before.get(kind, Histogram())) for kind, one in after.items()}
    kinds = shown_kinds(spans)
    title = "How long requests to the mount take"
    if kinds:
        title += f": half of {kinds[0]} within {_duration(spans[kinds[0]].figures(1.0)['p50_us'])}"
    figure, axes = picture(title, "% that have ended", "microseconds")
    for kind, (colour, style) in zip(kinds, _LOOKS, strict=False):
        one = spans[kind]
        figures = one.figures(1.0)
        at_us, share, seen = [], [], 0
        for number, count in sorted(one.buckets):
            # A line from each bucket's lower bound to its upper one: within it nothing is known.
            low_us, high_us = (1 << max(number - 1, 0)) / 1000, (1 << number) / 1000
            at_us += [low_us, high_us]
            share += [100 * seen / one.count, 100 * (seen + count) / one.count]
            seen += count
        name = f"{kind}: {one.count:,}\n{_duration(figures['p50_us'])}; 99 % within {_duration(figures['p99_us'])}"
        axes.plot(at_us, share, color=colour, linestyle=style, linewidth=2, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _at: f"{value:,.10g}")
    axes.set_ylim(0, 101)
    if kinds:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="count, median", fontsize=9, labelspacing=0.9)
    else:
        say(axes, "nobody asked for anything")
    return figure


def _duration(us: float) -> str:
    return f"{us:,.0f} us" if us < 1000 else f"{us / 1000:,.1f} ms"
