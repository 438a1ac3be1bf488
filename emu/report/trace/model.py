"""A trace as viewers think of it: processes and threads, slices and instants on them, counters. Times in ns.

What a run recorded is turned into this, and this into a viewer's format; neither knows the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

Args = dict[str, int | str]
NO_ARGS: Args = {}


class Thread(NamedTuple):
    """Who does something; a process's main thread has its number."""

    pid: int
    tid: int
    name: str
    process: str


class Lane(NamedTuple):
    """A track that is nobody's thread, such as a CPU, or writes in flight, which may overlap; `pid` is its process."""

    pid: int
    name: str


class Counter(NamedTuple):
    """A number over time; `pid` is its process, `unit` as people say it."""

    pid: int
    name: str
    unit: str


class Slice(NamedTuple):
    """Something that took from `begin_ns` to `end_ns`."""

    track: Thread | Lane
    begin_ns: int
    end_ns: int
    name: str
    args: Args = NO_ARGS


class Instant(NamedTuple):
    """Something that happened at `at_ns`."""

    track: Thread | Lane
    at_ns: int
    name: str
    args: Args = NO_ARGS


class Point(NamedTuple):
    """A counter's value from `at_ns` on."""

    counter: Counter
    at_ns: int
    value: float


@dataclass(slots=True)
class Trace:
    """Everything that a viewer is to show; `processes` names those that appear only through lanes and counters."""

    slices: list[Slice] = field(default_factory=list)
    instants: list[Instant] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    processes: dict[int, str] = field(default_factory=dict)

    def add(self, other: "Trace") -> None:
        """Take over another trace of the same clock."""
        self.slices += other.slices
        self.instants += other.instants
        self.points += other.points
        self.processes |= other.processes

    def __len__(self) -> int:
        return len(self.slices) + len(self.instants) + len(self.points)


def to_ns(seconds: float) -> int:
    """Return seconds as whole nanoseconds."""
    return round(seconds * 1e9)


def nested(slices: Iterable[Slice]) -> list[tuple[int, bool, Slice]]:
    """Return (time, begins, slice) of one track in the order in which a stack must see them.

    A slice that would outlive the one in which it began is cut at that one's end: times rounded apart by a
    nanosecond must not tear the stack.
    """
    marks: list[tuple[int, bool, Slice]] = []
    stack: list[tuple[int, Slice]] = []
    for one in sorted(slices, key=lambda each: (each.begin_ns, -each.end_ns)):
        while stack and _is_over(stack[-1], one):
            end_ns, done = stack.pop()
            marks.append((end_ns, False, done))
        end_ns = min(one.end_ns, stack[-1][0]) if stack else one.end_ns
        marks.append((one.begin_ns, True, one))
        stack.append((max(end_ns, one.begin_ns), one))
    while stack:
        end_ns, done = stack.pop()
        marks.append((end_ns, False, done))
    return marks


def _is_over(top: tuple[int, Slice], one: Slice) -> bool:
    """Tell whether the slice on top of the stack ended before another begins; what took no time is within its end."""
    end_ns, slice_ = top
    if end_ns != one.begin_ns:
        return end_ns < one.begin_ns
    return one.end_ns > one.begin_ns or slice_.begin_ns == end_ns


def side_by_side(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Deal slices that may overlap out to as many rows as are needed, so that within a row none do."""
    rows: list[list[Slice]] = []
    ends: list[int] = []
    for one in sorted(slices, key=lambda each: each.begin_ns):
        place = next((at for at, end_ns in enumerate(ends) if end_ns <= one.begin_ns), len(rows))
        if place == len(rows):
            rows.append([])
            ends.append(0)
        rows[place].append(one)
        ends[place] = one.end_ns
    return rows
