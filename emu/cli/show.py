"""Print tables whole: where the terminal is narrower than the numbers, the terminal wraps, nothing is cut."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDEST = 1000


def print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as its columns need."""
    needed = Measurement.get(console, console.options.update(width=_WIDEST, max_width=_WIDEST), table).maximum
    width = console.width
    console.width = max(width, needed)
    try:
        console.print(table, crop=False)
    finally:
        console.width = width
