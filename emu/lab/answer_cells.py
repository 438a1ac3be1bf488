"""One cell of the answer: a strategy at a size, measured. What cannot run says why in its row."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from emu.errors import KernelBug, Signal
from emu.hw.mmu import AccessKind
from emu.hw.pte import get_format
from emu.lab.answer_bench import AnswerBench, OpCost, answer_bench, order_of
from emu.lab.answer_rows import CostRow, MemoryRow

SHARES = (0.0, 0.01, 0.1, 1.0)
_NR_REMAPS = 4096
_NR_RECLAIMS = 8


@dataclass(frozen=True, slots=True)
class CellOptions:
    """How much of a cell is measured.

    `present_max` bounds the pages that are shown by PTEs (the others stay file PTEs), `nr_mkcleans` the pages that are
    cleaned (at least 1,000 for a sample to stand for all).
    """

    format: str = "x86_64"
    seed: int = 0
    present_max: int = 16384
    nr_mkcleans: int = 1000


@contextmanager
def _what_goes_wrong(row: CostRow | MemoryRow) -> Iterator[None]:
    """Turn what a system call refuses, or a machine cannot do, into the row's error."""
    try:
        yield
    except OSError as error:
        row.error = error.strerror or str(error)
    except (Signal, KernelBug, MemoryError, ValueError) as error:
        row.error = str(error) or type(error).__name__


def measure_cost(rmap: str, nr_pages: int, options: CellOptions) -> CostRow:
    """Measure what remapping, faulting, cleaning and unmapping cost in a mapping of `nr_pages` in random order."""
    row = CostRow(rmap, options.format, nr_pages)
    began_s = time.perf_counter()
    nr_present = min(nr_pages, options.present_max)
    with (
        _what_goes_wrong(row),
        answer_bench(rmap, options.format, nr_pages, nr_present, seed=options.seed) as bench,
    ):
        rng = np.random.default_rng(options.seed)
        bench.read_in()
        try:
            bulk = bench.remap_all(order_of("random", nr_pages, rng))
        except OSError as error:
            row.nr_vmas = bench.process.mm.map_count
            row.error = f"{error.strerror} after {row.nr_vmas:,} VMAs (max_map_count)"
            return row
        row.present_pages = nr_present
        row.bulk_remap_us = round(bulk.us, 4)
        row.nr_vmas = bench.process.mm.map_count
        _measure_ops(bench, row, options, rng)
        row.rmap_bytes = bench.nbytes_peak
    row.seconds = round(time.perf_counter() - began_s, 3)
    return row


def _measure_ops(bench: AnswerBench, row: CostRow, options: CellOptions, rng: np.random.Generator) -> None:
    present = np.arange(bench.nr_present)
    fault = bench.fault_in(present)
    row.fault_visits, row.fault_us = round(fault.visits, 3), round(fault.us, 3)

    nr_remaps = min(_NR_REMAPS, bench.nr_present) & ~1
    remap = bench.remap_pages(rng.permutation(bench.nr_present)[:nr_remaps])
    row.remap_visits, row.remap_us = round(remap.visits, 3), round(remap.us, 3)

    nr_cleaned = min(options.nr_mkcleans, bench.nr_present)
    chosen = np.sort(rng.choice(bench.nr_present, nr_cleaned, replace=False))
    write = bench.fault_in(chosen, AccessKind.STORE)
    row.write_fault_visits, row.write_fault_us = round(write.visits, 3), round(write.us, 3)
    clean = bench.mkclean(chosen)
    row.nr_mkcleans, row.extrapolated = nr_cleaned, nr_cleaned < bench.nr_pages
    row.mkclean_visits, row.mkclean_us = round(clean.visits, 3), round(clean.us, 3)
    row.mkclean_visits_max = clean.visits_max
    row.mkclean_pte_visits = round(clean.pte_visits / max(clean.count, 1), 3)
    row.unnoticed_stores = bench.unnoticed(chosen)

    # Pages that nobody stored into, as far as there are any: what an index of dirty PTEs does not know.
    rest = np.setdiff1d(present, chosen)
    victims = rng.choice(rest if len(rest) else present, min(_NR_RECLAIMS, len(rest) or len(present)), replace=False)
    unmap, others = bench.reclaim(victims, 4 * bench.nr_present + 100)
    row.unmap_visits, row.unmap_us = round(unmap.visits, 3), round(unmap.us, 3)
    row.unmap_visits_max, row.unmap_others = unmap.visits_max, round(others / unmap.count, 3)
    row.locks = {
        name: _locks_of(cost)
        for name, cost in (
            ("remap", remap), ("fault", fault), ("write_fault", write), ("mkclean", clean), ("unmap", unmap),
        )
    }


def _locks_of(cost: OpCost) -> dict[str, dict[str, float]]:
    """Return a lock's acquisitions and the visits held under it, an operation; locks that were not taken left out."""
    return {
        name: {what: round(value / max(cost.count, 1), 3) for what, value in counts.items()}
        for name, counts in (cost.locks or {}).items()
        if counts["nr_read"] or counts["nr_write"]
    }


def measure_memory(
    rmap: str, nr_pages: int, order: str, options: CellOptions, tell: Callable[[], None] = lambda: None
) -> list[MemoryRow]:
    """Measure what a strategy allocates for one order, at each dirty share; `tell` is called after each."""
    rows = [MemoryRow(rmap, options.format, nr_pages, order, share) for share in SHARES]
    nr_present = min(nr_pages, options.present_max)
    pte_nbytes = get_format(options.format).pte_bytes
    with (
        _what_goes_wrong(rows[0]),
        answer_bench(rmap, options.format, nr_pages, nr_present, seed=options.seed) as bench,
    ):
        rng = np.random.default_rng(options.seed)
        bench.read_in()
        bench.convert()
        bench.remap_all(order_of(order, nr_pages, rng))
        remapped = bench.nbytes_peak
        bench.fault_in(np.arange(nr_present))
        clean = bench.nbytes_peak
        to_dirty = rng.permutation(nr_present)
        nr_dirty = 0
        for row in rows:
            upto = round(row.dirty_share * nr_present)
            if upto > nr_dirty:
                bench.fault_in(to_dirty[nr_dirty:upto], AccessKind.STORE)
                nr_dirty = upto
            row.present_pages, row.rmap_bytes = nr_present, bench.nbytes_peak
            nbytes = remapped / nr_pages + (row.rmap_bytes - remapped) / nr_present
            row.bytes_per_page = round(nbytes, 4)
            row.pte_ratio = round(nbytes / pte_nbytes, 4)
            row.bytes_per_dirty_page = round((row.rmap_bytes - clean) / nr_dirty, 3) if nr_dirty else None
            row.nr_vmas = bench.process.mm.map_count
            tell()
    for row in rows[1:]:
        row.error = rows[0].error
    return rows
