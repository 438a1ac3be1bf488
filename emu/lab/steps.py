"""What an experiment was doing when: a line of steps.csv as each of its steps begins and as it ends.

Of a run that is killed the step that was under way has no end. Times are the host's monotonic clock, as in vmstat.csv,
which gets a line at each of these moments, too: so what a step leaves is in the series, however short the next one is.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emu.lab.progress import Advance, Progress

STEPS = "steps.csv"
_HEADING = "time_s,what,step"
_BEGINS, _ENDS = "begins", "ends"


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an experiment; `ended_s` is None of one that was cut short."""

    title: str
    began_s: float
    ended_s: float | None


class RecordedSteps:
    """Shows steps as another Progress does, and notes them in a directory; `at_step` is called at each moment."""

    def __init__(self, inner: Progress, directory: Path, at_step: Callable[[], None]) -> None:
        self._inner = inner
        self._path = directory / STEPS
        self._at_step = at_step
        self._path.write_text(_HEADING + "\n", encoding="utf-8")

    def _note(self, what: str, title: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic():.6f},{what},{title}\n")
        self._at_step()

    @contextmanager
    def step(self, title: str, total: int = 0) -> Iterator[Advance]:
        """Open a step of `total` units (0: unknown)."""
        with self._inner.step(title, total) as advance:
            self._note(_BEGINS, title)
            try:
                yield advance
            finally:
                self._note(_ENDS, title)


def read_steps(directory: Path) -> list[Step]:
    """Return a run's steps in the order in which they began; none if it noted none. What is damaged is left out."""
    try:
        lines = (directory / STEPS).read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return []
    found: list[Step] = []
    for line in lines:
        time_s, _, rest = line.partition(",")
        what, _, title = rest.partition(",")
        try:
            at_s = float(time_s)
        except ValueError:
            continue
        if what == _BEGINS:
            found.append(Step(title, at_s, None))
        elif what == _ENDS:
            places = [place for place, step in enumerate(found) if step.title == title and step.ended_s is None]
            if places:
                found[places[-1]] = Step(title, found[places[-1]].began_s, at_s)
    return found
