"""Stacks (MAP_GROWSDOWN): how far they grow, what they promise, the gap below them; what else asks for one."""

import errno
import mmap
import resource
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import SegmentationFault
from emu.mm.mmap import MAP_FIXED, MAP_GROWSDOWN, MAP_NORESERVE
from emu.mm_types.vma import STACK_GUARD_GAP
from tests.emu.mm.helpers import PAGE, RO, RW, fails_with, make_file
from tests.emu.mm.test_limits import BASE, PRIVATE, SHARED, booted, committed


def test_a_stack_grows_to_where_it_is_touched() -> None:
    machine = booted()
    process = machine.spawn()
    process.sys_mmap(BASE, 2 * PAGE, RW, PRIVATE | MAP_FIXED | MAP_GROWSDOWN, -1, 0)
    process.store(BASE + PAGE, b"top")
    process.store(BASE - 10 * PAGE + 8, b"deep")
    assert [(vma.start, vma.end) for vma in process.vmas] == [(BASE - 10 * PAGE, BASE + 2 * PAGE)]
    assert committed(machine) == 12
    assert process.load(BASE - 10 * PAGE, 12) == bytes(8) + b"deep"
    process.setrlimit(resource.RLIMIT_STACK, 20 * PAGE)
    process.load(BASE - 18 * PAGE, 1)
    with pytest.raises(SegmentationFault):
        process.load(BASE - 19 * PAGE, 1)
    process.setrlimit(resource.RLIMIT_STACK, -1)
    process.setrlimit(resource.RLIMIT_AS, 20 * PAGE)
    with pytest.raises(SegmentationFault):
        process.load(BASE - 19 * PAGE, 1)
    process.setrlimit(resource.RLIMIT_AS, -1)
    child = process.fork()
    child.store(BASE - 30 * PAGE, b"child")
    process.sys_mmap(BASE - 300 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    with pytest.raises(SegmentationFault):
        process.load(BASE - (300 - STACK_GUARD_GAP) * PAGE, 1)
    process.load(BASE - (298 - STACK_GUARD_GAP) * PAGE, 1)
    check(machine)
    machine.shutdown()


@pytest.mark.parametrize(("prot", "flags"), [(RO, 0), (RW, MAP_NORESERVE)])
def test_a_stack_that_is_no_promise_grows_without_one(prot: int, flags: int) -> None:
    machine = booted()
    process = machine.spawn()
    process.sys_mmap(BASE, PAGE, prot, PRIVATE | MAP_FIXED | MAP_GROWSDOWN | flags, -1, 0)
    process.load(BASE - 3 * PAGE, 1)
    assert committed(machine) == 0
    process.munmap(BASE - 3 * PAGE, 4 * PAGE)
    assert committed(machine) == 0
    machine.shutdown()


def test_the_gap_below_a_stack_is_kept_free() -> None:
    machine = booted()
    process = machine.spawn()
    process.sys_mmap(BASE, PAGE, RW, PRIVATE | MAP_FIXED | MAP_GROWSDOWN, -1, 0)
    hint = BASE - STACK_GUARD_GAP * PAGE
    assert process.sys_mmap(hint, PAGE, RW, PRIVATE, -1, 0) != hint
    assert process.sys_mmap(hint - PAGE, PAGE, RW, PRIVATE, -1, 0) == hint - PAGE
    # Memory without access does as a guard, and may lie close.
    process.sys_mmap(BASE - 2 * PAGE, PAGE, 0, PRIVATE | MAP_FIXED, -1, 0)
    process.store(BASE - PAGE, b"x")
    with pytest.raises(SegmentationFault):
        process.load(BASE - 2 * PAGE, 1)
    check(machine)
    machine.shutdown()


def test_only_private_anonymous_memory_grows_down(tmp_path: Path) -> None:
    machine = booted()
    process = machine.spawn()
    path = make_file(tmp_path / "file", 2)
    for flags in (SHARED, mmap.MAP_PRIVATE, mmap.MAP_SHARED):
        with fails_with(errno.EINVAL):
            process.sys_mmap(0, PAGE, RO, flags | MAP_GROWSDOWN, path, 0)
    machine.shutdown()
