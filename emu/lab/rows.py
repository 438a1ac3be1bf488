"""Row: one line of a comparison, as it stands in the JSON file, and what it must be."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emu.mm.kernel import MAX_MAP_COUNT
from fsbackend.bdi import parse_caps

JSON_VERSION = 1
LOSING_STRATEGIES = frozenset({"none"})
"""Strategies that are kept as the proof: they must lose what was stored after the writeback."""
VMA_STRATEGIES = frozenset({"linear_vmas", "linear_vmas_accounted"})
"""Strategies that end with ENOMEM where a permutation has more runs than max_map_count."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in the JSON file; None where the row could not run."""

    rmap: str
    caps: str
    format: str
    pages: int
    dirty_pages: int | None = None
    lost_pages: int | None = None
    unaccounted_dirty_max: int | None = None
    mkclean_calls: int | None = None
    mkclean_pte_visits: int | None = None
    mkclean_node_visits: int | None = None
    rmap_bytes: int | None = None
    rmap_bytes_per_mapped_page: float | None = None
    pte_bytes: int | None = None
    pte_upper_bytes: int | None = None
    remap_us_per_page: float | None = None
    fault_us: float | None = None
    nr_vmas: int | None = None
    seconds: float | None = None
    error: str | None = None
    note: str | None = None

    @property
    def expected_lost(self) -> int | None:
        """How many pages this row must lose; None if it did not run."""
        if self.dirty_pages is None:
            return None
        caps = parse_caps(self.caps)
        loses = self.rmap in LOSING_STRATEGIES and caps.account_dirty and caps.writeback
        return self.dirty_pages if loses else 0

    @property
    def beyond_vma_limit(self) -> bool:
        """Whether the row failed as it had to: a VMA a run, and more runs than a process may have VMAs."""
        return self.error is not None and self.rmap in VMA_STRATEGIES and self.pages > MAX_MAP_COUNT

    @property
    def broken(self) -> str:
        """What is not as it must be, in one line; empty if the row stands."""
        if self.error is not None:
            return "" if self.beyond_vma_limit else self.error
        if self.lost_pages != self.expected_lost:
            return f"lost {self.lost_pages} pages instead of {self.expected_lost}"
        if not parse_caps(self.caps).account_dirty and self.mkclean_calls:
            return f"mkclean was called {self.mkclean_calls} times on pages that are never written back"
        return ""


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the rows as the JSON file holds them."""
    runs = [asdict(row) for row in rows]
    for run in runs:
        # The agreed fields; a note is there where there is something to say.
        if run["note"] is None:
            del run["note"]
    return {"version": JSON_VERSION, "runs": runs}
