"""Each entry of the table of differences: the two do differ, and so."""

import errno
import mmap
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.errors import SegmentationFault
from emu.host import HostProcess
from emu.machine import Machine
from emu.process import Process
from fsbackend.mount import temporary_mount
from tests.stateful.differences import DIFFERENCES, merge_private, merge_where_emulated_did, within_file

PAGE = 4096
BASE = 1 << 37
RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
SHARED = mmap.MAP_SHARED | 0x10
PRIVATE = mmap.MAP_PRIVATE | 0x10


@pytest.fixture
def host() -> Iterator[HostProcess]:
    with HostProcess() as process:
        yield process


@pytest.fixture
def emulated() -> Iterator[Process]:
    with Machine(ram=256 * PAGE, rmap="linear_vmas") as machine:
        yield machine.spawn()


def nr_vmas(process: Process | HostProcess) -> int:
    return len([vma for vma in process.vmas if BASE <= vma.start < BASE + 64 * PAGE])


def borders(process: Process | HostProcess) -> list[tuple[int, int]]:
    """Return the first page and the end of each mapping, counted from BASE."""
    vmas = [vma for vma in process.vmas if BASE <= vma.start < BASE + 64 * PAGE]
    return [((vma.start - BASE) // PAGE, (vma.end - BASE) // PAGE) for vma in vmas]


def test_every_entry_has_its_test() -> None:
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(DIFFERENCES) <= tests


def test_written_mappings_stay_apart_as_on_the_host(host: HostProcess, emulated: Process) -> None:
    for process in (host, emulated):
        for page in (0, 8):
            process.sys_mmap(BASE + page * PAGE, PAGE, RW, ANON, -1, 0)
            process.store(BASE + page * PAGE, b"x")
        # Never written: it merges at its new place.
        process.sys_mmap(BASE + 16 * PAGE, PAGE, RW, ANON, -1, 0)
        process.mremap(BASE + 16 * PAGE, PAGE, PAGE, 3, BASE + PAGE)
        assert nr_vmas(process) == 2
        process.mremap(BASE + 8 * PAGE, PAGE, PAGE, 3, BASE + 2 * PAGE)
        assert nr_vmas(process) == 2


def test_fork_leaves_memory_that_was_only_read_to_faults(host: HostProcess, emulated: Process) -> None:
    for process in (host, emulated):
        process.sys_mmap(BASE, 2 * PAGE, RW, ANON, -1, 0)
        process.load(BASE, 1)
        child = process.fork()
        assert child.mincore(BASE, 2 * PAGE) == b"\0\0"
        child.exit()
        process.store(BASE + PAGE, b"x")
        child = process.fork()
        assert child.mincore(BASE, 2 * PAGE) == b"\1\1"
        child.exit()


def test_madvise_later(host: HostProcess, emulated: Process) -> None:
    for process in (host, emulated):
        process.sys_mmap(BASE, PAGE, RW, ANON, -1, 0)
    for advice in (25, 102, 103):
        with pytest.raises(OSError, match="not among") as caught:
            emulated.madvise(BASE, PAGE, advice)
        assert caught.value.errno == errno.EINVAL
    if release() < (6, 13):
        pytest.skip("this kernel is older than Linux 6.13")
    host.madvise(BASE, PAGE, 102)
    with pytest.raises(SegmentationFault):
        host.load(BASE, 1)
    host.madvise(BASE, PAGE, 103)


def release() -> tuple[int, ...]:
    """Return the host's kernel's number: (6, 18)."""
    return tuple(int(part) for part in platform.release().split(".")[:2])


def test_devices(host: HostProcess, emulated: Process) -> None:
    with Path("/dev/zero").open("r+b", buffering=0) as zero:
        with pytest.raises(OSError, match="only regular") as caught:
            emulated.sys_mmap(BASE, PAGE, RW, PRIVATE, zero.fileno(), 0)
        assert caught.value.errno == errno.ENODEV
        host.sys_mmap(BASE, PAGE, RW, PRIVATE, zero.fileno(), 0)
        assert host.load(BASE, 4) == bytes(4)


def test_hugetlb(host: HostProcess, emulated: Process) -> None:
    """Of private memory; at a place that suits huge pages, so that the host has nothing else to refuse."""
    with pytest.raises(OSError, match="huge pages") as caught:
        emulated.sys_mmap(BASE, PAGE, RW, ANON | 0x40000, -1, 0)
    assert caught.value.errno == errno.EINVAL
    if not Path("/sys/kernel/mm/hugepages").is_dir():
        pytest.skip("this kernel has no hugetlbfs")
    try:
        host.sys_mmap(BASE, PAGE, RW, ANON | 0x40000, -1, 0)
    except OSError as error:
        told = error.errno
    else:
        told = 0
    assert told in {0, errno.ENOMEM}


def test_mmap_later(host: HostProcess, emulated: Process) -> None:
    droppable = 0x8 | mmap.MAP_ANONYMOUS | 0x10
    with pytest.raises(OSError, match="MAP_SHARED and MAP_PRIVATE") as caught:
        emulated.sys_mmap(BASE, PAGE, RW, droppable, -1, 0)
    assert caught.value.errno == errno.EINVAL
    if release() < (6, 11):
        pytest.skip("this kernel is older than Linux 6.11")
    host.sys_mmap(BASE, PAGE, RW, droppable, -1, 0)


def test_mremap_many(host: HostProcess, emulated: Process) -> None:
    for process in (host, emulated):
        process.sys_mmap(BASE, 2 * PAGE, RW, ANON, -1, 0)
        process.mprotect(BASE, PAGE, mmap.PROT_READ)
    with pytest.raises(OSError, match="not one mapping"):
        emulated.mremap(BASE, 2 * PAGE, 2 * PAGE, 3, BASE + 8 * PAGE)
    if release() < (6, 17):
        pytest.skip("this kernel is older than Linux 6.17")
    assert host.mremap(BASE, 2 * PAGE, 2 * PAGE, 3, BASE + 8 * PAGE) == BASE + 8 * PAGE


def test_tail(host: HostProcess, emulated: Process, tmp_path: Path) -> None:
    for process in (host, emulated):
        path = tmp_path / str(id(process))
        path.write_bytes(b"A" * 100)
        process.sys_mmap(BASE, PAGE, RW, SHARED, path, 0)
        process.store(BASE, b"B" * 200)
        process.msync(BASE, PAGE, 4)
        assert path.read_bytes() == b"B" * 100
        assert process.load(BASE, 100) == b"B" * 100
    assert emulated.load(BASE + 100, 100) == b"B" * 100
    assert host.load(BASE + 100, 100) in {bytes(100), b"B" * 100}


def test_vm_file(host: HostProcess, emulated: Process, tmp_path: Path) -> None:
    """Two descriptors of one sort: the emulated kernel takes them for one struct file."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PAGE))
    with path.open("rb") as one, path.open("rb") as other:
        for process, merged in ((host, 2), (emulated, 1)):
            process.sys_mmap(BASE, PAGE, 0, PRIVATE, one.fileno(), 0)
            process.sys_mmap(BASE + PAGE, PAGE, 0, PRIVATE, other.fileno(), PAGE)
            assert nr_vmas(process) == merged


def test_private_mappings_by_readers_and_writers_stay_apart(
    host: HostProcess, emulated: Process, tmp_path: Path
) -> None:
    """However they came to be neighbours: mapped, grown, moved, cut, after a fork."""
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * PAGE))
    with path.open("rb") as reader, path.open("r+b") as writer:
        for process in (host, emulated):
            process.sys_mmap(BASE, PAGE, 0, PRIVATE, reader.fileno(), 0)
            process.sys_mmap(BASE + PAGE, 2 * PAGE, 0, PRIVATE, writer.fileno(), PAGE)
            assert borders(process) == [(0, 1), (1, 3)]
            # The upper part of a cut, moved away and back beside the writer's lower part.
            process.mremap(BASE + 2 * PAGE, PAGE, PAGE, 3, BASE + 8 * PAGE)
            process.mremap(BASE + 8 * PAGE, PAGE, PAGE, 3, BASE + 2 * PAGE)
            assert borders(process) == [(0, 1), (1, 3)]
            # What grows continues the writer's, not the reader's after it.
            process.sys_mmap(BASE + 4 * PAGE, PAGE, 0, PRIVATE, reader.fileno(), 4 * PAGE)
            process.mremap(BASE + PAGE, 2 * PAGE, 3 * PAGE, 0)
            assert borders(process) == [(0, 1), (1, 4), (4, 5)]
            child = process.fork()
            child.sys_mmap(BASE + 5 * PAGE, PAGE, 0, PRIVATE, reader.fileno(), 5 * PAGE)
            child.sys_mmap(BASE + 3 * PAGE, PAGE, 0, PRIVATE, writer.fileno(), 3 * PAGE)
            assert borders(child) == [(0, 1), (1, 4), (4, 6)]
            child.exit()


@pytest.mark.fuse
def test_vm_close(host: HostProcess, emulated: Process) -> None:
    with temporary_mount(caps="disk") as mount:
        path = Path(mount.path) / "file"
        path.write_bytes(bytes(2 * PAGE))
        for process in (host, emulated):
            process.sys_mmap(BASE, 2 * PAGE, RW, SHARED, path, 0)
            process.mlock(BASE, PAGE)
            process.munlock(BASE, PAGE)
        assert (nr_vmas(host), nr_vmas(emulated)) == (2, 1)
        emulated.munmap(BASE, 2 * PAGE)
        host.munmap(BASE, 2 * PAGE)


@pytest.mark.fuse
def test_vm_close_and_what_comes_of_it_later(host: HostProcess, emulated: Process, tmp_path: Path) -> None:
    """What did not merge, since a mapping would have gone, has no anon_vma of its neighbour: it may merge some day."""

    def later(process: Process | HostProcess, directory: Path) -> list[tuple[int, int]]:
        path = directory / "file"
        path.write_bytes(bytes(7 * PAGE))
        with path.open("r+b") as file:
            fd = file.fileno()
            process.sys_mmap(BASE, 3 * PAGE, RW, PRIVATE, fd, 0)
            process.madvise(BASE, 3 * PAGE, mmap.MADV_RANDOM)
            process.store(BASE + PAGE, b"one anon_vma")
            process.sys_mmap(BASE + 3 * PAGE, 4 * PAGE, RW, PRIVATE, fd, 3 * PAGE)
            process.madvise(BASE + PAGE, 6 * PAGE, mmap.MADV_SEQUENTIAL)
            process.sys_mmap(BASE, 3 * PAGE, RW, PRIVATE, fd, 0)
            process.store(BASE + PAGE, b"another")
            process.madvise(BASE + 2 * PAGE, PAGE, mmap.MADV_SEQUENTIAL)
        found = borders(process)
        process.munmap(BASE, 7 * PAGE)
        return found

    apart = [(0, 2), (2, 3), (3, 7)]
    assert later(host, tmp_path) == later(emulated, tmp_path) == apart
    with temporary_mount(caps="disk") as mount:
        assert later(emulated, Path(mount.path)) == apart
        assert later(host, Path(mount.path)) == [(0, 2), (2, 7)]


def test_the_excuses_excuse_no_more() -> None:
    low, high = (0, PAGE, 3, True, 0, "0"), (PAGE, 2 * PAGE, 3, True, 1, "0")
    both = (0, 2 * PAGE, 3, True, 0, "0")
    assert merge_where_emulated_did([low, high], [both]) == [low, high]
    assert merge_where_emulated_did([low, high], [both], closes=True) == [both]
    assert merge_where_emulated_did([low, high], [low, high], closes=True) == [low, high]
    assert merge_where_emulated_did([both], [low, high], closes=True) == [both]
    anonymous = [(0, PAGE, 3, False, 0, ""), (PAGE, 2 * PAGE, 3, False, 0, "")]
    assert merge_where_emulated_did(anonymous, [(0, 2 * PAGE, 3, False, 0, "")], closes=True) == anonymous
    apart = [low, (PAGE, 2 * PAGE, 1, True, 1, "0")]
    assert merge_where_emulated_did(apart, [both], closes=True) == apart
    private = [(0, PAGE, 3, False, 0, "0"), (PAGE, 2 * PAGE, 3, False, 1, "0")]
    assert merge_private(private) == [(0, 2 * PAGE, 3, False, 0, "0")]
    for different in ([low, high], anonymous, [private[0], (PAGE, 2 * PAGE, 3, False, 2, "0")], [private[0], apart[1]]):
        assert merge_private(different) == different
    page = bytes(100) + b"x" * 3996
    assert within_file(page, 2, 2 * PAGE + 100) == bytes(100)
    assert within_file(page, 1, 2 * PAGE + 100) == page
