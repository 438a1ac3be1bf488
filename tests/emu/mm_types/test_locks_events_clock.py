"""Locks that count, events that are recorded, clocks that obey."""

import json
from pathlib import Path

import numpy as np
import pytest

from emu.errors import KernelBug
from emu.mm_types import events
from emu.mm_types.clock import RealClock, VirtualClock
from emu.mm_types.events import Counter, EventKind, EventLog
from emu.mm_types.locks import Locks
from emu.mm_types.vmstat import VmStat


def test_locks_count_acquisitions_and_the_visits_under_them() -> None:
    locks = Locks()
    one, other = locks.new(locks.mmap_sem), locks.new(locks.mmap_sem)
    one.down_read()
    locks.visits.total += 3
    one.down_read()
    other.down_write()
    locks.visits.total += 4
    other.up_write()
    one.up_read()
    one.up_read()
    assert locks.snapshot()["mmap_sem"] == {
        "nr_read": 2,
        "nr_write": 1,
        "visits_read": 7,
        "visits_write": 4,
        "visits_max": 7,
    }
    assert locks.snapshot()["i_mmap_lock"]["nr_write"] == 0


@pytest.mark.parametrize(
    "calls",
    [
        ["down_write", "down_write"],
        ["down_write", "down_read"],
        ["down_read", "down_write"],
        ["up_read"],
        ["up_write"],
        ["down_read", "up_write"],
    ],
)
def test_locks_used_out_of_order_are_bugs(calls: list[str]) -> None:
    locks = Locks()
    lock = locks.new(locks.i_mmap_lock)
    for call in calls[:-1]:
        getattr(lock, call)()
    with pytest.raises(KernelBug, match="i_mmap_lock"):
        getattr(lock, calls[-1])()


def test_events_over_several_blocks_and_from_disk(tmp_path: Path) -> None:
    log = EventLog()
    count = (1 << 14) + 3
    for i in range(count):
        log.emit(EventKind.FAULT, i / 8, mm=2, cpu=1, flags=5, vaddr=(1 << 63) + i, mapping=3, pfn=4, pgoff=i, arg=-i)
    assert len(log) == count
    rows = log.array()
    assert rows.dtype == events.EVENT_DTYPE
    assert rows["pgoff"].tolist() == list(range(count))
    assert tuple(rows[-1]) == ((count - 1) / 8, 1, 1, 5, 2, 3, 4, (1 << 63) + count - 1, count - 1, 1 - count, 0)
    log.save(tmp_path / "events.npy")
    assert (np.load(tmp_path / "events.npy") == rows).all()


def test_a_virtual_clock_moves_only_when_told() -> None:
    clock = VirtualClock(10.0, tick_s=0.5)
    assert clock.now() == clock.now() == 10.0
    clock.tick()
    clock.advance(1.0)
    clock.sleep_until(11.0)
    assert clock.now() == 11.5
    clock.sleep_until(20.0)
    assert clock.now() == 20.0
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_the_real_clock_runs_by_itself() -> None:
    clock = RealClock()
    start_s = clock.now()
    clock.tick()
    clock.sleep_until(start_s + 0.002)
    clock.sleep_until(start_s)
    assert clock.now() >= start_s + 0.002


def test_vmstat_shows_every_counter() -> None:
    stat = VmStat(nr_dirty=3)
    shown = stat.snapshot()
    assert shown["nr_dirty"] == 3
    assert sum(shown.values()) == 3
    assert {"pgfault", "nr_tlb_remote_flush", "unaccounted_dirty_max"} <= shown.keys()


def test_events_in_a_file_are_there_whenever_the_run_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "events.npy"
    log = EventLog(path)
    log.name("mm", 7, parent=0)
    count = (1 << 14) + 5
    for i in range(count):
        log.emit(EventKind.FAULT, i / (1 << 20), arg=i)
    saved = np.load(path)
    assert saved["arg"].tolist() == list(range(len(saved)))
    assert len(saved) >= 1 << 14
    with path.open("ab") as file:
        file.write(b"torn")
    assert len(np.load(path)) == len(saved)
    log.emit(EventKind.FAULT, 9.0, arg=count)
    assert len(np.load(path)) == 1 + count == len(log)
    assert json.loads(path.with_suffix(".json").read_text())["mm"] == {"7": {"parent": 0}}
    log.close()
    assert log.array()["arg"].tolist() == list(range(count + 1))


def test_a_counter_is_recorded_when_it_changes() -> None:
    log = EventLog()
    for value in (3, 3, 4, 4, 3):
        log.count(Counter.NR_DIRTY, value, 1.0)
    log.count(Counter.NR_DIRTY, 3, 1.0, bdi=1)
    assert log.array()["arg"].tolist() == [3, 4, 3, 3]
