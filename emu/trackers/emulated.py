"""The same stores in the emulated kernel, under dirty_index: which PTEs it knows, and in how many bytes.

The mapping is nonlinear, in random order, each page present and clean. page_mkclean, which is what arms the emulated
kernel for the next round, looks its PTEs up in the index. The times of an emulator mean nothing beside a kernel's.
"""

import numpy as np

from emu.hw.mmu import AccessKind
from emu.lab.answer_bench import AnswerBench, answer_bench, order_of
from emu.trackers.measure import MeasureOrder, what_is_wrong
from emu.trackers.region import Pages
from emu.trackers.rows import EMULATED, WRONG, TrackerRow

_ROUNDS = 2


def measure_dirty_index(order: MeasureOrder) -> TrackerRow:
    """Store into pages of a nonlinear mapping and compare the index with them."""
    row = TrackerRow(
        "dirty_index", "emulated", order.pages, order.dirty, "fremap's index of writable or dirty PTEs", EMULATED
    )
    rng = np.random.default_rng(order.seed)
    with answer_bench("dirty_index", "x86_64", order.pages, order.pages, seed=order.seed) as bench:
        bench.read_in()
        bench.convert()
        bench.remap_all(order_of("random", order.pages, rng))
        bench.fault_in(np.arange(order.pages))
        for _ in range(_ROUNDS):
            stored = rng.permutation(order.pages)[: order.dirty].astype(np.int64)
            bench.process.run(bench.vaddrs(bench.places_of(stored)), AccessKind.STORE, 1)
            row.reason = _wrong(bench, stored)
            if row.reason is not None:
                row.status = WRONG
                return row
            row.visits = bench.mkclean(stored).visits
    row.rounds = _ROUNDS
    row.kernel_bytes, row.user_bytes, row.nr_vmas = bench.nbytes_peak, 0, 0
    return row


def _wrong(bench: AnswerBench, stored: Pages) -> str | None:
    """Say how the dirty PTEs, and the index, differ from the pages stored to."""
    fmt, mapping = bench.kernel.fmt, bench.mapping
    vaddrs, ptes = bench.process.mm.pt.entries(mapping.vaddr, mapping.vaddr + mapping.nbytes)
    dirty = vaddrs[(ptes & np.uint64(fmt.dirty_mask)) != 0]
    places = ((dirty - np.uint64(mapping.vaddr)) // np.uint64(bench.page_size)).astype(np.int64)
    reason = what_is_wrong(bench.order[places], stored)
    entries = getattr(bench.kernel.rmap, "nr_entries", 0)
    if reason is None and entries != stored.size:
        reason = f"the index has {entries:,} entries for {stored.size:,} dirtied pages"
    # The index's own check compares it with every PTE.
    return reason or next(iter(bench.kernel.rmap.check(bench.kernel)), None)
