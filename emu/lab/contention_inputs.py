"""From measured costs to simulated waits: which size, which threads, which prices; and what moves with the price."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from emu.lab.answer_rows import CostRow
from emu.lab.contention import Prices, Profile, WaitRow, simulate
from emu.lab.progress import NoProgress, Progress

THREADS = (1, 2, 4, 8, 16)
SCALES = (0.1, 1.0, 10.0)
"""How wrong the price of a visit may be, either way."""


def profile_of(row: CostRow) -> Profile | None:
    """Return what the simulation needs of a measured row, None if it lacks something."""
    if row.error or row.remap_visits is None or row.write_fault_visits is None or row.mkclean_visits is None:
        return None
    vmas = row.nr_vmas if row.nr_vmas is not None and row.nr_vmas > 1 else 0
    return Profile(row.rmap, row.pages, row.remap_visits, row.write_fault_visits, row.mkclean_visits, vmas)


def profiles(rows: Iterable[CostRow]) -> list[Profile]:
    """Return profiles at the largest size that every strategy was measured at, and range_tree under mmap_sem.

    The last one is the thread's own question with everything else equal: the same tree, in the VMA or mm-wide.
    """
    rows = list(rows)
    names = list(dict.fromkeys(row.rmap for row in rows))
    by_size: dict[int, dict[str, Profile]] = {}
    for row in rows:
        profile = profile_of(row)
        if profile is not None:
            by_size.setdefault(row.pages, {})[row.rmap] = profile
    if not by_size:
        return []
    most = max(len(found) for found in by_size.values())
    found = by_size[max(size for size, here in by_size.items() if len(here) == most)]
    chosen = [found[name] for name in names if name in found]
    if "range_tree" in found:
        chosen.append(replace(found["range_tree"], mm_wide=True))
    return chosen


def simulate_all(
    rows: Sequence[CostRow],
    prices: Prices,
    *,
    threads: Sequence[int] = THREADS,
    scales: Sequence[float] = SCALES,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[WaitRow]:
    """Simulate each profile for each number of threads and each price of a visit."""
    todo = [
        (profile, count, replace(prices, visit=prices.visit * scale))
        for scale in scales
        for profile in profiles(rows)
        for count in threads
    ]
    waits = []
    with (progress or NoProgress()).step("simulating contention", len(todo)) as advance:
        for profile, count, price in todo:
            waits.append(simulate(profile, count, price, seed=seed))
            advance(1)
    return waits


def mean_wait(row: WaitRow) -> float:
    """Return what a thread waits an operation on average: four faults, one remap."""
    return 0.8 * row.fault_wait_us + 0.2 * row.remap_wait_us


def wait_verdicts(waits: Sequence[WaitRow]) -> list[str]:
    """Say, for each price of a visit, what the mm-wide lock costs against per-VMA tracking, at most threads."""
    if not waits:
        return []
    threads = max(row.threads for row in waits)
    said = []
    for visit_ns in sorted({row.visit_ns for row in waits}):
        here = {(row.rmap, row.lock): row for row in waits if row.threads == threads and row.visit_ns == visit_ns}
        tree, wide = here.get(("range_tree", "vma")), here.get(("range_tree", "mmap_sem"))
        vmas, index = here.get(("linear_vmas", "mmap_sem")), here.get(("dirty_index", "page"))
        parts = [
            f"{name} {mean_wait(row):.3g} us"
            for name, row in (
                ("range_tree in the VMA", tree),
                ("the same under mmap_sem", wide),
                ("linear_vmas", vmas),
                ("dirty_index", index),
            )
            if row is not None
        ]
        if parts:
            said.append(f"{threads} threads, {visit_ns:g} ns a visit, mean wait an operation: {', '.join(parts)}")
    return said
