"""Who dirties pages pays for them: balance_dirty_pages, on virtual time."""

from pathlib import Path
from typing import Any

import pytest

from emu.check import check
from emu.hw.mmu import AccessKind, kind_of
from emu.machine import Machine
from emu.mm.page_writeback import balance_dirty_pages_ratelimited, global_dirty_limits
from emu.mm.sched import judge_again
from emu.process import Process
from fsbackend.bdi import BackingDevInfo
from fsbackend.throttle import DirtyParams
from tests.emu.mm.helpers import (
    PAGE,
    make_file,
    virtual_machine,
)


def test_a_fast_dirtier_is_throttled_and_stays_under_the_limit(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", 600)
    limit = 100
    params = DirtyParams(background_bytes=50 * PAGE, dirty_bytes=limit * PAGE)
    machine, clock = virtual_machine(io_depth=2, params=params)
    process = machine.spawn()
    mapping = process.mmap(str(path), 600 * PAGE)
    start_s = clock.now()
    for page in range(600):
        process.store(mapping.vaddr + page * PAGE, b"x")
        assert machine.vmstat.nr_dirty + machine.vmstat.nr_writeback <= limit + 32
    assert machine.vmstat.nr_throttled > 0
    assert machine.vmstat.throttle_pause_us > 0
    assert clock.now() > start_s
    check(machine)
    machine.power_off()


def test_a_throttled_task_does_not_hold_up_another(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", 600)
    params = DirtyParams(background_bytes=20 * PAGE, dirty_bytes=40 * PAGE)
    machine, _ = virtual_machine(io_depth=2, params=params)
    writer, reader = machine.spawn(), machine.spawn()
    ours, theirs = (process.mmap(str(path), 600 * PAGE).vaddr for process in (writer, reader))
    store, load = kind_of(AccessKind.STORE, 8), kind_of(AccessKind.LOAD, 8)
    tasks = [
        writer.task([ours + page * PAGE for page in range(600)], store, 7),
        reader.task([theirs + page * PAGE for page in range(600)], load),
    ]
    machine.run(tasks)
    assert all(task.finished for task in tasks)
    assert machine.vmstat.nr_throttled > 0
    assert writer.load(ours + 599 * PAGE, 1) == b"\7"
    check(machine)
    machine.power_off()


def test_a_process_that_dirties_little_does_not_pay_for_another(tmp_path: Path) -> None:
    """v4.9 mm/page-writeback.c: balance_dirty_pages() keeps what is owed in the task."""
    path = make_file(tmp_path / "file", 200)
    machine, _ = virtual_machine(io_depth=2, params=DirtyParams(background_bytes=100 * PAGE, dirty_bytes=200 * PAGE))
    heavy, light = machine.spawn(), machine.spawn()
    vaddr = heavy.mmap(str(path), 200 * PAGE).vaddr
    for page in range(180):
        heavy.store(vaddr + page * PAGE, b"x")
    k = machine.kernel
    mapping = next(iter(k.mappings.values()))
    law = mapping.bdi.throttle
    law.avg_write_bandwidth = law.dirty_ratelimit = law.balanced_dirty_ratelimit = 1000.0
    assert k.vmstat.nr_dirty + k.vmstat.nr_writeback > 150
    pauses = []
    for process, nr_pages in ((heavy, 64), (light, 1)):
        process.mm.nr_dirtied = nr_pages
        process.mm.nr_dirtied_pause = 1
        balance_dirty_pages_ratelimited(k, process.mm, mapping)
        pauses.append(k.pause_s)
        k.pause_s = 0.0
    assert pauses[0] > 0.01
    assert pauses[1] == 0.0
    judge_again(k, heavy.mm)
    assert k.pause_s > 0.01
    k.pause_s = 0.0
    machine.power_off()


def dirtiers(tmp_path: Path, count: int, **options: object) -> tuple[Machine, list[tuple[Process, int]]]:
    """Boot a machine with `count` processes that map the same 400 pages; return each with the mapping's address."""
    path = make_file(tmp_path / "file", 400)
    machine, _ = virtual_machine(**options)
    processes = [machine.spawn() for _ in range(count)]
    return machine, [(process, process.mmap(str(path), 400 * PAGE).vaddr) for process in processes]


def charges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which each look at the limits adds how many pages it charges for."""
    charged: list[int] = []
    balance = BackingDevInfo.balance

    def note(bdi: BackingDevInfo, now_s: float, nr_pages: int, *rest: Any) -> float:
        charged.append(nr_pages)
        return balance(bdi, now_s, nr_pages, *rest)

    monkeypatch.setattr(BackingDevInfo, "balance", note)
    return charged


def test_each_process_is_charged_for_the_pages_that_it_dirtied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v4.9 mm/page-writeback.c: account_page_dirtied() counts in current->nr_dirtied."""
    machine, ((one, base), (other, its_base)) = dirtiers(tmp_path, 2)
    charged = charges(monkeypatch)
    for page in range(15):
        one.store(base + page * PAGE, b"x")
    assert charged == []
    # The sixteenth page on this CPU: the limits are looked at, and who dirtied it is charged for that alone.
    other.store(its_base + 100 * PAGE, b"x")
    assert charged == [1]
    # Dirty already, so not dirtied.
    other.store(its_base, b"x")
    assert (one.mm.nr_dirtied, other.mm.nr_dirtied) == (15, 0)
    machine.power_off()


def test_an_exited_process_leaves_its_pages_to_the_next_dirtier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v4.9 kernel/exit.c: do_exit(): dirty_throttle_leaks."""
    machine, ((one, base), (other, its_base)) = dirtiers(tmp_path, 2)
    machine.kernel.ratelimit_pages = 1000
    charged = charges(monkeypatch)
    for page in range(31):
        one.store(base + page * PAGE, b"x")
    one.exit()
    other.store(its_base + 100 * PAGE, b"x")
    assert charged == [32]
    assert machine.kernel.dirty_throttle_leaks == 0
    machine.power_off()


def test_the_limits_are_looked_at_more_often_above_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, ((one, base),) = dirtiers(tmp_path, 1)
    machine.kernel.ratelimit_pages = 1000
    charged = charges(monkeypatch)
    for page in range(32):
        one.store(base + page * PAGE, b"x")
    one.mm.nr_dirtied_pause = 32
    next(iter(machine.kernel.dirty_mappings)).bdi.throttle.dirty_exceeded = True
    for page in range(32, 40):
        one.store(base + page * PAGE, b"x")
    assert charged == [32, 8]
    machine.power_off()


@pytest.mark.parametrize(("fmt", "first", "then"), [("arm64_16k", 8, 2), ("arm64_64k", 2, 1)])
def test_how_often_the_limits_are_looked_at_follows_from_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str, first: int, then: int
) -> None:
    """128 KiB at first, 32 KiB over the limit (v4.9 kernel/fork.c: copy_process(); mm/page-writeback.c)."""
    machine, ((one, base),) = dirtiers(tmp_path, 1, format=fmt, ram="16M")
    machine.kernel.ratelimit_pages = 1000
    charged = charges(monkeypatch)
    for page in range(first):
        one.store(base + page * one.page_size, b"x")
    one.mm.nr_dirtied_pause = 32
    next(iter(machine.kernel.dirty_mappings)).bdi.throttle.dirty_exceeded = True
    for page in range(first, first + then):
        one.store(base + page * one.page_size, b"x")
    assert charged == [first, then]
    machine.power_off()


def test_mapped_memory_lowers_the_limit_of_2_6_20(tmp_path: Path) -> None:
    """v2.6.20 mm/page-writeback.c: get_dirty_limits(): at most half of what is not mapped."""
    path = make_file(tmp_path / "file", 200)
    percent = {}
    for kernel in ("2.6.20", "3.6"):
        machine, _ = virtual_machine(ram=256 * PAGE, params=DirtyParams.preset(kernel))
        process = machine.spawn()
        mapping = process.mmap(str(path), 200 * PAGE)
        for nr_pages in (0, 180):
            for page in range(nr_pages):
                process.load(mapping.vaddr + page * PAGE, 1)
            k = machine.kernel
            percent[kernel, nr_pages] = 100 * global_dirty_limits(k).dirty // (k.ram.nr_free + k.vmstat.nr_file_pages)
        machine.power_off()
    assert percent["3.6", 180] == pytest.approx(percent["3.6", 0], abs=1)
    assert percent["2.6.20", 0] == pytest.approx(40, abs=1)
    assert percent["2.6.20", 180] == pytest.approx((100 - 180 * 100 / 256) / 2, abs=1)
