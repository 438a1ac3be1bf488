"""What a process may be promised and may lock: overcommit, resource limits, the heap."""

import errno
import mmap
import resource
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import SegmentationFault
from emu.machine import Machine
from emu.mm.mmap import MAP_FIXED, MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE
from emu.mm.overcommit import vm_commit_limit
from tests.emu.mm.helpers import PAGE, RO, RW, fails_with, make_file, virtual_machine

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
BASE = 1 << 37
RAM = 1024


def booted(**options: object) -> Machine:
    return virtual_machine(huge_pages=False, **options)[0]


def committed(machine: Machine) -> int:
    check(machine)
    return machine.kernel.vm_committed_as


def test_what_counts_as_promised(tmp_path: Path) -> None:
    machine = booted()
    process = machine.spawn()
    path = make_file(tmp_path / "file", 16)

    def maps(prot: int, flags: int) -> int:
        before = committed(machine)
        process.sys_mmap(0, 10 * PAGE, prot, flags, path, 0)
        return committed(machine) - before

    assert maps(RW, PRIVATE) == 10
    assert maps(RO, PRIVATE) == 0
    assert maps(RW, PRIVATE | MAP_NORESERVE) == 0
    assert maps(RW, SHARED) == 10
    assert maps(RO, SHARED) == 10
    assert maps(RW, SHARED | MAP_NORESERVE) == 0
    assert maps(RW, mmap.MAP_PRIVATE) == 10
    assert maps(RW, mmap.MAP_SHARED) == 0
    child = process.fork()
    assert committed(machine) == 40 + 20
    child.exit()
    assert committed(machine) == 40
    process.exit()
    assert committed(machine) == 0
    machine.shutdown()


def test_promises_follow_munmap_mprotect_mremap_and_what_is_mapped_over() -> None:
    machine = booted()
    process = machine.spawn()
    process.sys_mmap(BASE, 20 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    process.munmap(BASE + 5 * PAGE, 5 * PAGE)
    assert committed(machine) == 15
    process.sys_mmap(BASE, 20 * PAGE, RO, PRIVATE | MAP_FIXED, -1, 0)
    assert committed(machine) == 0
    process.mprotect(BASE, 10 * PAGE, RW)
    assert committed(machine) == 10
    # Never written: read-only again, it is promised no more.
    process.mprotect(BASE, 4 * PAGE, RO)
    assert committed(machine) == 6
    process.store(BASE + 4 * PAGE, b"x")
    process.mprotect(BASE + 4 * PAGE, 6 * PAGE, RO)
    assert committed(machine) == 6
    process.sys_mmap(BASE, 20 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    assert committed(machine) == 20
    process.mremap(BASE, 20 * PAGE, 30 * PAGE)
    assert committed(machine) == 30
    moved = process.mremap(BASE, 30 * PAGE, 40 * PAGE, 3, BASE + (1 << 24))
    assert committed(machine) == 40
    process.mremap(moved, 40 * PAGE, 8 * PAGE)
    assert committed(machine) == 8
    machine.shutdown()


def test_mode_0_refuses_what_could_never_fit() -> None:
    machine = booted(swap=101 * PAGE)
    process = machine.spawn()
    process.sys_mmap(0, (RAM + 100) * PAGE, RW, PRIVATE, -1, 0)
    process.sys_mmap(0, (RAM + 100) * PAGE, RW, PRIVATE, -1, 0)
    for flags in (PRIVATE, SHARED):
        with fails_with(errno.ENOMEM):
            process.sys_mmap(0, (RAM + 101) * PAGE, RW, flags, -1, 0)
    process.sys_mmap(0, (RAM + 101) * PAGE, RW, PRIVATE | MAP_NORESERVE, -1, 0)
    where = process.sys_mmap(0, (RAM + 101) * PAGE, RO, PRIVATE, -1, 0)
    with fails_with(errno.ENOMEM):
        process.mprotect(where, (RAM + 101) * PAGE, RW)
    check(machine)
    machine.shutdown()


def test_there_are_three_modes() -> None:
    with pytest.raises(ValueError, match="overcommit_memory is 0, 1 or 2"):
        Machine(overcommit_memory=3)


def test_mode_1_refuses_nothing() -> None:
    machine = booted(overcommit_memory=1)
    process = machine.spawn()
    process.sys_mmap(0, 1 << 40, RW, PRIVATE, -1, 0)
    assert committed(machine) == 1 << 28
    machine.shutdown()


@pytest.mark.parametrize("privileged", [True, False])
def test_mode_2_keeps_the_sum_under_the_limit(*, privileged: bool) -> None:
    machine = booted(overcommit_memory=2, overcommit_ratio=50, swap=101 * PAGE)
    process = machine.spawn(privileged=privileged)
    assert vm_commit_limit(machine.kernel) == RAM // 2 + 100
    # An unprivileged process leaves a 32nd of RAM for the administrator, any process a 32nd of itself.
    limit = RAM // 2 + 100 - (0 if privileged else RAM // 32)
    nr_pages = 0
    with fails_with(errno.ENOMEM):
        for _ in range(RAM):
            process.sys_mmap(0, 4 * PAGE, RW, PRIVATE | MAP_NORESERVE, -1, 0)
            nr_pages += 4
    assert limit - 4 - nr_pages // 32 - 1 <= nr_pages <= limit - nr_pages // 32
    assert committed(machine) == nr_pages
    with fails_with(errno.ENOMEM):
        process.fork()
    assert committed(machine) == nr_pages
    process.munmap(process.vmas[0].start, 8 * PAGE)
    process.sys_mmap(0, 4 * PAGE, RW, PRIVATE, -1, 0)
    check(machine)
    machine.shutdown()


def test_swap_that_promises_rest_on_stays_in_use() -> None:
    machine = booted(overcommit_memory=2, overcommit_ratio=50, swap=101 * PAGE)
    process = machine.spawn()
    where = process.sys_mmap(0, RAM // 2 * PAGE, RW, PRIVATE, -1, 0)
    process.store(where, b"kept")
    with fails_with(errno.ENOMEM):
        machine.swapoff(0)
    assert committed(machine) == RAM // 2
    process.munmap(where + PAGE, PAGE)
    machine.swapoff(0)
    assert committed(machine) == RAM // 2 - 1
    assert process.load(where, 4) == b"kept"
    machine.shutdown()


def test_the_address_space_is_limited() -> None:
    machine = booted()
    process = machine.spawn(privileged=False)
    process.setrlimit(resource.RLIMIT_AS, 20 * PAGE, 30 * PAGE)
    assert process.getrlimit(resource.RLIMIT_AS) == (20 * PAGE, 30 * PAGE)
    process.sys_mmap(BASE, 20 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    with fails_with(errno.ENOMEM):
        process.sys_mmap(0, PAGE, RW, PRIVATE, -1, 0)
    # Mapped over, it needs no more room.
    process.sys_mmap(BASE + 4 * PAGE, 8 * PAGE, RO, SHARED | MAP_FIXED, -1, 0)
    with fails_with(errno.ENOMEM):
        process.mremap(BASE + 4 * PAGE, 8 * PAGE, 9 * PAGE)
    with fails_with(errno.ENOMEM):
        # What would be unmapped at the new place does not count (Linux v6.17 check_prep_vma()).
        process.mremap(BASE + 4 * PAGE, 2 * PAGE, 3 * PAGE, 3, BASE + 12 * PAGE)
    assert process.brk(process.brk() + PAGE) == process.brk()
    child = process.fork()
    with fails_with(errno.ENOMEM):
        child.sys_mmap(0, PAGE, RW, PRIVATE, -1, 0)
    process.setrlimit(resource.RLIMIT_AS, 30 * PAGE, 30 * PAGE)
    process.sys_mmap(0, 10 * PAGE, RW, PRIVATE, -1, 0)
    with fails_with(errno.EPERM):
        process.setrlimit(resource.RLIMIT_AS, 30 * PAGE, 31 * PAGE)
    with fails_with(errno.EINVAL):
        process.setrlimit(resource.RLIMIT_AS, 30 * PAGE, 29 * PAGE)
    with fails_with(errno.EINVAL):
        process.setrlimit(resource.RLIMIT_CPU, 1, 1)
    check(machine)
    machine.shutdown()


def test_data_is_limited() -> None:
    machine = booted()
    process = machine.spawn()
    process.setrlimit(resource.RLIMIT_DATA, 10 * PAGE)
    process.sys_mmap(BASE, 10 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    process.sys_mmap(BASE + 10 * PAGE, 10 * PAGE, RO, PRIVATE | MAP_FIXED, -1, 0)
    process.sys_mmap(BASE + 20 * PAGE, 10 * PAGE, RW, SHARED | MAP_FIXED, -1, 0)
    with fails_with(errno.ENOMEM):
        process.sys_mmap(0, PAGE, RW, PRIVATE, -1, 0)
    with fails_with(errno.ENOMEM):
        process.mprotect(BASE + 10 * PAGE, PAGE, RW)
    # A stack is no data: neither is it refused, nor does it take room from data.
    process.sys_mmap(BASE + 1000 * PAGE, 10 * PAGE, RW, PRIVATE | MAP_FIXED | MAP_GROWSDOWN, -1, 0)
    process.store(BASE + 995 * PAGE, b"x")
    process.munmap(BASE, PAGE)
    process.sys_mmap(BASE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    check(machine)
    machine.shutdown()


def test_locked_memory_is_limited_unless_privileged() -> None:
    machine = booted()
    process = machine.spawn(privileged=False)
    process.setrlimit(resource.RLIMIT_MEMLOCK, 10 * PAGE, 10 * PAGE)
    process.sys_mmap(BASE, 20 * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    with fails_with(errno.ENOMEM):
        process.mlock(BASE, 11 * PAGE)
    process.mlock(BASE, 10 * PAGE)
    # What is locked there already counts once.
    process.mlock(BASE + 5 * PAGE, 5 * PAGE)
    with fails_with(errno.ENOMEM):
        process.mlock(BASE + 5 * PAGE, 6 * PAGE)
    with fails_with(errno.EAGAIN):
        process.sys_mmap(0, PAGE, RW, PRIVATE | MAP_LOCKED, -1, 0)
    with fails_with(errno.EAGAIN):
        process.mremap(BASE, 10 * PAGE, 11 * PAGE, 1)
    with fails_with(errno.ENOMEM):
        process.mlockall(1)
    process.munlockall()
    process.mlockall(2)
    with fails_with(errno.EAGAIN):
        process.sys_mmap(0, 11 * PAGE, RW, PRIVATE, -1, 0)
    assert process.brk(process.brk() + 11 * PAGE) == process.brk()
    process.sys_mmap(0, 10 * PAGE, RW, PRIVATE, -1, 0)
    assert process.mm.locked_vm == 10
    process.setrlimit(resource.RLIMIT_MEMLOCK, 0, 0)
    with fails_with(errno.EPERM):
        process.mlock(BASE, PAGE)
    with fails_with(errno.EPERM):
        process.mlockall(1)
    with fails_with(errno.EPERM):
        process.sys_mmap(0, PAGE, RW, PRIVATE | MAP_LOCKED, -1, 0)
    process.munlock(BASE, PAGE)
    other = machine.spawn()
    other.setrlimit(resource.RLIMIT_MEMLOCK, 0, 0)
    other.sys_mmap(0, 10 * PAGE, RW, PRIVATE | MAP_LOCKED, -1, 0)
    other.mlockall(1)
    check(machine)
    machine.shutdown()


def test_the_heap_grows_and_shrinks() -> None:
    machine = booted()
    process = machine.spawn()
    start = process.brk()
    assert process.brk(start + 100) == start + 100
    process.store(start, b"x" * PAGE)
    assert process.brk(start + 3 * PAGE + 1) == start + 3 * PAGE + 1
    process.store(start + 4 * PAGE - 1, b"y")
    assert len(process.vmas) == 1
    assert committed(machine) == 4
    assert process.brk(start + PAGE) == start + PAGE
    with pytest.raises(SegmentationFault):
        process.load(start + PAGE, 1)
    assert process.brk(start + 4 * PAGE) == start + 4 * PAGE
    assert process.load(start + PAGE, 3 * PAGE) == bytes(3 * PAGE)
    assert process.brk(start - 1) == start + 4 * PAGE
    # Something lies in the way; a page is kept free before it.
    process.sys_mmap(start + 8 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0)
    assert process.brk(start + 8 * PAGE) == start + 4 * PAGE
    assert process.brk(start + 7 * PAGE) == start + 7 * PAGE
    process.setrlimit(resource.RLIMIT_DATA, 7 * PAGE)
    assert process.brk(start + 7 * PAGE + 1) == start + 7 * PAGE
    child = process.fork()
    assert child.brk(start) == start
    assert process.load(start, 1) == b"x"
    assert process.brk() == start + 7 * PAGE
    check(machine)
    machine.shutdown()


def test_more_address_spaces_than_the_hardware_tells_apart_leak_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.mm.fork._NR_ASIDS", 4)
    machine = booted()
    processes = [machine.spawn() for _ in range(4)]
    free = machine.kernel.ram.nr_free
    with pytest.raises(MemoryError, match="more than 4 address spaces"):
        machine.spawn()
    with fails_with(errno.ENOMEM):
        processes[0].fork()
    assert machine.kernel.ram.nr_free == free
    check(machine)
    machine.shutdown()
