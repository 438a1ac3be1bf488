"""msync and mlock, one promise at a time."""

import errno
import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.check import check
from emu.mm.syscalls import MS_ASYNC, MS_INVALIDATE, MS_SYNC
from tests import breaks
from tests.emu.mm.helpers import NR_PAGES, PAGE, Lab, fails_with, map_nonlinear, on_disk, stamp


@pytest.fixture(params=["x86_64", "i386"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, request.param)
    yield made
    check(made.machine)
    made.machine.power_off()


def written(lab: Lab, generation: int = 1) -> list[int]:
    return [page for page in range(NR_PAGES) if on_disk(lab.path, page) == stamp(page, generation)]


def test_of_a_linear_range_writes_that_range_and_syncs_the_file(lab: Lab) -> None:
    for page in range(NR_PAGES):
        lab.process.store(lab.at(page), stamp(page, 1))
    lab.process.msync(lab.at(4), 3 * PAGE)
    assert written(lab) == [4, 5, 6]
    assert lab.machine.vmstat.nr_dirty == NR_PAGES - 3
    assert lab.machine.vmstat.nr_fsync == 1
    lab.process.msync(lab.at(0), 1)
    assert written(lab) == [0, 4, 5, 6]


def test_of_any_range_of_a_nonlinear_mapping_writes_the_whole_file(lab: Lab) -> None:
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    for page in range(NR_PAGES):
        lab.process.store(mapping.vaddr + page * PAGE, stamp(NR_PAGES - 1 - page, 1))
    lab.process.msync(mapping.vaddr + 3 * PAGE, PAGE)
    assert written(lab) == list(range(NR_PAGES))


def test_async_writes_nothing(lab: Lab) -> None:
    lab.process.store(lab.at(0), stamp(0, 1))
    for flags in (MS_ASYNC, 0, MS_INVALIDATE):
        lab.process.msync(lab.at(0), PAGE, flags)
    assert written(lab) == []
    assert lab.machine.vmstat.nr_fsync == 0


def test_private_memory_is_not_written(lab: Lab) -> None:
    private = lab.process.mmap(str(lab.path), PAGE, mmap.MAP_PRIVATE)
    lab.process.store(private.vaddr, stamp(0, 1))
    lab.process.msync(private.vaddr, PAGE)
    assert written(lab) == []


def test_errors_of_msync(lab: Lab) -> None:
    for vaddr, flags in ((lab.at(0) + 1, MS_SYNC), (lab.at(0), MS_SYNC | MS_ASYNC), (lab.at(0), 8)):
        with fails_with(errno.EINVAL):
            lab.process.msync(vaddr, PAGE, flags)
    lab.process.mlock(lab.at(8), PAGE)
    with fails_with(errno.EBUSY):
        lab.process.msync(lab.at(8), PAGE, MS_SYNC | MS_INVALIDATE)
    lab.process.munlock(lab.at(8), PAGE)
    lab.process.store(lab.at(6), stamp(6, 1))
    lab.process.munmap(lab.at(4), PAGE)
    with fails_with(errno.ENOMEM):
        lab.process.msync(lab.at(2), 6 * PAGE)
    assert written(lab) == [6], "what lies behind the hole was synced"


def test_a_store_under_writeback_is_written_again(tmp_path: Path) -> None:
    lab = Lab(tmp_path, io_depth=2)
    lab.process.store(lab.at(0), stamp(0, 1))
    lab.clock.advance(40.0)
    lab.process.madvise(lab.at(0), PAGE, mmap.MADV_NORMAL)
    assert lab.machine.vmstat.nr_writeback == 1
    lab.process.store(lab.at(0), stamp(0, 2))
    assert (lab.machine.vmstat.nr_writeback, lab.machine.vmstat.nr_dirty) == (1, 1)
    check(lab.machine)
    lab.process.msync(lab.at(0), PAGE)
    assert (lab.machine.vmstat.nr_writeback, lab.machine.vmstat.nr_dirty) == (0, 0)
    lab.machine.power_off()
    assert on_disk(lab.path, 0) == stamp(0, 2)


@pytest.mark.parametrize("io_depth", [0, 2])
def test_a_failed_write_keeps_pages_dirty_and_reaches_msync(io_depth: int, tmp_path: Path) -> None:
    lab = Lab(tmp_path, io_depth=io_depth)
    for page in range(NR_PAGES):
        lab.process.store(lab.at(page), stamp(page, 1))
    with breaks.failing_writes(errno.EIO, pages=range(3, 5)):
        with fails_with(errno.EIO):
            lab.process.msync(lab.at(0), NR_PAGES * PAGE)
        check(lab.machine)
        assert lab.machine.vmstat.nr_dirty > 0
        assert lab.machine.vmstat.nr_writeback == 0
        with pytest.raises(OSError, match="stay dirty"):
            lab.machine.sync()
        check(lab.machine)
        lab.process.msync(lab.at(8), PAGE, MS_ASYNC)
    assert lab.machine.vmstat.nr_write_errors >= 2
    assert [lab.shown(page) for page in range(NR_PAGES)] == [stamp(page, 1) for page in range(NR_PAGES)]
    # sync's failure is news to this process, once, though the pages can be written by now.
    with fails_with(errno.EIO):
        lab.process.msync(lab.at(0), NR_PAGES * PAGE)
    lab.process.msync(lab.at(0), NR_PAGES * PAGE)
    assert lab.machine.vmstat.nr_dirty == 0
    check(lab.machine)
    lab.machine.power_off()
    assert written(lab) == list(range(NR_PAGES))


def test_stores_after_a_failed_write_are_not_lost(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    lab.process.store(mapping.vaddr, stamp(15, 1))
    with breaks.failing_writes(errno.ENOSPC) as failed, fails_with(errno.ENOSPC):
        mapping.flush()
    assert failed == [15 * PAGE]
    lab.process.store(mapping.vaddr, stamp(15, 2))
    check(lab.machine)
    mapping.flush()
    lab.machine.power_off()
    assert on_disk(lab.path, 15) == stamp(15, 2)


def test_a_failed_fsync_reaches_msync(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fdatasync(_fd: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    lab.process.store(lab.at(0), b"x")
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fdatasync)
        with fails_with(errno.EIO):
            lab.process.msync(lab.at(0), PAGE)
    lab.process.msync(lab.at(0), PAGE)


def test_locked_pages_are_unevictable(lab: Lab) -> None:
    lab.process.mlock(lab.at(0) + 5, 3 * PAGE)
    assert lab.process.mm.locked_vm == 4
    assert lab.machine.vmstat.nr_mlock == 4
    assert not any(lab.machine.format.pte_dirty(lab.pte(page)) for page in range(4)), "locking does not dirty"
    lab.process.load(lab.at(0), NR_PAGES * PAGE)
    for _ in range(4):
        lab.machine.kernel.try_to_free_pages(lab.machine.kernel, 100)
    assert lab.machine.vmstat.nr_file_pages == 4
    check(lab.machine)
    lab.process.munlock(lab.at(0), NR_PAGES * PAGE)
    assert (lab.process.mm.locked_vm, lab.machine.vmstat.nr_mlock) == (0, 0)
    for _ in range(4):
        lab.machine.kernel.try_to_free_pages(lab.machine.kernel, 100)
    assert lab.machine.vmstat.nr_file_pages == 0


@pytest.mark.parametrize("rmap", ["none", "scan", "dirty_index"])
def test_locked_pages_of_a_nonlinear_mapping_stay_and_are_written(rmap: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path, rmap=rmap)
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    lab.process.mlock(mapping.vaddr, 4 * PAGE)
    lab.process.store(mapping.vaddr, stamp(15, 1))
    lab.process.load(mapping.vaddr, NR_PAGES * PAGE)
    for _ in range(6):
        lab.machine.kernel.try_to_free_pages(lab.machine.kernel, 100)
        check(lab.machine)
    pt, fmt = lab.process.mm.pt, lab.machine.format
    assert all(fmt.pte_present(pt.get(mapping.vaddr + page * PAGE)) for page in range(4))
    assert lab.machine.vmstat.nr_file_pages == 4
    mapping.flush()
    lab.machine.power_off()
    assert on_disk(lab.path, 15) == stamp(15, 1)


def test_another_lock_keeps_a_page_locked(lab: Lab) -> None:
    """munlock takes the mark off; reclaim finds the other lock and puts it back."""
    lab.process.mlock(lab.at(0), PAGE)
    other = lab.machine.spawn()
    vaddr = other.mmap(str(lab.path), PAGE).vaddr
    other.mlock(vaddr, PAGE)
    lab.process.munlock(lab.at(0), PAGE)
    for _ in range(4):
        lab.machine.kernel.try_to_free_pages(lab.machine.kernel, 10)
    assert lab.machine.vmstat.nr_file_pages == 1
    assert lab.machine.vmstat.nr_mlock == 1


def test_errors_of_mlock(lab: Lab) -> None:
    lab.process.munmap(lab.at(3), PAGE)
    for call in (lab.process.mlock, lab.process.munlock):
        with fails_with(errno.ENOMEM):
            call(lab.at(2), 3 * PAGE)
    lab.process.ftruncate(lab.mapping, 2 * PAGE)
    with fails_with(errno.ENOMEM):
        lab.process.mlock(lab.at(0), 3 * PAGE)


def test_mlock_without_frames_is_eagain(tmp_path: Path) -> None:
    lab = Lab(tmp_path, ram=32 * PAGE)
    lab.process.load(lab.at(0), 1)
    k = lab.machine.kernel
    taken = []
    while (pfn := k.ram.alloc_frame()) >= 0:
        taken.append(pfn)
    with fails_with(errno.EAGAIN):
        lab.process.mlock(lab.at(0), NR_PAGES * PAGE)
    for pfn in taken:
        k.ram.free_frame(pfn)
    check(lab.machine)
    lab.machine.power_off()
