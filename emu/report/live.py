"""One mount as a panel on the terminal: bars against the limits, rates, pauses, the disk."""

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from emu.lab.observe import Rates, Sample
from emu.units import format_size

_BAR_CELLS = 40


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


def mount_panel(mountpoint: str, store: str, disk: str, before: Sample, after: Sample) -> Panel:
    """Return what there is to see of one mount."""
    rates = Rates.between(before, after)
    own_background = after.background * after.own_limit / after.limit if after.limit else 0.0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("dirty", gauge(after.dirty, after.writeback, own_background, after.setpoint, after.own_limit))
    table.add_row(
        "",
        f"{format_size(after.dirty)} dirty, {format_size(after.writeback)} under writeback",
    )
    table.add_row(
        "limits",
        f"background (b) {format_size(own_background)}, setpoint (s) {format_size(after.setpoint)}, "
        f"limit {format_size(after.own_limit)}",
    )
    table.add_row("rates", f"dirtied {_rate(rates.dirtied)}, written {_rate(rates.written)}")
    table.add_row("law", f"bandwidth {_rate(after.bandwidth)}, writers held to {_rate(after.rate_limit)}")
    table.add_row("pauses", f"{after.pauses:,} so far; writers slept {rates.paused:.0%} of the time")
    if disk:
        table.add_row(
            disk,
            f"write {_rate(rates.disk_written)}, read {_rate(rates.disk_read)}, busy {rates.disk_busy:.0%}",
        )
    table.add_row(
        "kernel",
        f"{format_size(after.kernel_dirty)} dirty, {format_size(after.kernel_writeback)} under writeback, whole system",
    )
    if after.errors:
        table.add_row("errors", Text(f"{after.errors:,} writes failed", "bold red"))
    return Panel(table, title=f"{mountpoint}  <-  {store or 'RAM'}", title_align="left")


def _rate(nbytes: float) -> str:
    return f"{format_size(nbytes)}/s"
