"""What is printed: tables whole, and lines as they are.

Where the terminal is narrower than a table's numbers, the terminal wraps, nothing is cut. Brackets in a line are the
user's (a path, a rule, a program's name), never rich's markup.
"""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

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


def say(line: str, *, dim: bool = False) -> None:
    """Print a line for people on standard error."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, style="dim" if dim else None)
    console.print(line, markup=False)


def print_marked(console: Console, mark: str, sentence: str) -> None:
    """Print a sentence behind its mark, which is in rich's markup."""
    console.print(Text.assemble(Text.from_markup(mark), " ", sentence), soft_wrap=True)
