"""HostProcess: system calls on the kernel underneath, and accesses whose signals do not kill the test."""

import errno
import gc
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emu.errors import BusError, SegmentationFault
from emu.host import HostProcess
from emu.host_state import PM_PRESENT, cachestat
from emu.hw.mmu import AccessKind, kind_of

PAGE = mmap.PAGESIZE
BASE = 1 << 37
RW = mmap.PROT_READ | mmap.PROT_WRITE
MAP_FIXED = 0x10


@pytest.fixture
def host() -> Iterator[HostProcess]:
    with HostProcess() as process:
        yield process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([65 + page]) * PAGE for page in range(4)))
    return path


def test_a_file_is_mapped_stored_to_and_synced(host: HostProcess, path: Path) -> None:
    with host.mmap(path, 4 * PAGE) as mapping:
        assert mapping[PAGE : PAGE + 3] == b"BBB"
        mapping[PAGE] = 120
        mapping.flush()
        assert path.read_bytes()[PAGE : PAGE + 2] == b"xB"
        assert mapping.size() == 4 * PAGE
        mapping.remap_file_pages(0, PAGE, 3)
        assert mapping[0] == ord("D")
        assert mapping.find(b"xB") == PAGE
    assert not [vma for vma in host.vmas if vma.name == str(path)]


def test_signals_come_back_and_the_process_lives_on(host: HostProcess, path: Path) -> None:
    vaddr = host.sys_mmap(BASE, 6 * PAGE, RW, mmap.MAP_SHARED | MAP_FIXED, path, 0)
    assert vaddr == BASE
    with pytest.raises(BusError) as bus:
        host.load(BASE + 3 * PAGE, 2 * PAGE)
    assert bus.value.vaddr == BASE + 4 * PAGE
    with pytest.raises(BusError):
        host.store(BASE + 5 * PAGE, b"x")
    host.mprotect(BASE, PAGE, mmap.PROT_READ)
    with pytest.raises(SegmentationFault):
        host.store_byte(BASE, 1)
    with pytest.raises(SegmentationFault):
        host.load_byte(BASE - 1)
    assert host.load(BASE + PAGE - 1, 2) == b"AB"


def test_what_is_not_forked_fails_as_what_it_is(host: HostProcess, path: Path) -> None:
    """The throw-away fork that tells which signal it is does not have such memory."""
    host.sys_mmap(BASE, 5 * PAGE, RW, mmap.MAP_SHARED | MAP_FIXED, path, 0)
    host.madvise(BASE, 5 * PAGE, 10)
    with pytest.raises(BusError):
        host.load(BASE + 4 * PAGE, 1)
    with pytest.raises(BusError):
        host.store(BASE + 4 * PAGE, b"x")
    host.mprotect(BASE, 5 * PAGE, mmap.PROT_READ)
    with pytest.raises(SegmentationFault):
        host.store(BASE + 4 * PAGE, b"x")
    with pytest.raises(BusError):
        host.load(BASE + 4 * PAGE, 1)


def test_what_lies_on_pages_before_the_signal_is_stored(host: HostProcess) -> None:
    host.sys_mmap(BASE, PAGE, RW, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    with pytest.raises(SegmentationFault):
        host.store(BASE + PAGE - 2, b"abcd")
    assert host.load(BASE + PAGE - 2, 2) == b"ab"


def test_errors_of_the_kernel(host: HostProcess, path: Path) -> None:
    for call, number in (
        (lambda: host.munmap(BASE + 1, PAGE), errno.EINVAL),
        (lambda: host.mprotect(BASE, PAGE, mmap.PROT_READ), errno.ENOMEM),
        (lambda: host.remap_file_pages(BASE, PAGE, 0, 0), errno.EINVAL),
        (lambda: host.mremap(BASE, PAGE, PAGE), errno.EFAULT),
        (lambda: host.mincore(BASE, PAGE), errno.ENOMEM),
        (lambda: host.sys_mmap(0, PAGE, RW, mmap.MAP_SHARED, 12345, 0), errno.EBADF),
        (lambda: host.sys_mmap(0, PAGE, RW, mmap.MAP_SHARED, path, 1), errno.EINVAL),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            call()
        assert caught.value.errno == number


def test_a_batch_of_accesses(host: HostProcess) -> None:
    mapping = host.mmap(-1, 2 * PAGE)
    vaddrs = mapping.vaddr + np.array([0, PAGE - 4, 0, PAGE])
    kinds = [kind_of(AccessKind.STORE, 8)] * 2 + [kind_of(AccessKind.LOAD, 8), kind_of(AccessKind.LOAD, 4)]
    values = host.run(vaddrs, kinds, [7, 0x1122334455667788, 0, 0])
    assert values.tolist() == [7, 0x1122334455667788, 7, 0x11223344]
    with pytest.raises(SegmentationFault):
        host.run([16], kind_of(AccessKind.LOAD, 8))
    mapping.close()


def test_fork_copies_private_and_shares_shared_memory(host: HostProcess) -> None:
    shared, private = host.mmap(-1, PAGE), host.mmap(-1, PAGE, mmap.MAP_PRIVATE)
    child = host.fork()
    child.store(shared.vaddr, b"s")
    child.store(private.vaddr, b"p")
    assert (shared[0], private[0]) == (ord("s"), 0)
    assert child.load(private.vaddr, 1) == b"p"
    child.exit()
    with pytest.raises(OSError, match="exited") as caught:
        child.load(private.vaddr, 1)
    assert caught.value.errno == errno.ESRCH


@pytest.mark.timeout(30)
def test_the_death_of_a_process_is_told_while_its_child_lives(host: HostProcess) -> None:
    child = host.fork()
    with child.fork() as grandchild:
        mapping = grandchild.mmap(-1, PAGE)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="has died") as caught:
            child.load(mapping.vaddr, 1)
        assert caught.value.errno == errno.ESRCH
        assert grandchild.load(mapping.vaddr, 1) == b"\0"
    child.exit()


def test_the_state_that_the_kernel_tells(host: HostProcess, path: Path) -> None:
    mapping = host.mmap(-1, 4 * PAGE, mmap.MAP_PRIVATE)
    mapping[PAGE] = 1
    assert host.mincore(mapping.vaddr, 4 * PAGE) == b"\0\1\0\0"
    present = host.pagemap(mapping.vaddr, 4) & np.uint64(PM_PRESENT)
    assert present.astype(bool).tolist() == [False, True, False, False]
    assert host.look([mapping.vaddr + PAGE, 8 * PAGE]) == [b"\1" + bytes(PAGE - 1), None]
    assert host.smaps_rollup()["Rss"] > 0
    fd = os.open(path, os.O_RDWR)
    try:
        assert cachestat(fd)["nr_cache"] == 4
    finally:
        os.close(fd)


def test_the_end_of_the_child_is_told_and_leaves_no_process(path: Path) -> None:
    host = HostProcess()
    pid = host.pid
    mapping = host.mmap(path, PAGE)
    mapping.resize(2 * PAGE)
    assert path.stat().st_size == 2 * PAGE
    host.exit()
    host.exit()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(OSError, match="exited"):
        host.munmap(0, PAGE)
    host = HostProcess()
    pid = host.pid
    del host
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()
