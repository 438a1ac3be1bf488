"""Events of a mount: throttle pauses by writer, writebacks with their pages, fsyncs, power cuts.

Read from the mount's .bdi/events; a recording keeps them in mount_events.jsonl, a JSON object a line.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from emu.lab.activity import read_control

MOUNT_EVENTS = "mount_events.jsonl"

THROTTLE, WRITEBACK, POWER_CUT, LOST = "throttle", "writeback", "power_cut", "lost"

_NEEDED: dict[str, dict[str, type]] = {
    THROTTLE: {"tid": int, "comm": str},
    WRITEBACK: {"path": str, "nr_pages": int, "nr_ranges": int, "ranges": list},
    POWER_CUT: {"survive": str},
    LOST: {"count": int},
}
"""What an event of a kind cannot be understood without."""


@dataclass(frozen=True, slots=True)
class MountEvent:
    """Something that a mount did; `told` is all that its daemon says of it."""

    kind: str
    begin_s: float
    seconds: float
    told: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, line: str | bytes) -> Self:
        """Make sense of a line; AttributeError, ValueError, KeyError or TypeError if it has none."""
        told = json.loads(line)
        begin_s, seconds, kind = float(told.pop("begin_s")), float(told.pop("seconds")), str(told.pop("kind"))
        for name, wanted in _NEEDED.get(kind, {}).items():
            if not isinstance(told[name], wanted):
                raise TypeError(name)
        for name in {"path", "comm"} & told.keys():
            told[name] = _printable(str(told[name]))
        for offset, nbytes in told.get("ranges", ()):
            if not (isinstance(offset, int) and isinstance(nbytes, int)):
                raise TypeError("ranges")
        return cls(kind, begin_s, seconds, told)


def _printable(name: str) -> str:
    """Return a file's or a thread's name as it can be shown: one line, and no bytes that are no text."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)


class EventCursor:
    """Reads what a mount's daemon has to tell since the last time; `nr_lost` is what its ring had dropped before."""

    def __init__(self, mountpoint: str) -> None:
        self._place = f"{mountpoint}/.bdi/events"
        self.nr_events = 0
        self.nr_lost = 0
        try:
            self._number = int(read_control(f"{self._place}/now"))
        except FileNotFoundError:
            self._number = -1  # a daemon of an older fremap, or none: who asks it for more hears which

    def read(self) -> list[bytes]:
        """Return the new lines; OSError if the mount is gone."""
        if self._number < 0:
            return []
        lines = read_control(f"{self._place}/{self._number}").splitlines()
        if not lines:
            return []
        first, last = (int(json.loads(line)["number"]) for line in (lines[0], lines[-1]))
        lost = first - self._number - 1
        if lost:
            lines.insert(0, json.dumps({"kind": LOST, "begin_s": json.loads(lines[0])["begin_s"], "seconds": 0,
                                        "count": lost}).encode())  # fmt: skip
        self._number = last
        self.nr_events += len(lines) - bool(lost)
        self.nr_lost += lost
        return lines


@dataclass(frozen=True, slots=True)
class Paused:
    """How a writer was throttled in a span of time."""

    tid: int
    comm: str
    pauses: int
    paused_ms: float


def paused_writers(lines: Iterable[bytes]) -> list[Paused]:
    """Return who was throttled, longest first."""
    found: dict[tuple[int, str], list[float]] = {}
    for line in lines:
        event = MountEvent.read(line)
        if event.kind == THROTTLE:
            found.setdefault((event.told["tid"], event.told["comm"]), []).append(event.seconds)
    every = [Paused(tid, comm, len(pauses), round(sum(pauses) * 1000, 1)) for (tid, comm), pauses in found.items()]
    return sorted(every, key=lambda one: -one.paused_ms)


def read_mount_events(directory: Path) -> Iterator[MountEvent]:
    """Yield the events that a recording kept, in order; a line cut short by a kill is left out."""
    try:
        text = (directory / MOUNT_EVENTS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            yield MountEvent.read(line)
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
