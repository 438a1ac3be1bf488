"""How long requests took, by kind: histograms in powers of two, cheap enough to be always on.

Bucket n counts what took from 2**(n-1) up to 2**n - 1 nanoseconds, so its bounds are a factor of two apart and a
percentile read from it is exact to that; within a bucket it is interpolated.
"""

import threading
from collections.abc import Mapping

NR_BUCKETS = 48
"""The last one begins at 2**46 ns, 20 hours."""

CONTROL = "control"
"""Requests of any kind about control files, those of who watches the mount among them."""

THROTTLED_WRITE = "write, throttled"
"""Writes whose reply was held back: from the request to the reply, the pause in it. Their service counts as write."""


class Latencies:
    """One histogram for each kind of request; a microsecond's third to add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, list[int]] = {}
        self._sums_ns: dict[str, int] = {}

    def add(self, kind: str, duration_ns: int) -> None:
        """Count one request."""
        bucket = min(duration_ns.bit_length(), NR_BUCKETS - 1)
        with self._lock:
            buckets = self._buckets.get(kind)
            if buckets is None:
                buckets = self._buckets[kind] = [0] * NR_BUCKETS
                self._sums_ns[kind] = 0
            buckets[bucket] += 1
            self._sums_ns[kind] += duration_ns

    def snapshot(self) -> dict[str, dict[str, object]]:
        """Return each kind's count, total and non-empty buckets, of JSON's types."""
        with self._lock:
            return {
                kind: {
                    "count": sum(buckets),
                    "sum_ns": self._sums_ns[kind],
                    "log2_ns": {str(number): count for number, count in enumerate(buckets) if count},
                }
                for kind, buckets in self._buckets.items()
            }


def percentile(buckets: Mapping[int, int], share: float) -> float:
    """Return the latency in ns that `share` (0 to 1) of the requests did not exceed; 0 without requests."""
    total = sum(buckets.values())
    wanted = share * total
    seen = 0
    for number in sorted(buckets):
        count = buckets[number]
        if count and seen + count >= wanted:
            low, high = (1 << number - 1 if number else 0), (1 << number)
            return low + (high - low) * max(wanted - seen, 0) / count
        seen += count
    return 0.0
