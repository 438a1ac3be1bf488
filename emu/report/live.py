"""One mount as a panel on the terminal: bars against the limits, rates, pauses, requests, the disk, the kernel."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from emu.lab.activity import Activity
from emu.lab.observe import Rates, Sample, as_record
from emu.units import format_size

_BAR_CELLS = 40
_MOST_ROWS = 8


def gauge(dirty: int, writeback: int, background: float, setpoint: float, limit: int) -> Text:
    """Return a bar from 0 to the limit: dirty (blue), under writeback (yellow), marks for background and setpoint."""
    if limit <= 0:
        return Text("no limit: nothing is accounted here", "dim")
    cells = []
    marks = {int(background / limit * _BAR_CELLS): "b", int(setpoint / limit * _BAR_CELLS): "s"}
    of_dirty = round(dirty / limit * _BAR_CELLS)
    of_writeback = round((dirty + writeback) / limit * _BAR_CELLS)
    for at in range(_BAR_CELLS):
        style = "white on blue" if at < of_dirty else "black on yellow" if at < of_writeback else "on grey23"
        cells.append((marks.get(at, " "), style))
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
            "kernel_bdi": self.kernel_bdi,
            "kernel_bdi_unreadable": self.kernel_unreadable,
        }


def mount_panel(view: MountView) -> Panel:
    """Return what there is to see of one mount."""
    after, rates = view.after, view.rates
    own_background = after.background * after.own_limit / after.limit if after.limit else 0.0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("dirty", gauge(after.dirty, after.writeback, own_background, after.setpoint, after.own_limit))
    table.add_row("", f"{format_size(after.dirty)} dirty, {format_size(after.writeback)} under writeback")
    table.add_row(
        "limits",
        f"background (b) {format_size(own_background)}, setpoint (s) {format_size(after.setpoint)}, "
        f"limit {format_size(after.own_limit)}",
    )
    table.add_row("rates", f"dirtied {_rate(rates.dirtied)}, written {_rate(rates.written)}")
    table.add_row("law", f"bandwidth {_rate(after.bandwidth)}, writers held to {_rate(after.rate_limit)}")
    table.add_row("flusher", f"writes {view.activity.flusher_file}" if view.activity.flusher_file else "idle")
    table.add_row("pauses", f"{after.pauses:,} so far; writers slept {rates.paused:.0%} of the time")
    for one in view.activity.throttled[:_MOST_ROWS]:
        table.add_row("", f"{one.comm} ({one.tid}) is held back, for {one.paused_ms} ms so far")
    if view.disk:
        table.add_row(
            view.disk,
            f"write {_rate(rates.disk_written)} in {rates.disk_writes:,.0f} IO/s, "
            f"read {_rate(rates.disk_read)} in {rates.disk_reads:,.0f} IO/s, "
            f"busy {rates.disk_busy:.0%}, queue {rates.disk_queue:.1f}, {after.disk_in_flight} in flight",
        )
    table.add_row("kernel", _kernel_words(view))
    if after.errors:
        table.add_row("errors", Text(f"{after.errors:,} writes failed", "bold red"))
    title = f"{view.mountpoint}  <-  {view.store or 'RAM'}"
    parts = [table, requests_table(view.requests)] if view.requests else [table]
    return Panel(Group(*parts), title=title, title_align="left")


def requests_table(requests: dict[str, dict[str, float]]) -> Table:
    """Return requests by kind with their latencies; the watcher's own looks are control."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("requests", no_wrap=True)
    for heading in ("a second", "median", "90 %", "99 %", "slowest"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, figures in list(requests.items())[:_MOST_ROWS]:
        times = [_duration(figures[name]) for name in ("p50_us", "p90_us", "p99_us", "max_us")]
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
