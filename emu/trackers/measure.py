"""One row: rounds of arm, stores and collect, each proved right before its time counts."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emu.trackers.base import Tracker
from emu.trackers.kernel_memory import kernel_memory
from emu.trackers.libc import Unavailable
from emu.trackers.pagemap import SoftDirty
from emu.trackers.region import Pages, Region
from emu.trackers.rows import FAILED, OK, UNAVAILABLE, WRONG, TrackerRow
from emu.trackers.segv import MprotectSegv
from emu.trackers.userfault import PagemapScan, UffdAsync, UffdHandler, UffdSigbus

TRACKERS: dict[str, type[Tracker]] = {
    tracker.name: tracker for tracker in (MprotectSegv, UffdHandler, UffdSigbus, UffdAsync, PagemapScan, SoftDirty)
}


@dataclass(frozen=True, slots=True)
class MeasureOrder:
    """How much to measure: pages mapped and dirtied, rounds besides a first one that does not count, the seed."""

    pages: int
    dirty: int
    rounds: int = 5
    seed: int = 0
    directory: str | None = None


def measure(name: str, memory: str, order: MeasureOrder) -> TrackerRow:
    """Measure a tracker on a kind of memory in this process; what goes wrong is said in the row."""
    kind = TRACKERS[name]
    row = TrackerRow(name, memory, order.pages, order.dirty, kind.title)
    try:
        with Region(memory, order.pages, Path(order.directory) if order.directory else None) as region:
            _measure(kind, region, order, row)
    except Unavailable as error:
        row.status, row.reason = UNAVAILABLE, str(error)
    except OSError as error:
        row.status, row.reason = FAILED, error.strerror or str(error)
    return row


def _measure(kind: type[Tracker], region: Region, order: MeasureOrder, row: TrackerRow) -> None:
    rng = np.random.default_rng(order.seed)
    bare = []
    for _ in range(order.rounds):
        pages = _choose(rng, order)
        _dirty_again(region, pages)
        bare.append(_timed_stores(region, pages, 2))
    place = (region.vaddr, region.nbytes)
    rounds: list[tuple[float, float, float]] = []
    with kind(region) as tracker:
        before = kernel_memory(*place)
        for turn in range(order.rounds + 1):
            pages, value = _choose(rng, order), 3 + turn % 200
            if _dirty_again(region, pages):
                tracker.settle()
            began_s = time.perf_counter()
            tracker.arm()
            armed_s = time.perf_counter()
            stored = _timed_stores(region, pages, value)
            after = kernel_memory(*place)
            collecting_s = time.perf_counter()
            found = tracker.collect()
            rounds.append((armed_s - began_s, stored, time.perf_counter() - collecting_s))
            row.reason = what_is_wrong(found, pages) or (
                None if region.holds(pages, value) else "stores are missing in memory"
            )
            if row.reason is not None:
                row.status = WRONG
                return
            row.kernel_bytes = after.added_since(before)
            row.nr_vmas = after.nr_vmas - before.nr_vmas
            row.user_bytes = tracker.user_bytes
    # The first round pays for what is done once.
    per_page = 1e6 / order.dirty
    row.arm_us, row.store_us, row.collect_us = (
        statistics.median(times) * per_page for times in zip(*rounds[1:], strict=True)
    )
    # The fastest: in the others the kernel's own writeback may have cleaned the file's pages under way.
    row.untracked_us = min(bare) * per_page
    row.rounds = order.rounds
    row.status = OK


def _choose(rng: np.random.Generator, order: MeasureOrder) -> Pages:
    """Return which pages are stored to, in the order of the stores."""
    return rng.permutation(order.pages)[: order.dirty].astype(np.int64)


def _dirty_again(region: Region, pages: Pages) -> bool:
    """Store into pages of a disk's file before they are timed: writeback cleans them, and then a store is a fault."""
    if region.memory == "disk":
        region.store(pages, 1)
    return region.memory == "disk"


def _timed_stores(region: Region, pages: Pages, value: int) -> float:
    began_s = time.perf_counter()
    region.store(pages, value)
    return time.perf_counter() - began_s


def what_is_wrong(found: Pages, stored: Pages) -> str | None:
    """Say how the pages found differ from those stored to; None if they are the same."""
    missing, more = np.setdiff1d(stored, found), np.setdiff1d(found, stored)
    if missing.size:
        return f"{missing.size:,} of {stored.size:,} dirtied pages not reported, such as page {missing[0]}"
    if more.size:
        return f"{more.size:,} pages reported that nobody stored to, such as page {more[0]}"
    return None if found.size == stored.size else f"{found.size - stored.size:,} pages reported twice"
