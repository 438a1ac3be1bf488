"""Mounts as panels on the terminal: bars against the limits, rates, pauses, requests, the disk, the kernel.

Where the terminal is too small for all panels they are brief, nine lines each; for still more mounts there
is a line for each. Print them without markup: paths and
programs' names may have brackets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from emu.lab.activity import Activity
from emu.lab.mount_events import Paused
from emu.lab.observe import Rates, Sample, as_record
from emu.units import format_size

_BAR_CELLS = 40
_MOST_ROWS = 8
_MOST_WRITERS = 4
_BRIEF_REQUESTS = 2
_WIDE_ENOUGH_FOR_90 = 72
"""Columns of a terminal below which the 90 % of requests give way to the others."""


def gauge(dirty: int, writeback: int, background: float, setpoint: float, limit: int) -> Text:
    """Return a bar from 0 to the limit: dirty (blue), under writeback (yellow), marks for background and setpoint."""
    if limit <= 0:
        return Text("no limit: nothing is accounted here", "dim")
    cells: list[tuple[str, str]] = []
    marks = {int(background / limit * _BAR_CELLS): "b", int(setpoint / limit * _BAR_CELLS): "s"}
    of_dirty = round(dirty / limit * _BAR_CELLS)
    of_writeback = round((dirty + writeback) / limit * _BAR_CELLS)
    for at in range(_BAR_CELLS):
        # A letter for each state, too: NO_COLOR and files have no colours.
        if at < of_dirty:
            cell, style = "#", "white on blue"
        elif at < of_writeback:
            cell, style = "w", "black on yellow"
        else:
            cell, style = ".", "on grey23"
        cells.append((marks.get(at, cell), style))
    return Text.assemble(*cells)


@dataclass(frozen=True, slots=True)
class MountView:
    """What is shown of one mount: two samples, what it did between them, and the real kernel's word."""

    mountpoint: str
    store: str
    disk: str
    before: Sample
    after: Sample
    activity: Activity
    requests: dict[str, dict[str, float]]
    paused: tuple[Paused, ...]
    kernel_bdi: dict[str, int]
    kernel_unreadable: str

    @property
    def rates(self) -> Rates:
        """What happened between the samples, a second."""
        return Rates.between(self.before, self.after)

    def as_json(self) -> dict[str, Any]:
        """Return everything for programs: amounts in bytes, rates a second, latencies in microseconds."""
        return {
            "mountpoint": self.mountpoint,
            "store": self.store,
            "disk": self.disk,
            **as_record(self.after),
            "setpoint": self.after.setpoint,
            "rates": {name: round(value, 3) for name, value in asdict(self.rates).items()},
            "requests": self.requests,
            "flusher_file": self.activity.flusher_file,
            "throttled": [asdict(one) for one in self.activity.throttled],
            "paused_writers": [asdict(one) for one in self.paused],
            "kernel_bdi": self.kernel_bdi,
            "kernel_bdi_unreadable": self.kernel_unreadable,
        }


def show(views: Sequence["MountView | Gone"], console: Console) -> RenderableType:
    """Return the panels of all mounts, brief ones if the terminal has not the lines for whole ones, or a line each."""
    for brief in (False, True):
        panels = Group(*(panel(view, console.width, brief=brief) for view in views))
        if len(console.render_lines(panels, pad=False)) <= console.height:
            return panels
    return lines_table(views)


def lines_table(views: Sequence["MountView | Gone"]) -> Table:
    """Return a line for each mount."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("mount", overflow="ellipsis", no_wrap=True)
    for heading in ("dirty", "of limit", "dirtied", "written", "asleep"):
        table.add_column(heading, justify="right", no_wrap=True)
    for view in views:
        if isinstance(view, Gone):
            table.add_row(Text(view.mountpoint), "gone", "", "", "", "")
            continue
        after, rates = view.after, view.rates
        dirty = after.dirty + after.writeback
        share = f"{dirty / after.own_limit:.0%}" if after.own_limit else "-"
        amounts = (format_size(dirty), share, _rate(rates.dirtied), _rate(rates.written), f"{rates.paused:.0%}")
        table.add_row(Text(view.mountpoint), *amounts)
    return table


@dataclass(frozen=True, slots=True)
class Gone:
    """A mount that went away while others are watched."""

    mountpoint: str
    why: str


def panel(view: "MountView | Gone", width: int, *, brief: bool = False) -> Panel:
    """Return one mount's panel."""
    if isinstance(view, Gone):
        return Panel(Text(f"went away: {view.why}", "bold red"), title=Text(view.mountpoint), title_align="left")
    return brief_panel(view) if brief else mount_panel(view, width)


def mount_panel(view: MountView, width: int = 100) -> Panel:
    """Return what there is to see of one mount, on a terminal so wide."""
    after, rates = view.after, view.rates
    table = _grid()
    table.add_row("dirty", _gauge_of(after))
    table.add_row("", f"{format_size(after.dirty)} dirty, {format_size(after.writeback)} under writeback")
    table.add_row(
        "limits",
        f"background (b) {format_size(_own_background(after))}, setpoint (s) {format_size(after.setpoint)}, "
        f"limit {format_size(after.own_limit)}",
    )
    table.add_row("rates", f"dirtied {_rate(rates.dirtied)}, written {_rate(rates.written)}")
    table.add_row("law", f"bandwidth {_rate(after.bandwidth)}, writers held to {_rate(after.rate_limit)}")
    table.add_row("flusher", _flusher(view))
    table.add_row("pauses", f"{after.pauses:,} so far; writers slept {rates.paused:.0%} of the time")
    for line in _paused_writers(view):
        table.add_row("", line)
    if view.disk:
        table.add_row(
            view.disk,
            f"write {_rate(rates.disk_written)} in {rates.disk_writes:,.0f} IO/s, "
            f"read {_rate(rates.disk_read)} in {rates.disk_reads:,.0f} IO/s, "
            f"busy {rates.disk_busy:.0%}, queue {rates.disk_queue:.1f}, {after.disk_in_flight} in flight",
        )
    table.add_row("kernel", _kernel_words(view))
    if after.errors:
        table.add_row("errors", _errors(after))
    parts = [table, requests_table(view.requests, width)] if view.requests else [table]
    return Panel(Group(*parts), title=_title(view), title_align="left")


def brief_panel(view: MountView) -> Panel:
    """Return the same in nine lines, its frame included."""
    after, rates = view.after, view.rates
    table = _grid(no_wrap=True)
    table.add_row("dirty", _gauge_of(after))
    table.add_row(
        "",
        f"{format_size(after.dirty)} dirty, {format_size(after.writeback)} writeback, "
        f"limit {format_size(after.own_limit)}",
    )
    table.add_row("rates", f"dirtied {_rate(rates.dirtied)}, written {_rate(rates.written)}; flusher {_flusher(view)}")
    writers = [f"{one.comm} ({one.tid})" for one in view.paused]
    told = f"; {writers[0]}" + (f" and {len(writers) - 1} more" if writers[1:] else "") if writers else ""
    table.add_row("pauses", f"{after.pauses:,}; writers slept {rates.paused:.0%} of the time{told}")
    if view.disk:
        words = f"write {_rate(rates.disk_written)}, read {_rate(rates.disk_read)}"
        table.add_row(view.disk, f"{words}, busy {rates.disk_busy:.0%}, queue {rates.disk_queue:.1f}")
    own = view.kernel_bdi.get("BdiReclaimable")
    of_mount = "" if own is None else f"; of this mount {format_size(own)}"
    table.add_row("kernel", f"{format_size(after.kernel_dirty)} dirty in all{of_mount}")
    if after.errors:
        table.add_row("errors", _errors(after))
    else:
        kinds = list(view.requests.items())[:_BRIEF_REQUESTS]
        requests = [f"{kind} {one['per_s']:,.0f}/s, 99 % in {_duration(one['p99_us'])}" for kind, one in kinds]
        table.add_row("requests", "; ".join(requests) or "none")
    return Panel(table, title=_title(view), title_align="left")


def _grid(*, no_wrap: bool = False) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=8)
    table.add_column(no_wrap=no_wrap)
    return table


def _title(view: MountView) -> Text:
    return Text(f"{view.mountpoint}  <-  {view.store or 'RAM'}")


def _own_background(after: Sample) -> float:
    return after.background * after.own_limit / after.limit if after.limit else 0.0


def _gauge_of(after: Sample) -> Text:
    return gauge(after.dirty, after.writeback, _own_background(after), after.setpoint, after.own_limit)


def _flusher(view: MountView) -> str:
    return f"writes {view.activity.flusher_file}" if view.activity.flusher_file else "idle"


def _errors(after: Sample) -> Text:
    return Text(f"{after.errors:,} writes failed", "bold red")


def _paused_writers(view: MountView) -> Iterator[str]:
    """Yield a line for each writer that was throttled since the last look, and for those that are so still."""
    held = {one.tid: one for one in view.activity.throttled}
    for one in view.paused[:_MOST_WRITERS]:
        now = held.pop(one.tid, None)
        still = f", held back now for {now.paused_ms} ms" if now else ""
        times = "once" if one.pauses == 1 else f"{one.pauses:,} times"
        yield f"{one.comm} ({one.tid}) slept {times}, {_duration(one.paused_ms * 1000)} in all{still}"
    for left in list(held.values())[: _MOST_WRITERS - len(view.paused[:_MOST_WRITERS])]:
        yield f"{left.comm} ({left.tid}) is held back, for {left.paused_ms} ms so far"
    if view.paused[_MOST_WRITERS:]:
        yield f"and {len(view.paused) - _MOST_WRITERS:,} other writers"


def requests_table(requests: dict[str, dict[str, float]], width: int = 100) -> Table:
    """Return requests by kind with their latencies; the watcher's own looks are control."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("requests", no_wrap=True)
    shown = {"median": "p50_us", "90 %": "p90_us", "99 %": "p99_us", "slowest": "max_us"}
    if width < _WIDE_ENOUGH_FOR_90:
        del shown["90 %"]
    for heading in ("a second", *shown):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, figures in list(requests.items())[:_MOST_ROWS]:
        times = [_duration(figures[name]) for name in shown.values()]
        table.add_row(kind, f"{figures['per_s']:,.0f}", *times)
    return table


def _kernel_words(view: MountView) -> str:
    after, bdi = view.after, view.kernel_bdi
    system = f"{format_size(after.kernel_dirty)} dirty, {format_size(after.kernel_writeback)} under writeback in all"
    if "BdiReclaimable" not in bdi:
        return f"{system}; its word on this mount cannot be read ({view.kernel_unreadable})"
    return (
        f"{system}; of this mount {format_size(bdi['BdiReclaimable'])} dirty, "
        f"{format_size(bdi['BdiWriteback'])} under writeback, limit {format_size(bdi['BdiDirtyThresh'])}"
    )


def _duration(us: float) -> str:
    """Return a duration as people say it."""
    if us < 1000:
        return f"{us:.0f} us"
    return f"{us / 1000:.1f} ms" if us < 1e6 else f"{us / 1e6:.1f} s"


def _rate(nbytes: float) -> str:
    return f"{format_size(nbytes)}/s"
