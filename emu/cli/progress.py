"""Progress on the terminal: on standard error, and only if that is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from emu.lab.progress import Advance


class RichProgress:
    """One line that tells the step, how far it is, and how long it has run; gone when the step ends."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def step(self, title: str, total: int = 0) -> Iterator[Advance]:
        """Open a step of `total` units (0: unknown)."""
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()]
        if total:
            columns.insert(3, MofNCompleteColumn())
        bar = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        with bar:
            task = bar.add_task(title, total=total or None)
            yield lambda units: bar.advance(task, units)
