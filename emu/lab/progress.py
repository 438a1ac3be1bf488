"""How a long experiment says how far it is, whoever listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with how many units more are done."""


class Progress(Protocol):
    """Shows steps as they run; an experiment opens one step at a time."""

    def step(self, title: str, total: int = 0) -> AbstractContextManager[Advance]:
        """Open a step of `total` units (0: unknown) and hand out the function that moves it on."""


class NoProgress:
    """Shows nothing: for tests, pipes and programs."""

    @contextmanager
    def step(self, title: str, total: int = 0) -> Iterator[Advance]:  # noqa: ARG002 - the interface has them
        """Open a step that nobody sees."""
        yield lambda _units: None
