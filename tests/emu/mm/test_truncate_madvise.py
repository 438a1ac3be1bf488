"""ftruncate, madvise, tail pages: what goes, what stays, what SIGBUS says."""

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import BusError
from emu.mm import truncate
from emu.mm.madvise import MADV_REMOVE
from tests.emu.mm.helpers import NR_PAGES, PAGE, Lab, fails_with, map_nonlinear, on_disk, page_bytes, stamp


@pytest.fixture(params=["x86_64", "i386"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, request.param)
    yield made
    check(made.machine)
    made.machine.power_off()


def test_beyond_the_end_of_the_file(lab: Lab) -> None:
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    lab.process.ftruncate(lab.mapping, 5 * PAGE)
    for vaddr in (lab.at(5), mapping.vaddr + 10 * PAGE):
        with pytest.raises(BusError, match="beyond the end"):
            lab.process.load(vaddr, 1)
        with pytest.raises(BusError):
            lab.process.store(vaddr, b"x")
    assert lab.shown(4) == stamp(4)
    assert lab.process.load(mapping.vaddr + 11 * PAGE, 8) == stamp(4)


def test_shrink_takes_pages_out_of_every_mapping_dirty_or_not(lab: Lab) -> None:
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    child = lab.process.fork()
    for page in range(NR_PAGES):
        lab.process.store(lab.at(page), b"dirty")
        child.load(mapping.vaddr + page * PAGE, 1)
    lab.process.ftruncate(lab.mapping, 3 * PAGE)
    assert lab.machine.vmstat.nr_file_pages == 3
    assert lab.machine.vmstat.nr_dirty == 3
    for process in (lab.process, child):
        with pytest.raises(BusError):
            process.load(mapping.vaddr, 1)
    check(lab.machine)
    lab.machine.sync()
    assert lab.path.stat().st_size == 3 * PAGE


def test_a_private_copy_beyond_the_new_end_goes_too(lab: Lab) -> None:
    private = lab.process.mmap(str(lab.path), NR_PAGES * PAGE, mmap.MAP_PRIVATE)
    for page in (1, 9):
        lab.process.store(private.vaddr + page * PAGE, b"mine")
    lab.process.ftruncate(lab.mapping, 4 * PAGE)
    assert lab.process.load(private.vaddr + PAGE, 4) == b"mine"
    with pytest.raises(BusError):
        lab.process.load(private.vaddr + 9 * PAGE, 4)
    assert lab.machine.vmstat.nr_anon_pages == 1


def test_down_and_up_in_the_middle_of_a_page_reads_zeroes(lab: Lab) -> None:
    nbytes = 3 * PAGE + 1001
    lab.process.store(lab.at(3) + 1000, b"ab")
    lab.process.ftruncate(lab.mapping, nbytes)
    lab.process.ftruncate(lab.mapping, NR_PAGES * PAGE)
    assert lab.process.load(lab.at(3) + 1000, 2) == b"a\0"
    assert lab.process.load(lab.at(4), PAGE) == bytes(PAGE)
    lab.process.msync(lab.at(0), NR_PAGES * PAGE)
    lab.machine.power_off()
    found = lab.path.read_bytes()
    assert found[3 * PAGE :] == page_bytes(3)[:1000] + b"a" + bytes(NR_PAGES * PAGE - nbytes)


@pytest.mark.parametrize("tail", [1, 511, 512, 1000, 4095])
@pytest.mark.parametrize("guest_cache", ["none", "writeback"])
def test_write_out_never_passes_the_end_of_the_file(tail: int, guest_cache: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path, guest_cache=guest_cache)
    nbytes = 2 * PAGE + tail
    lab.process.ftruncate(lab.mapping, nbytes)
    lab.process.store(lab.at(1), b"n" * (2 * PAGE))
    assert lab.process.load(lab.at(2), 1) == b"n"
    lab.process.msync(lab.at(0), 3 * PAGE)
    assert lab.path.read_bytes() == page_bytes(0) + b"n" * (PAGE + tail)
    lab.machine.sync()
    check(lab.machine)
    lab.machine.power_off()
    assert lab.path.stat().st_size == nbytes


def test_truncate_of_pages_under_writeback(tmp_path: Path) -> None:
    """What the disk was told before the truncate must not make the file grow again."""
    lab = Lab(tmp_path, io_depth=2)
    lab.process.store(lab.at(0), b"w" * (NR_PAGES * PAGE))
    k = lab.machine.kernel
    lab.clock.advance(40.0)
    lab.process.load(lab.at(0), 1)
    lab.process.madvise(lab.at(0), PAGE, mmap.MADV_NORMAL)
    assert lab.machine.vmstat.nr_writeback > 0
    check(lab.machine)
    lab.process.ftruncate(lab.mapping, 2 * PAGE + 5)
    check(lab.machine)
    k.io.wait_all()
    check(lab.machine)
    lab.machine.sync()
    assert lab.path.read_bytes() == b"w" * (2 * PAGE + 5)
    lab.machine.power_off()


def test_errors_of_ftruncate(lab: Lab) -> None:
    with fails_with(errno.EINVAL):
        lab.process.ftruncate(lab.mapping, -1)
    with fails_with(errno.EINVAL):
        lab.process.ftruncate(lab.process.mmap(-1, PAGE, mmap.MAP_PRIVATE), 0)
    read_only = lab.path.with_name("read-only")
    read_only.write_bytes(bytes(PAGE))
    with read_only.open("rb") as file, fails_with(errno.EINVAL):
        lab.process.ftruncate(file.fileno(), 0)
    with fails_with(errno.EBADF):
        lab.process.ftruncate(1 << 20, 0)


def test_dontneed_of_a_shared_mapping_drops_ptes_not_bytes(lab: Lab) -> None:
    lab.process.store(lab.at(2), b"still here")
    lab.process.madvise(lab.at(0), NR_PAGES * PAGE, mmap.MADV_DONTNEED)
    assert not lab.pte(2)
    assert lab.machine.vmstat.nr_mapped == 0
    assert lab.machine.vmstat.nr_dirty == 1
    assert lab.process.load(lab.at(2), 10) == b"still here"


def test_dontneed_of_private_memory_drops_bytes(lab: Lab) -> None:
    private = lab.process.mmap(str(lab.path), PAGE, mmap.MAP_PRIVATE)
    anonymous = lab.process.mmap(-1, PAGE, mmap.MAP_PRIVATE)
    for mapping in (private, anonymous):
        lab.process.store(mapping.vaddr, b"mine")
        lab.process.madvise(mapping.vaddr, PAGE, mmap.MADV_DONTNEED)
    assert lab.process.load(private.vaddr, 8) == stamp(0)
    assert lab.process.load(anonymous.vaddr, 4) == bytes(4)


def test_dontneed_of_a_nonlinear_mapping_keeps_its_order(lab: Lab) -> None:
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    lab.process.store(mapping.vaddr, stamp(15, 1))
    lab.process.remap_file_pages(mapping.vaddr + PAGE, PAGE, 0, 1)
    lab.process.madvise(mapping.vaddr, NR_PAGES * PAGE, mmap.MADV_DONTNEED)
    fmt, pt = lab.machine.format, lab.process.mm.pt
    assert pt.get(mapping.vaddr) == fmt.pgoff_to_pte(15)
    assert pt.get(mapping.vaddr + PAGE) in {0, fmt.pgoff_to_pte(1)}
    assert lab.process.load(mapping.vaddr, 8) == stamp(15, 1)
    lab.machine.sync()
    assert on_disk(lab.path, 15) == stamp(15, 1)


def test_errors_of_madvise(lab: Lab) -> None:
    for vaddr, advice in ((lab.at(0) + 1, mmap.MADV_NORMAL), (lab.at(0), 9999)):
        with fails_with(errno.EINVAL):
            lab.process.madvise(vaddr, PAGE, advice)
    lab.process.mlock(lab.at(0), PAGE)
    with fails_with(errno.EINVAL):
        lab.process.madvise(lab.at(0), PAGE, mmap.MADV_DONTNEED)
    lab.process.munlock(lab.at(0), PAGE)
    lab.process.store(lab.at(5), b"x")
    lab.process.munmap(lab.at(3), PAGE)
    with fails_with(errno.ENOMEM):
        lab.process.madvise(lab.at(2), 4 * PAGE, mmap.MADV_DONTNEED)
    assert not lab.pte(5), "what lies behind the hole was done"


def test_willneed_reads_ahead_and_random_does_not(tmp_path: Path) -> None:
    lab = Lab(tmp_path, readahead=8)
    lab.process.madvise(lab.at(4), 3 * PAGE, mmap.MADV_WILLNEED)
    assert lab.machine.vmstat.nr_file_pages == 3
    lab.process.madvise(lab.at(0), NR_PAGES * PAGE, mmap.MADV_RANDOM)
    lab.process.load(lab.at(12), 1)
    assert lab.machine.vmstat.nr_file_pages == 4
    lab.process.madvise(lab.at(0), NR_PAGES * PAGE, mmap.MADV_SEQUENTIAL)
    lab.process.load(lab.at(8), 1)
    assert lab.machine.vmstat.nr_file_pages == 8
    lab.machine.power_off()


@pytest.mark.parametrize("io_depth", [0, 2])
def test_a_hole_that_the_host_refuses_costs_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io_depth: int
) -> None:
    lab = Lab(tmp_path, io_depth=io_depth)

    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    lab.process.store(lab.at(1), b"stored")
    with monkeypatch.context() as patch:
        patch.setattr(truncate, "punch_hole", refuse)
        with fails_with(errno.EOPNOTSUPP):
            lab.process.madvise(lab.at(0), 3 * PAGE, MADV_REMOVE)
    check(lab.machine)
    assert lab.process.load(lab.at(1), 6) == b"stored"
    lab.process.msync(lab.at(0), NR_PAGES * PAGE)
    assert on_disk(lab.path, 1)[:6] == b"stored"
    lab.machine.power_off()


def test_a_hole_in_what_is_being_written_stays_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, io_depth=2)
    punch = truncate.punch_hole

    def nothing_under_way(fd: int, first_byte: int, nbytes: int) -> None:
        assert not lab.machine.vmstat.nr_writeback
        punch(fd, first_byte, nbytes)

    monkeypatch.setattr(truncate, "punch_hole", nothing_under_way)
    lab.process.store(lab.at(0), b"w" * (NR_PAGES * PAGE))
    lab.clock.advance(40.0)
    lab.process.load(lab.at(0), 1)
    lab.process.madvise(lab.at(0), PAGE, mmap.MADV_NORMAL)
    assert lab.machine.vmstat.nr_writeback > 0
    lab.process.madvise(lab.at(0), NR_PAGES * PAGE, MADV_REMOVE)
    check(lab.machine)
    assert lab.process.load(lab.at(0), NR_PAGES * PAGE) == bytes(NR_PAGES * PAGE)
    lab.machine.power_off()
    assert lab.path.read_bytes() == bytes(NR_PAGES * PAGE)
