"""What a mount did lately, one by one: throttle pauses, writebacks with their pages, fsyncs, power cuts.

A ring of fixed length that is always on; whoever watches asks for what came after the number that he saw last, so
several may watch. Events are text only once they are asked for.
"""

import json
import threading
from array import array
from collections import deque
from pathlib import Path
from typing import Any

MAX_EVENTS = 8192
"""How many are kept: of a thousand a second, those of the last eight seconds."""

MAX_RANGES = 32
"""How many stretches of a file are told of one writeback; of more, so many spread over them, and their number."""

_MAX_NAMES = 256


class EventLog:
    """The ring. Times are the mount's clock, `begin_s` and `seconds`; `number` counts from 1 on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[tuple[int, str, float, float, dict[str, Any]]] = deque(maxlen=MAX_EVENTS)
        self._names: dict[int, str] = {}
        self.number = 0

    def add(self, kind: str, begin_s: float, end_s: float, **more: Any) -> None:
        """Note what has just ended; `more` is of JSON's types, or `ranges`."""
        with self._lock:
            self.number += 1
            self._events.append((self.number, kind, begin_s, end_s - begin_s, more))

    def add_writeback(
        self, path: bytes, begin_s: float, end_s: float, ranges: list[tuple[int, int]], nr_pages: int, error: int
    ) -> None:
        """Note a writeback of a file's stretches, each (offset, bytes)."""
        more: dict[str, Any] = {"path": path.decode("utf-8", "surrogateescape"), "nr_pages": nr_pages}
        kept = ranges[:: -(-len(ranges) // MAX_RANGES) or 1]
        # Flat: of scattered pages the ring would take tens of MiB as tuples.
        more |= {"nr_ranges": len(ranges), "ranges": array("Q", [number for each in kept for number in each])}
        if error:
            more["errno"] = error
        self.add("writeback", begin_s, end_s, **more)

    def add_pause(self, tid: int, begin_s: float, end_s: float) -> None:
        """Note a pause of a throttled writer, with its name: it may be gone when somebody asks."""
        name = self._names.get(tid)
        if name is None:
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            name = self._names[tid] = _comm(tid)
        self.add("throttle", begin_s, end_s, tid=tid, comm=name)

    def since(self, number: int) -> str:
        """Return what came after an event, a JSON object a line, oldest first."""
        with self._lock:
            nr_new = max(min(self.number - number, len(self._events)), 0)
            new = [self._events[at] for at in range(len(self._events) - nr_new, len(self._events))]
        lines = []
        for own, kind, begin_s, seconds, more in new:
            told = {"number": own, "kind": kind, "begin_s": round(begin_s, 6), "seconds": round(seconds, 6), **more}
            if "ranges" in more:
                told["ranges"] = list(zip(more["ranges"][::2], more["ranges"][1::2], strict=True))
            lines.append(json.dumps(told) + "\n")
        return "".join(lines)


def _comm(tid: int) -> str:
    try:
        return Path(f"/proc/{tid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"
