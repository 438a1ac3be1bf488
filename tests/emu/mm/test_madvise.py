"""madvise beyond the classic advices: fork behaviour, populate, locked memory; each as the kernel underneath."""

import errno
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.machine import Machine
from emu.process import Process

PAGE = 4096
BASE = 1 << 37
RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
SHARED = mmap.MAP_SHARED | 0x10
DONTFORK, DOFORK, NOHUGEPAGE, WIPEONFORK, KEEPONFORK = 10, 11, 15, 18, 19
COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED = 20, 21, 22, 23, 24


@pytest.fixture
def process() -> Iterator[Process]:
    with Machine(ram=1024 * PAGE) as machine:
        process = machine.spawn()
        process.sys_mmap(BASE, 4 * PAGE, RW, ANON, -1, 0)
        yield process


def errno_of(call: Callable[[], object]) -> str:
    with pytest.raises(OSError, match=r".") as caught:
        call()
    return errno.errorcode[caught.value.errno or 0]


def test_what_is_not_to_be_forked_is_not_there_in_the_child(process: Process) -> None:
    process.store(BASE, b"x" * (4 * PAGE))
    process.madvise(BASE, PAGE, DONTFORK)
    process.madvise(BASE + PAGE, PAGE, WIPEONFORK)
    assert len(process.vmas) == 3
    child = process.fork()
    assert [vma.start for vma in child.vmas] == [BASE + PAGE, BASE + 2 * PAGE]
    assert child.load(BASE + PAGE, 2 * PAGE) == bytes(PAGE) + b"x" * PAGE
    assert process.load(BASE, 2) == b"xx"
    process.madvise(BASE, PAGE, DOFORK)
    process.madvise(BASE + PAGE, PAGE, KEEPONFORK)
    assert len(process.vmas) == 1


def test_wipeonfork_takes_private_anonymous_memory_only(process: Process, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    process.sys_mmap(BASE + 8 * PAGE, PAGE, RW, SHARED, path, 0)
    process.sys_mmap(BASE + 9 * PAGE, PAGE, RW, SHARED | mmap.MAP_ANONYMOUS, -1, 0)
    for page in (8, 9):
        assert errno_of(lambda page=page: process.madvise(BASE + page * PAGE, PAGE, WIPEONFORK)) == "EINVAL"  # type: ignore[misc]


def test_populate_brings_pages_in_up_to_the_first_that_fails(process: Process, tmp_path: Path) -> None:
    process.madvise(BASE, 2 * PAGE, POPULATE_WRITE)
    assert process.mincore(BASE, 4 * PAGE) == b"\1\1\0\0"
    assert errno_of(lambda: process.madvise(BASE + 2 * PAGE, 4 * PAGE, POPULATE_READ)) == "ENOMEM"
    assert process.mincore(BASE, 4 * PAGE) == b"\1\1\1\1"
    process.mprotect(BASE, PAGE, mmap.PROT_READ)
    assert errno_of(lambda: process.madvise(BASE, PAGE, POPULATE_WRITE)) == "EINVAL"
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    process.sys_mmap(BASE + 8 * PAGE, 2 * PAGE, RW, SHARED, path, 0)
    assert errno_of(lambda: process.madvise(BASE + 8 * PAGE, 2 * PAGE, POPULATE_READ)) == "EFAULT"


def test_locked_memory(process: Process) -> None:
    process.store(BASE, b"x")
    process.mlock(BASE, 4 * PAGE)
    for advice in (mmap.MADV_DONTNEED, COLD, PAGEOUT):
        assert errno_of(lambda advice=advice: process.madvise(BASE, PAGE, advice)) == "EINVAL"  # type: ignore[misc]
    process.madvise(BASE, PAGE, DONTNEED_LOCKED)
    assert process.load(BASE, 1) == b"\0"


def test_nohugepage_keeps_large_pages_away() -> None:
    for advice, faults in ((None, 0), (NOHUGEPAGE, 1)):
        with Machine(ram="64M") as machine:
            process = machine.spawn()
            where = process.sys_mmap(1 << 30, 4 << 20, RW, ANON, -1, 0)
            if advice is not None:
                process.madvise(where, 4 << 20, advice)
            process.store(where, b"x")
            assert (machine.vmstat.thp_fault_alloc == 0) == bool(faults)
