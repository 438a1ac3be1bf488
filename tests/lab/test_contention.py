"""The simulation of waits: its lock is fair, nobody waits alone, and the verdict follows from the locks."""

import pytest
import simpy

from emu.lab.answer_rows import CostRow
from emu.lab.contention import Prices, Profile, RwLock, simulate
from emu.lab.contention_inputs import mean_wait, profiles, simulate_all, wait_verdicts

TREE = Profile("range_tree", 4096, remap=13, fault=13, clean=25)


def test_readers_share_and_a_writer_waits_for_them_and_stops_later_readers() -> None:
    env = simpy.Environment()
    lock = RwLock(env)
    log: list[tuple[float, str]] = []

    def hold(name: str, at: float, *, write: bool) -> object:
        yield env.timeout(at)
        yield lock.take(write=write)
        log.append((env.now, name))
        yield env.timeout(10)
        lock.release(write=write)

    for name, at, write in (("r1", 0, False), ("r2", 1, False), ("w", 2, True), ("r3", 3, False), ("r4", 4, False)):
        env.process(hold(name, at, write=write))  # type: ignore[arg-type]
    env.run()
    assert log == [(0, "r1"), (1, "r2"), (11, "w"), (21, "r3"), (21, "r4")]


def test_one_thread_waits_for_nobody_but_the_flusher() -> None:
    row = simulate(TREE, 1, Prices(), hot_pages=10_000)
    assert row.fault_wait_us < 0.2
    assert row.remap_wait_us < 0.5


def test_waits_repeat_for_a_seed() -> None:
    assert simulate(TREE, 4, Prices(), seed=3) == simulate(TREE, 4, Prices(), seed=3)


def test_the_same_tree_waits_longer_under_the_mm_wide_lock() -> None:
    wide = Profile("range_tree", 4096, remap=13, fault=13, clean=25, mm_wide=True)
    for visit_ns in (5.0, 50.0):
        prices = Prices(visit=visit_ns)
        own, shared = simulate(TREE, 16, prices), simulate(wide, 16, prices)
        assert own.lock == "vma"
        assert shared.lock == "mmap_sem"
        assert mean_wait(own) < mean_wait(shared) / 2


@pytest.mark.parametrize("threads", [2, 16])
def test_waits_grow_with_the_price_of_a_visit(threads: int) -> None:
    vmas = Profile("linear_vmas", 4096, remap=1, fault=1, clean=1, vmas=4096)
    waits = [mean_wait(simulate(vmas, threads, Prices(visit=visit))) for visit in (5.0, 50.0, 500.0)]
    assert waits == sorted(waits)


def test_a_scan_keeps_the_flusher_from_cleaning() -> None:
    scan = Profile("scan", 1 << 20, remap=1, fault=1, clean=1 << 20)
    index = Profile("dirty_index", 1 << 20, remap=1, fault=4, clean=5)
    assert simulate(scan, 4, Prices()).cleans_per_s < simulate(index, 4, Prices()).cleans_per_s / 1000


def test_profiles_come_from_the_largest_size_that_all_have() -> None:
    def row(rmap: str, pages: int, error: str | None = None) -> CostRow:
        return CostRow(
            rmap, "x86_64", pages, remap_visits=1, write_fault_visits=1, mkclean_visits=2, nr_vmas=1, error=error
        )

    rows = [row(name, size) for size in (1024, 4096) for name in ("none", "range_tree")]
    rows.append(row("none", 16384))
    rows.append(row("range_tree", 16384, "too long"))
    found = profiles(rows)
    assert [(one.rmap, one.pages, one.lock) for one in found] == [
        ("none", 4096, "page"), ("range_tree", 4096, "vma"), ("range_tree", 4096, "mmap_sem"),
    ]  # fmt: skip
    waits = simulate_all(rows, Prices(), threads=(1, 2), scales=(1.0,))
    assert len(waits) == 6
    (said,) = wait_verdicts(waits)
    assert "2 threads, 50 ns a visit" in said
    assert profiles([]) == []
    assert wait_verdicts([]) == []
