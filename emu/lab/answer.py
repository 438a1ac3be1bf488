"""The whole answer: every strategy at every size, by cells; lost pages by reading files, locks by simulation.

A cell that would take longer than the user allows is not run, and says so; so does one that cannot fit. What it would
take is predicted from the same cell at the size before.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from emu.lab.answer_bench import ORDERS
from emu.lab.answer_cells import SHARES, CellOptions, measure_cost, measure_memory
from emu.lab.answer_rows import Answer, CostRow, MemoryRow
from emu.lab.compare import Combination, OpenGround, run_row
from emu.lab.contention import Prices
from emu.lab.contention_inputs import THREADS, simulate_all
from emu.lab.errors import LabError
from emu.lab.lab import LabOptions
from emu.lab.progress import NoProgress, Progress
from emu.lab.row_records import RowRecords

MIN_PAGES = 1024
_STEP = 4
NR_MKCLEANS_MIN = 1000
_KEEP_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class AnswerOrder:
    """What the user asked for.

    Sizes run from `min_pages` in steps of four to `max_pages`. Up to `verify_max` pages the files are read after a
    power cut. A cell that is predicted to take more than `cell_s` seconds is left out. `threads` are simulated.
    """

    rmaps: tuple[str, ...]
    cells: CellOptions = field(default_factory=CellOptions)
    min_pages: int = MIN_PAGES
    max_pages: int = 1 << 20
    verify_max: int = 4096
    cell_s: float = 30.0
    prices: Prices = field(default_factory=Prices)
    threads: tuple[int, ...] = THREADS

    def check(self) -> None:
        """Look at every choice before anything runs; LabError in one line."""
        for rmap in self.rmaps:
            LabOptions(rmap=rmap, format=self.cells.format).check("all")
        if not 2 <= self.min_pages <= self.max_pages:
            raise LabError(f"--max-pages {self.max_pages}: give at least {max(self.min_pages, 2)}")
        if self.cells.nr_mkcleans < NR_MKCLEANS_MIN:
            raise LabError(f"a sample needs at least {NR_MKCLEANS_MIN} mkcleans, not {self.cells.nr_mkcleans}")

    @property
    def sizes(self) -> list[int]:
        """The sizes to measure at, in pages."""
        sizes = []
        size = self.min_pages
        while size < self.max_pages:
            sizes.append(size)
            size *= _STEP
        return [*sizes, self.max_pages]

    @property
    def memory_sizes(self) -> list[int]:
        """The sizes to measure memory at: every other one, the largest included."""
        return self.sizes[::-2][::-1]


class _Budget:
    """Knows what cells took at smaller sizes, and which can go no further."""

    def __init__(self, cell_s: float) -> None:
        self._cell_s = cell_s
        self._took: dict[tuple[str, str], tuple[int, float]] = {}
        self._stopped: dict[tuple[str, str], str] = {}

    def refusal(self, cell: tuple[str, str], nr_pages: int) -> str | None:
        """Return why a cell is not to be run, None if it is."""
        if cell in self._stopped:
            return self._stopped[cell]
        before = self._took.get(cell)
        if before is None:
            return None
        predicted_s = before[1] * nr_pages / before[0]
        if predicted_s <= self._cell_s:
            return None
        return f"not run: would take about {predicted_s:.0f} s; --cell-seconds {self._cell_s:g} allows less"

    def note(self, cell: tuple[str, str], nr_pages: int, seconds: float, error: str | None) -> None:
        """Take note of what a cell took, and of an error that larger sizes will have, too."""
        self._took[cell] = (nr_pages, seconds)
        if error is not None:
            self._stopped[cell] = error if error.startswith("stopped") else f"stopped at {nr_pages:,} pages: {error}"


def answer(
    order: AnswerOrder,
    open_ground: OpenGround,
    judged_by: str,
    progress: Progress | None = None,
    *,
    records: RowRecords | None = None,
    keep: Callable[[Answer], None] = lambda _found: None,
) -> Answer:
    """Measure every cell; `open_ground` is where files lie whose loss is judged, `judged_by` says how.

    What is judged leaves run directories in `records`; `keep` is given what there is, about once a second.
    """
    order.check()
    shown = progress or NoProgress()
    found = Answer()
    budget = _Budget(order.cell_s)
    kept = _Keeper(found, keep)
    nr_cells = len(order.sizes) * len(order.rmaps)
    with shown.step("costs, every strategy at every size", nr_cells) as advance:
        for nr_pages in order.sizes:
            for rmap in order.rmaps:
                found.costs.append(_cost(order, budget, rmap, nr_pages))
                kept.cell()
                advance(1)
    small = [row for row in found.costs if row.pages <= order.verify_max]
    with shown.step("power cuts, files read by an ordinary process", len(small)) as advance:
        for row in small:
            _judge(row, order, open_ground, judged_by, records)
            kept.cell()
            advance(1)
    nr_cells = len(order.memory_sizes) * len(order.rmaps)
    with shown.step("memory, every order and dirty share", nr_cells * len(ORDERS)) as advance:
        for nr_pages in order.memory_sizes:
            for rmap in order.rmaps:
                for name in ORDERS:
                    found.memory += _memory(order, budget, rmap, nr_pages, name)
                    kept.cell()
                    advance(1)
    keep(found)
    found.waits = simulate_all(
        found.costs, order.prices, threads=order.threads, seed=order.cells.seed, progress=progress
    )
    return found


class _Keeper:
    """Has what was found kept, so that a run that is killed leaves it; between cells, and not after each."""

    def __init__(self, found: Answer, keep: Callable[[Answer], None]) -> None:
        self._found = found
        self._keep = keep
        self._due_s = 0.0

    def cell(self) -> None:
        """Note that a cell is done."""
        if time.monotonic() >= self._due_s:
            self._keep(self._found)
            self._due_s = time.monotonic() + _KEEP_EVERY_S


def _cost(order: AnswerOrder, budget: _Budget, rmap: str, nr_pages: int) -> CostRow:
    cell = (rmap, "cost")
    refusal = budget.refusal(cell, nr_pages)
    if refusal is not None:
        return CostRow(rmap, order.cells.format, nr_pages, error=refusal)
    began_s = time.perf_counter()
    row = measure_cost(rmap, nr_pages, order.cells)
    budget.note(cell, nr_pages, time.perf_counter() - began_s, row.error)
    return row


def _judge(
    row: CostRow, order: AnswerOrder, open_ground: OpenGround, judged_by: str, records: RowRecords | None
) -> None:
    """Run late_store at the row's size and let an ordinary process read what is left."""
    combination = Combination(row.rmap, "disk", row.format)
    judged = run_row(combination, row.pages, open_ground, seed=order.cells.seed, records=records)
    if judged.error is not None:
        row.error = row.error or judged.error
        return
    row.dirty_pages, row.lost_pages, row.judged_by = judged.dirty_pages, judged.lost_pages, judged_by


def _memory(order: AnswerOrder, budget: _Budget, rmap: str, nr_pages: int, name: str) -> list[MemoryRow]:
    cell = (rmap, name)
    refusal = budget.refusal(cell, nr_pages)
    if refusal is not None:
        return [MemoryRow(rmap, order.cells.format, nr_pages, name, share, error=refusal) for share in SHARES]
    began_s = time.perf_counter()
    rows = measure_memory(rmap, nr_pages, name, order.cells)
    budget.note(cell, nr_pages, time.perf_counter() - began_s, rows[0].error)
    return rows
