"""A whole machine: CPUs and their TLBs, power, determinism, what it refuses."""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emu.check import check
from emu.errors import KernelBug
from emu.hw.mmu import AccessKind, kind_of
from emu.machine import Machine
from emu.mm.entry import QUANTUM
from emu.mm_types.clock import VirtualClock
from emu.mm_types.events import EventKind
from emu.mm_types.pgtable import set_pte
from fsbackend.throttle import DirtyParams
from tests import breaks
from tests.emu.mm.helpers import NR_PAGES, PAGE, Lab, fails_with, make_file, map_nonlinear, on_disk, settle, stamp

FORMATS = ("x86_64", "i386")


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_hand_edited_pte_redirects_after_a_flush_and_not_before(fmt: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path, fmt)
    k, mm, vma = lab.machine.kernel, lab.process.mm, lab.process.vmas[0]
    assert [lab.shown(0), lab.shown(1)] == [stamp(0), stamp(1)]
    mine, other = lab.pte(0), lab.pte(1)
    set_pte(mm, vma, lab.at(0), mine, other)
    assert lab.shown(0) == stamp(0), "the TLB still says so"
    with pytest.raises(KernelBug, match="stale"):
        check(lab.machine)
    k.flush_tlb_page(mm, lab.at(0))
    assert lab.shown(0) == stamp(1)
    set_pte(mm, vma, lab.at(0), other, mine)
    k.flush_tlb_mm(mm)
    assert lab.shown(0) == stamp(0)
    check(lab.machine)
    lab.machine.power_off()


def test_each_cpu_has_its_own_tlb_and_flushes_reach_those_that_ran_the_mm(tmp_path: Path) -> None:
    lab = Lab(tmp_path, cpus=4)
    k, mm = lab.machine.kernel, lab.process.mm
    for cpu in (1, 3):
        k.cpu = cpu
        lab.shown(0)
    assert mm.cpu_mask == 0b1010
    k.cpu = 0
    before = lab.machine.vmstat.nr_tlb_remote_flush
    lab.process.madvise(lab.at(0), PAGE, 4)
    assert lab.machine.vmstat.nr_tlb_remote_flush == before + 2
    check(lab.machine)
    lab.machine.power_off()


def test_without_the_remote_flush_another_cpu_sees_the_old_page(tmp_path: Path) -> None:
    lab = Lab(tmp_path, cpus=2)
    k = lab.machine.kernel
    k.cpu = 1
    assert lab.shown(0) == stamp(0)
    k.cpu = 0
    lab.process.remap_file_pages(lab.at(0), PAGE, 0, 9)
    k.cpu = 1
    assert lab.shown(0) == stamp(9)
    k.cpu = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k, "flush_tlb_page", lambda mm, vaddr: k.cpus[0].invalidate_page(vaddr, mm.asid))
        lab.process.remap_file_pages(lab.at(0), PAGE, 0, 4)
    assert lab.shown(0) == stamp(4)
    k.cpu = 1
    assert lab.shown(0) == stamp(9), "a stale translation"
    with pytest.raises(KernelBug, match="CPU 1: stale"):
        check(lab.machine)
    lab.machine.power_off()


def test_processes_on_one_file_see_each_other_at_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    others = [lab.machine.spawn() for _ in range(3)]
    mappings = [map_nonlinear(other, lab.path, NR_PAGES) for other in others]
    for place, mapping in enumerate(mappings):
        lab.process.store(lab.at(place), bytes([place + 65]) * 8)
        assert mapping[(NR_PAGES - 1 - place) * PAGE] == place + 65
        mapping[(NR_PAGES - 1 - place) * PAGE] = 33
        assert lab.shown(place)[:1] == b"!"
    lab.machine.sync()
    check(lab.machine)
    assert lab.machine.vmstat.mkclean_cleaned >= 6
    lab.machine.shutdown()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("rmap", ["none", "scan", "dirty_index"])
def test_two_runs_with_one_seed_are_equal(rmap: str, fmt: str, tmp_path: Path) -> None:
    first, second = (_run(rmap, fmt, 11, tmp_path / str(number)) for number in range(2))
    assert first[0] == second[0]
    assert (first[1] == second[1]).all()
    assert first[2] == second[2]
    assert _run(rmap, fmt, 12, tmp_path / "other")[0] != first[0]


def _run(rmap: str, fmt: str, seed: int, directory: Path) -> tuple[dict[str, int], npt.NDArray[Any], bytes]:
    """Do a bit of everything with RAM too small; return counters, events and the file."""
    directory.mkdir()
    path = make_file(directory / "file", 128)
    rng = random.Random(seed)
    clock = VirtualClock()
    params = DirtyParams(background_ratio=20, dirty_ratio=40)
    machine = Machine(
        fmt, 64 * PAGE, rmap, clock=clock, seed=seed, io_depth=2, readahead=8, events=True, audit=True, params=params
    )
    process = machine.spawn()
    order = list(range(128))
    rng.shuffle(order)
    mapping = map_nonlinear(process, path, 128, order)
    store = kind_of(AccessKind.STORE, 8)
    for step in range(60):
        where = rng.sample(range(128), 20)
        process.run([mapping.vaddr + page * PAGE for page in where], store, step)
        if step % 20 == 7:
            child = process.fork()
            child.store(mapping.vaddr, b"child")
            child.exit()
        clock.advance(rng.random())
    mapping.flush()
    counters = machine.vmstat.snapshot()
    assert machine.events is not None
    events = machine.events.array()
    machine.shutdown()
    return counters, events, path.read_bytes()


def test_events_tell_what_happened(tmp_path: Path) -> None:
    lab = Lab(tmp_path, events=True, io_depth=2)
    lab.process.remap_file_pages(lab.at(0), 2 * PAGE, 0, 9)
    lab.process.store(lab.at(0), b"x")
    lab.process.msync(lab.at(0), PAGE)
    lab.machine.power_off()
    log = lab.machine.events
    assert log is not None
    kinds = log.array()["kind"].tolist()
    wanted = {
        EventKind.SWITCH, EventKind.REMAP, EventKind.FAULT, EventKind.DIRTIED, EventKind.MKCLEAN,
        EventKind.WRITEBACK_START, EventKind.WRITEBACK_END, EventKind.FSYNC, EventKind.POWER_OFF,
    }  # fmt: skip
    assert {int(kind) for kind in wanted} <= set(kinds)
    assert kinds[-1] == EventKind.POWER_OFF
    assert kinds.index(EventKind.DIRTIED) < kinds.index(EventKind.WRITEBACK_START) < kinds.index(EventKind.FSYNC)
    assert (np.diff(log.array()["time_s"]) >= 0).all()


def test_power_off_writes_nothing_and_shutdown_everything(tmp_path: Path) -> None:
    for orderly in (False, True):
        lab = Lab(tmp_path)
        mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
        lab.process.store(mapping.vaddr, stamp(15, 1))
        (lab.machine.shutdown if orderly else lab.machine.power_off)()
        assert on_disk(lab.path, 15) == stamp(15, int(orderly))
        lab.machine.shutdown()
        lab.machine.power_off()


@pytest.mark.parametrize("io_depth", [0, 2])
def test_power_off_with_writes_in_flight_under_real_threads(io_depth: int, tmp_path: Path) -> None:
    lab = Lab(tmp_path, clock=None, io_depth=io_depth, params=DirtyParams(background_bytes=PAGE, dirty_bytes=64 * PAGE))
    for page in range(NR_PAGES):
        lab.process.store(lab.at(page), stamp(page, 1))
    settle(lab.machine)
    lab.machine.power_off()
    assert all(on_disk(lab.path, page) in {stamp(page), stamp(page, 1)} for page in range(NR_PAGES))
    with fails_with(errno.ESRCH):
        lab.shown(0)


def test_unaccounted_dirty_pages_are_counted_where_there_are_any(tmp_path: Path) -> None:
    for rmap, most in (("none", NR_PAGES), ("scan", 0), ("dirty_index", 0)):
        lab = Lab(tmp_path, rmap=rmap, audit=True)
        mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
        for _ in range(2):
            for page in range(NR_PAGES):
                lab.process.store(mapping.vaddr + page * PAGE, b"x")
            lab.machine.sync()
        lab.machine.power_off()
        assert lab.machine.vmstat.unaccounted_dirty_max == most


def test_sync_reports_what_could_not_be_written_and_shutdown_still_ends(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.process.store(lab.at(0), b"x")
    with breaks.failing_writes(errno.EIO):
        with fails_with(errno.EIO):
            lab.machine.sync()
        with fails_with(errno.EIO):
            lab.machine.shutdown()
    assert not lab.machine.running


def test_leaving_the_block_shuts_down_and_an_error_cuts_the_power(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", 1)
    with Machine() as machine:
        machine.spawn().mmap(str(path), PAGE)[:8] = stamp(0, 1)
    assert on_disk(path, 0) == stamp(0, 1)
    with pytest.raises(ZeroDivisionError):
        _fail_in_a_block(path)
    assert on_disk(path, 0) == stamp(0, 1)


def _fail_in_a_block(path: Path) -> None:
    with Machine() as machine:
        machine.spawn().mmap(str(path), PAGE)[:8] = stamp(0, 2)
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Machine("vax"), "vax"),
        (lambda: Machine(rmap="magic"), "no reverse-map strategy 'magic'"),
        (lambda: Machine(ram="plenty"), "not a size"),
        (lambda: Machine(ram=PAGE), "too few"),
        (lambda: Machine(cpus=0), "at least one CPU"),
        (lambda: Machine(fault_path="scenic"), "scenic"),
        (lambda: Machine(guest_cache="perhaps"), "perhaps"),
    ],
)
def test_what_a_machine_refuses(make: Callable[[], Machine], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_unknown_caps_and_too_little_ram_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Machine(plain_caps="nonsense")
    with pytest.raises(ValueError, match=r"give at least 128\.0 KiB"):
        Machine(ram=8 * PAGE)


def test_a_quantum_ticks_the_clock_and_kernel_threads_get_their_turn(tmp_path: Path) -> None:
    lab = Lab(tmp_path, params=DirtyParams(periodic_s=0.005, expire_s=0.001))
    lab.process.store(lab.at(0), stamp(0, 1))
    start_s = lab.clock.now()
    lab.process.run(np.full(3 * QUANTUM, lab.at(1), np.uint64), kind_of(AccessKind.LOAD, 8))
    assert lab.clock.now() == pytest.approx(start_s + 3 * lab.clock.tick_s)
    assert on_disk(lab.path, 0) == stamp(0, 1)
    check(lab.machine)
    lab.machine.power_off()


def test_many_processes_come_and_go(tmp_path: Path) -> None:
    """Address-space numbers are used again, and no TLB remembers their last owner."""
    lab = Lab(tmp_path)
    for number in range(300):
        child = lab.process.fork()
        child.store(lab.at(0), number.to_bytes(8, "little"))
        private = child.mmap(-1, PAGE, 2)
        assert child.load(private.vaddr, 8) == bytes(8)
        child.store(private.vaddr, b"!" * 8)
        child.exit()
    assert lab.shown(0) == (299).to_bytes(8, "little")
    check(lab.machine)
    lab.machine.power_off()
