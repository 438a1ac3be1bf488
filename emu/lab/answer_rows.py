"""The rows of `fremap compare --all`, as they stand in its JSON file; None where a cell could not be measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from emu.lab.contention import WaitRow

ANSWER_VERSION = 1


@dataclass(slots=True)
class CostRow:
    """What one strategy costs at one size, in random order.

    `present_pages` PTEs show a page, the others are file PTEs. Visits are PTEs and nodes looked at by one operation on
    average; `_max` is the worst one seen. `mkclean_pte_visits` counts PTEs alone. `lost_pages` of `dirty_pages` were
    found by reading the files (`judged_by`); `unnoticed_stores` of `nr_mkcleans` stores after a page_mkclean left
    their page clean. `unmap_visits` are spent until one given page is unmapped, `unmap_others` PTEs of other pages
    that went on the way. `locks` holds acquisitions and visits held, per operation. `extrapolated`: a sample of
    `nr_mkcleans` stands for all.
    """

    rmap: str
    format: str
    pages: int
    present_pages: int | None = None
    dirty_pages: int | None = None
    lost_pages: int | None = None
    judged_by: str | None = None
    unnoticed_stores: int | None = None
    nr_mkcleans: int | None = None
    extrapolated: bool = False
    bulk_remap_us: float | None = None
    remap_visits: float | None = None
    remap_us: float | None = None
    fault_visits: float | None = None
    fault_us: float | None = None
    write_fault_visits: float | None = None
    write_fault_us: float | None = None
    mkclean_visits: float | None = None
    mkclean_visits_max: int | None = None
    mkclean_pte_visits: float | None = None
    mkclean_us: float | None = None
    unmap_visits: float | None = None
    unmap_visits_max: int | None = None
    unmap_us: float | None = None
    unmap_others: float | None = None
    nr_vmas: int | None = None
    rmap_bytes: int | None = None
    locks: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None


@dataclass(slots=True)
class MemoryRow:
    """What one strategy allocates for one order at one dirty share, at the peak.

    `bytes_per_page` is what remapping cost for each of `pages`, plus what mapping and dirtying cost for each of
    `present_pages`; `pte_ratio` is that over sizeof(pte_t). `bytes_per_dirty_page`: beyond what it takes clean.
    """

    rmap: str
    format: str
    pages: int
    order: str
    dirty_share: float
    present_pages: int | None = None
    rmap_bytes: int | None = None
    bytes_per_page: float | None = None
    pte_ratio: float | None = None
    bytes_per_dirty_page: float | None = None
    nr_vmas: int | None = None
    error: str | None = None


@dataclass(slots=True)
class Answer:
    """Everything that `fremap compare --all` found out."""

    costs: list[CostRow] = field(default_factory=list)
    memory: list[MemoryRow] = field(default_factory=list)
    waits: list[WaitRow] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the rows as the JSON file holds them."""
        return {
            "version": ANSWER_VERSION,
            "costs": [asdict(row) for row in self.costs],
            "memory": [asdict(row) for row in self.memory],
            "contention": [asdict(row) for row in self.waits],
        }

    @classmethod
    def from_json(cls, records: dict[str, Any]) -> Self:
        """Return the rows that as_json wrote; those of a kind that is missing are none."""
        return cls(
            [CostRow(**row) for row in records.get("costs", [])],
            [MemoryRow(**row) for row in records.get("memory", [])],
            [WaitRow(**row) for row in records.get("contention", [])],
        )


LOSING = frozenset({"none"})


def broken_costs(rows: Sequence[CostRow]) -> list[str]:
    """Return what is not as it must be: a strategy that loses, or the proof that does not."""
    said = []
    for row in rows:
        if row.lost_pages is not None:
            must = row.dirty_pages if row.rmap in LOSING else 0
            if row.lost_pages != must:
                said.append(f"{row.rmap} at {row.pages} pages lost {row.lost_pages} pages instead of {must}")
        if row.unnoticed_stores is not None:
            must = row.nr_mkcleans if row.rmap in LOSING else 0
            if row.unnoticed_stores != must:
                seen = row.unnoticed_stores
                said.append(f"{row.rmap} at {row.pages} pages: {seen} late stores unnoticed, not {must}")
    return said
