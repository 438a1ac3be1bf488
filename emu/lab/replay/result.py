"""What comes out of a replay, as plain data: what tables, pictures and JSON are made of."""

from dataclasses import dataclass, field

import numpy as np

from emu.lab.replay.space import SORT_NAMES, Sort, Space
from emu.mm_types.events import EventKind, EventLog

LOSES = "none"
"""The one reverse map that may lose pages: it is kept as the proof."""

_WRITE, _MAJOR = 1, 2


@dataclass(slots=True)
class FaultRow:
    """Page faults in one sort of memory: all, those for stores, and those that had to read a file."""

    memory: str
    faults: int
    for_stores: int
    major: int


@dataclass(slots=True)
class WindowRow:
    """The trace up to access `end`: distinct pages touched since the window before, and the machine's state."""

    end: int
    pages: int
    code_pages: int
    data_pages: int
    stored_pages: int
    pages_so_far: int
    faults: int
    resident_pages: int
    dirty_file_pages: int
    tlb_misses: int
    walks: int


@dataclass(slots=True)
class StrategyRow:
    """What one reverse map pays when the program's memory is pages of one file, mapped nonlinearly.

    `visits_per_mkclean`: PTEs and nodes looked at; `own_bytes`: its structure at its largest; `lost_pages`: pages that
    do not hold after a power cut what was stored before the last msync; None with `error`.
    """

    rmap: str
    faults: int | None = None
    mkclean_calls: int | None = None
    visits_per_mkclean: float | None = None
    pte_visits: int | None = None
    node_visits: int | None = None
    own_bytes: int | None = None
    pte_bytes: int | None = None
    nr_vmas: int | None = None
    dirty_pages: int | None = None
    lost_pages: int | None = None
    seconds: float | None = None
    error: str | None = None


@dataclass(slots=True)
class Replay:
    """What came out; page counts in pages of the machine's format."""

    trace: str
    command: list[str]
    complete: bool
    format: str
    page_size: int
    ram: int
    accesses: int
    by_kind: dict[str, int]
    mmu_accesses: int
    calls: dict[str, int]
    copied_bytes: int
    seconds: float
    accesses_per_second: float
    pages_touched: int
    pages_stored: int
    pages_mapped_on_demand: int
    faults: dict[str, int]
    fault_rows: list[FaultRow]
    tlb: dict[str, int]
    windows: list[WindowRow]
    resident_pages_max: int
    dirty_file_pages_max: int
    shared_bytes_checked: int
    shared_pages_wrong: int
    shared_files: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    signals: dict[str, int] = field(default_factory=dict)
    refused_calls: dict[str, int] = field(default_factory=dict)
    first_signal: str = ""
    first_refused: str = ""
    strategies: list[StrategyRow] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether something does not hold what was stored and must, or could not be run."""
        rows = [row for row in self.strategies if row.rmap != LOSES or row.error]
        return bool(self.shared_pages_wrong) or any(row.error or row.lost_pages for row in rows)


def fault_rows(events: EventLog, ever: Space) -> list[FaultRow]:
    """Return the recorded faults by what was (last) mapped where they happened; the most first."""
    records = events.array()
    faults = records[records["kind"] == EventKind.FAULT]
    sorts = ever.sorts_at(np.ascontiguousarray(faults["vaddr"]))
    flags = faults["flags"]
    rows = []
    for sort in Sort:
        mine = flags[sorts == sort]
        if len(mine):
            stores, major = int((mine & _WRITE != 0).sum()), int((mine & _MAJOR != 0).sum())
            rows.append(FaultRow(SORT_NAMES[sort], len(mine), stores, major))
    return sorted(rows, key=lambda row: -row.faults)
