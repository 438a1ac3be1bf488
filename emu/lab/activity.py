"""What a mount is doing: the flusher's file, writers that are made to wait, latencies by kind of request.

Read from the mount's .bdi/activity. Its histograms only grow from mount time on; those of a span of time are the
difference between two looks.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fsbackend.latency import percentile

ACTIVITY = "activity.jsonl"
_BUFFER_NBYTES = 4096
_SHARES = (("p50_us", 0.5), ("p90_us", 0.9), ("p99_us", 0.99), ("max_us", 1.0))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies of one kind of request: bucket n counts those of 2**(n-1) up to 2**n - 1 ns."""

    count: int = 0
    sum_ns: int = 0
    buckets: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """Read what a mount tells of one kind."""
        buckets = tuple((int(number), int(count)) for number, count in told["log2_ns"].items())
        return cls(int(told["count"]), int(told["sum_ns"]), buckets)

    def since(self, before: "Histogram") -> "Histogram":
        """Return the requests that came after an earlier look."""
        old = dict(before.buckets)
        buckets = tuple((number, count - old.get(number, 0)) for number, count in self.buckets)
        return Histogram(
            self.count - before.count, self.sum_ns - before.sum_ns, tuple(pair for pair in buckets if pair[1])
        )

    def figures(self, seconds: float) -> dict[str, float]:
        """Return how many requests, how many a second, and the percentiles in microseconds."""
        buckets = dict(self.buckets)
        found: dict[str, float] = {"count": self.count, "per_s": round(self.count / seconds, 1) if seconds > 0 else 0.0}
        found["mean_us"] = round(self.sum_ns / self.count / 1000, 1) if self.count else 0.0
        return found | {name: round(percentile(buckets, share) / 1000, 1) for name, share in _SHARES}


@dataclass(frozen=True, slots=True)
class Throttled:
    """A thread whose write is held back, and for how long so far."""

    tid: int
    comm: str
    paused_ms: int


@dataclass(frozen=True, slots=True)
class Activity:
    """One look. `told` is the mount's own answer."""

    time_s: float
    flusher_file: str
    throttled: tuple[Throttled, ...]
    latency: dict[str, Histogram]
    told: dict[str, Any]

    @classmethod
    def read(cls, told: dict[str, Any], time_s: float) -> Self:
        """Make sense of the mount's answer."""
        throttled = tuple(Throttled(row["tid"], _comm(row["tid"]), row["paused_ms"]) for row in told["throttled"])
        latency = {kind: Histogram.read(one) for kind, one in told["latency"].items()}
        return cls(time_s, told["flusher_file"], throttled, latency, told)

    def requests_since(self, before: "Activity") -> dict[str, dict[str, float]]:
        """Return the figures of each kind that was asked for since an earlier look, most frequent first."""
        seconds = self.time_s - before.time_s
        spans = {kind: one.since(before.latency.get(kind, Histogram())) for kind, one in self.latency.items()}
        busy = sorted((kind for kind, one in spans.items() if one.count), key=lambda kind: -spans[kind].count)
        return {kind: spans[kind].figures(seconds) for kind in busy}


def read_control(path: str) -> bytes:
    """Read a mount's control file in as few requests to its daemon as can be; OSError if it is gone.

    The kernel takes hold of every page of the buffer before it asks: a small one is read in a third of the time.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = part = os.read(fd, _BUFFER_NBYTES)
        while len(part) == _BUFFER_NBYTES:
            part = os.read(fd, _BUFFER_NBYTES)
            whole += part
        return whole
    finally:
        os.close(fd)


def look(mountpoint: str) -> Activity:
    """Ask a mount what it is doing; OSError if it is gone."""
    return Activity.read(json.loads(read_control(_path(mountpoint))), time.monotonic())


def look_as_line(mountpoint: str) -> bytes:
    """Ask a mount what it is doing; return a line of activity.jsonl, made without reading the answer."""
    told = read_control(_path(mountpoint))
    return b'{"time_s": %.6f, %s\n' % (time.monotonic(), told.strip()[1:])


def _path(mountpoint: str) -> str:
    return f"{mountpoint}/.bdi/activity"


def _comm(tid: int) -> str:
    try:
        return Path(f"/proc/{tid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"


def read_activities(directory: Path) -> Iterator[Activity]:
    """Yield the looks that a recording took, oldest first; a line cut short by a kill is left out."""
    try:
        text = (directory / ACTIVITY).read_text(encoding="ascii", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            told = json.loads(line)
            yield Activity.read(told, told.pop("time_s"))
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
