"""Pictures of an emulated machine's run: its counters over time, and its events if it recorded them.

One idea each; x is the machine's clock in seconds since the first record, amounts are pages of the machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from emu.mm_types.events import EventKind
from emu.report.style import BLACK, BLUE, GREEN, GREY, LIGHT, ORANGE, PURPLE, VERMILLION, legend, picture, say

Series = Sequence[Mapping[str, float]]
Events = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_WRITE, _MAJOR, _NONLINEAR, _WP = 1, 2, 4, 8
_BINS = 60


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """What a machine recorded; `began_s` and `ended_s` are common to both, so that pictures have one time."""

    series: Series
    events: Events

    @property
    def began_s(self) -> float:
        """When the first record was made."""
        return float(min([row["clock_s"] for row in self.series[:1]] + self.events["time_s"][:1].tolist()))

    @property
    def span_s(self) -> float:
        """How long after it the last one was made."""
        last = max([row["clock_s"] for row in self.series[-1:]] + self.events["time_s"][-1:].tolist())
        return max(float(last - self.began_s), 1e-3)

    def of_kind(self, kind: EventKind) -> Events:
        """Return the events of a kind."""
        found: Events = self.events[self.events["kind"] == kind]
        return found


def _column(series: Series, name: str) -> Floats:
    return np.array([row.get(name, 0) for row in series], dtype=np.float64)


def draw_machine_dirty(record: MachineRecord) -> Figure:
    """Draw the machine's dirty pages and those under writeback, and its limits."""
    figure, axes = picture("What waits to be written in the machine", "pages")
    series, at = record.series, _column(record.series, "clock_s") - record.began_s
    dirty, writeback = _column(series, "nr_dirty"), _column(series, "nr_writeback")
    axes.fill_between(at, dirty, color=BLUE, alpha=0.85, linewidth=0, label="dirty", step="post")
    axes.fill_between(
        at, dirty, dirty + writeback, color=ORANGE, alpha=0.9, linewidth=0, label="under writeback", step="post"
    )
    limit = _column(series, "nr_dirty_threshold")
    if limit.max() <= 20 * max(float((dirty + writeback).max()), 1.0):
        axes.plot(at, limit, color=VERMILLION, label="limit", drawstyle="steps-post")
        background = _column(series, "nr_dirty_background_threshold")
        axes.plot(at, background, color=BLACK, linestyle=":", label="background", drawstyle="steps-post")
    else:
        axes.annotate(f"limit {limit.max():,.0f} pages, far above", (1.0, 1.03), xycoords="axes fraction", ha="right")
    axes.set_xlim(0, record.span_s)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
    legend(axes)
    return figure


def fault_kinds(events: Events) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which records are faults of which kind; each fault is of one."""
    fault, flags = events["kind"] == EventKind.FAULT, events["flags"]
    major = fault & ((flags & _MAJOR) != 0)
    protected = fault & ~major & ((flags & _WP) != 0)
    write = fault & ~major & ~protected & ((flags & _WRITE) != 0)
    return {
        "read from the file": major,
        "first store into a clean page": protected,
        "store, page in the cache": write,
        "load, page in the cache": fault & ~major & ~protected & ~write,
    }


_KIND_COLOURS = (VERMILLION, BLUE, ORANGE, LIGHT)


def draw_faults(record: MachineRecord) -> Figure:
    """Draw the faults that processors took by kind over time, stacked."""
    figure, axes = picture("Page faults that processors took, by kind", "faults a second")
    events = record.events
    edges = np.linspace(0, record.span_s, _BINS + 1)
    width_s = edges[1]
    below = np.zeros(_BINS)
    for (name, chosen), colour in zip(fault_kinds(events).items(), _KIND_COLOURS, strict=True):
        if chosen.any():
            rate = np.histogram(events["time_s"][chosen] - record.began_s, edges)[0] / width_s
            axes.bar(edges[:-1], rate, width_s, bottom=below, align="edge", color=colour, linewidth=0,
                     label=f"{name}: {int(chosen.sum()):,}")  # fmt: skip
            below += rate
    if not below.any():
        say(axes, "no faults")
    axes.set_xlim(0, record.span_s)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
    if below.any():
        legend(axes, fontsize=9, columnspacing=1.0)
    return figure


def draw_latency(record: MachineRecord) -> Figure:
    """Draw how many of the faults and fsyncs had ended after how long: a curve for each kind."""
    figure, axes = picture("How long faults and fsyncs take", "% that have ended", "microseconds, in this emulator")
    events = record.events
    kinds: dict[str, npt.NDArray[np.bool_]] = {**fault_kinds(events), "fsync": events["kind"] == EventKind.FSYNC}
    styles = ("-", "-", "--", ":", "-.")
    drawn = False
    for (name, chosen), colour, style in zip(kinds.items(), (*_KIND_COLOURS[:3], GREY, GREEN), styles, strict=True):
        spent_us = np.sort(_spent_us(events[chosen]))
        if not len(spent_us):
            continue
        drawn = True
        share = np.arange(1, len(spent_us) + 1) / len(spent_us) * 100
        median, late = np.percentile(spent_us, (50, 99))
        label = f"{name}\n{median:,.0f} us; 99 % within {late:,.0f}"
        axes.step([spent_us[0], *spent_us], [0, *share], style, where="post", color=colour, label=label, linewidth=2)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _at: f"{value:,.10g}")
    axes.set_ylim(0, 101)
    if drawn:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="median", fontsize=9, labelspacing=0.9)
    else:
        say(axes, "no faults, no fsyncs")
    return figure


def _spent_us(chosen: Events) -> Floats:
    """Return durations in microseconds; records without one are left out."""
    spent = chosen["duration_ns"].astype(np.float64) / 1000
    return spent[spent > 0]


def draw_machine_pauses(record: MachineRecord) -> Figure:
    """Draw each throttle pause: when it began, how long it was."""
    figure, axes = picture("How long the machine's writers are made to wait", "pause, ms")
    pauses = record.of_kind(EventKind.THROTTLE)
    at, long_ms = pauses["time_s"] - record.began_s, pauses["arg"] / 1000
    axes.vlines(at, 0, long_ms, color=VERMILLION, linewidth=1.2)
    total = f"{len(pauses):,} pauses, {long_ms.sum() / 1000:.2f} s in all"
    say(axes, total if len(pauses) else "nobody was ever throttled")
    axes.set_xlim(0, record.span_s)
    axes.set_ylim(0, None)
    return figure


def draw_memory_of_runs(counters: Sequence[tuple[str, float, float]]) -> Figure:
    """Draw page tables and the reverse map's own memory, in KiB, for (name, page tables, reverse map) each."""
    figure, axes = picture("Memory to find pages, and to find their PTEs", "", "KiB")
    places = range(len(counters))
    for shift, column, colour, hatch, label in (
        (-0.2, 1, LIGHT, "", "page tables"),
        (0.2, 2, PURPLE, "//", "the reverse map's own, at its peak"),
    ):
        values = [float(row[column]) / 1024 for row in counters]
        at = [place + shift for place in places]
        axes.barh(at, values, height=0.36, color=colour, hatch=hatch, edgecolor="white", label=label)
        for place, value in zip(at, values, strict=True):
            axes.annotate(f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}", (value, place),
                          xytext=(4, 0), textcoords="offset points", va="center", fontsize=9.5)  # fmt: skip
    axes.set_yticks(list(places), [name for name, _tables, _own in counters])
    axes.set_ylim(len(counters) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, *(max(row[1], row[2]) / 1024 for row in counters)) * 1.12)
    legend(axes)
    return figure


OF_SERIES: dict[str, Callable[[MachineRecord], Figure]] = {"machine_dirty": draw_machine_dirty}
OF_EVENTS: dict[str, Callable[[MachineRecord], Figure]] = {
    "faults": draw_faults,
    "latency": draw_latency,
    "machine_pauses": draw_machine_pauses,
}
