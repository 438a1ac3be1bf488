"""mmap, munmap and accesses of a process: placement, errors, signals, batches."""

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from emu.check import check
from emu.errors import BusError, SegmentationFault
from emu.hw.mmu import AccessKind, kind_of
from emu.mm.mmap import MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_LOCKED, MAP_POPULATE, MMAP_MIN_ADDR
from tests.emu.mm.helpers import NR_PAGES, PAGE, RO, RW, Lab, fails_with, stamp

SHARED, PRIVATE, ANONYMOUS = mmap.MAP_SHARED, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS
LOAD, STORE, FETCH = (kind_of(kind, 8) for kind in AccessKind)


@pytest.fixture(params=["x86_64", "i386"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, request.param)
    yield made
    check(made.machine)
    made.machine.power_off()


def test_errors_of_mmap(lab: Lab) -> None:
    sys_mmap, top = lab.process.sys_mmap, lab.process.mm.task_size
    cases: list[tuple[int, Callable[[], int]]] = [
        (errno.EINVAL, lambda: sys_mmap(0, 0, RW, SHARED, str(lab.path), 0)),
        (errno.EINVAL, lambda: sys_mmap(0, PAGE, RW, 0, str(lab.path), 0)),
        (errno.EINVAL, lambda: sys_mmap(0, PAGE, RW, SHARED, str(lab.path), 100)),
        (errno.EINVAL, lambda: sys_mmap(0x12345, PAGE, RW, SHARED | MAP_FIXED, str(lab.path), 0)),
        (errno.ENOMEM, lambda: sys_mmap(0, top + PAGE, RW, PRIVATE | ANONYMOUS, -1, 0)),
        (errno.ENOMEM, lambda: sys_mmap(top, PAGE, RW, PRIVATE | ANONYMOUS | MAP_FIXED, -1, 0)),
        (errno.EPERM, lambda: sys_mmap(MMAP_MIN_ADDR - PAGE, PAGE, RW, PRIVATE | ANONYMOUS | MAP_FIXED, -1, 0)),
        (errno.EEXIST, lambda: sys_mmap(lab.at(0), PAGE, RW, SHARED | MAP_FIXED_NOREPLACE, str(lab.path), 0)),
        (errno.EOVERFLOW, lambda: sys_mmap(0, PAGE, RW, SHARED, str(lab.path), (1 << 64) - PAGE)),
        (errno.EBADF, lambda: sys_mmap(0, PAGE, RW, SHARED, 1 << 20, 0)),
        (errno.ENOENT, lambda: sys_mmap(0, PAGE, RW, SHARED, str(lab.path) + "?", 0)),
        (errno.ENODEV, lambda: sys_mmap(0, PAGE, RW, SHARED, str(lab.path.parent), 0)),
    ]
    before = [(vma.start, vma.end) for vma in lab.process.vmas]
    for number, call in cases:
        with fails_with(number):
            call()
    assert [(vma.start, vma.end) for vma in lab.process.vmas] == before


def test_errors_of_munmap(lab: Lab) -> None:
    for vaddr, nbytes in ((lab.at(0) + 1, PAGE), (lab.at(0), 0), (lab.at(0), -PAGE), (-PAGE, PAGE), (1 << 63, PAGE)):
        with fails_with(errno.EINVAL):
            lab.process.munmap(vaddr, nbytes)
    lab.process.munmap(MMAP_MIN_ADDR, PAGE)
    lab.process.munmap(lab.at(0), 1)
    assert lab.process.vmas[0].start == lab.at(1), "the length is rounded up"


def test_munmap_in_the_middle_and_over_several(lab: Lab) -> None:
    lab.process.store(lab.at(0), b"x" * NR_PAGES * PAGE)
    lab.process.munmap(lab.at(4), 2 * PAGE)
    check(lab.machine)
    assert [vma.nr_pages for vma in lab.process.vmas] == [4, 10]
    lab.process.munmap(lab.at(2), 8 * PAGE)
    check(lab.machine)
    assert [vma.nr_pages for vma in lab.process.vmas] == [2, 6]
    for page in (2, 4, 9):
        with pytest.raises(SegmentationFault, match="nothing is mapped"):
            lab.shown(page)
    assert lab.machine.vmstat.nr_dirty == NR_PAGES, "the pages stay dirty without a mapping"
    lab.machine.sync()
    assert lab.path.read_bytes() == b"x" * NR_PAGES * PAGE


def test_max_map_count(tmp_path: Path) -> None:
    lab = Lab(tmp_path, max_map_count=6)
    for page in (1, 3):
        lab.process.mprotect(lab.at(page), PAGE, RO)
    with fails_with(errno.ENOMEM):
        lab.process.mprotect(lab.at(8), PAGE, RO)
    check(lab.machine)
    with fails_with(errno.ENOMEM):
        lab.process.munmap(lab.at(10), PAGE)
    check(lab.machine)
    lab.process.munmap(lab.at(1), PAGE)
    check(lab.machine)
    lab.machine.power_off()


def test_fixed_replaces_and_a_hint_does_not(lab: Lab) -> None:
    lab.process.store(lab.at(3), b"old")
    hinted = lab.process.sys_mmap(lab.at(3), PAGE, RW, PRIVATE | ANONYMOUS, -1, 0)
    assert hinted != lab.at(3)
    assert lab.process.sys_mmap(lab.at(3), PAGE, RW, PRIVATE | ANONYMOUS | MAP_FIXED, -1, 0) == lab.at(3)
    assert lab.process.load(lab.at(3), 3) == bytes(3)
    assert [vma.nr_pages for vma in lab.process.vmas if vma.mapping is not None] == [3, 12]
    free = 1 << 28
    assert lab.process.sys_mmap(free, PAGE, RW, PRIVATE | ANONYMOUS, -1, 0) == free


def test_neighbours_of_one_file_merge(lab: Lab) -> None:
    lab.process.munmap(lab.at(4), PAGE)
    vaddr = lab.process.sys_mmap(lab.at(4), PAGE, RW, SHARED | MAP_FIXED, str(lab.path), 4 * PAGE)
    assert [vma.nr_pages for vma in lab.process.vmas] == [NR_PAGES]
    lab.process.munmap(vaddr, PAGE)
    lab.process.sys_mmap(lab.at(4), PAGE, RW, SHARED | MAP_FIXED, str(lab.path), 5 * PAGE)
    assert [vma.nr_pages for vma in lab.process.vmas] == [4, 1, 11]


def test_populate_and_locked_fault_everything_in(lab: Lab) -> None:
    lab.process.sys_mmap(0, 4 * PAGE, RW, SHARED | MAP_POPULATE, str(lab.path), 0)
    assert lab.machine.vmstat.nr_mapped == 4
    lab.process.sys_mmap(0, 4 * PAGE, RW, SHARED | MAP_LOCKED, str(lab.path), 4 * PAGE)
    assert lab.machine.vmstat.nr_mlock == 4
    assert lab.machine.vmstat.nr_dirty == 0


def test_populate_beyond_the_end_of_the_file_is_no_error(lab: Lab) -> None:
    """mmap(2): it does not fail if the mapping cannot be populated."""
    vaddr = lab.process.sys_mmap(0, 4 * PAGE, RW, SHARED | MAP_POPULATE, str(lab.path), (NR_PAGES - 2) * PAGE)
    assert lab.process.load(vaddr + PAGE, 8) == stamp(NR_PAGES - 1)
    with pytest.raises(BusError):
        lab.process.load(vaddr + 2 * PAGE, 1)


def test_python_s_rules_of_mmap(lab: Lab) -> None:
    with pytest.raises(ValueError, match="greater than file size"):
        lab.process.mmap(str(lab.path), (NR_PAGES + 1) * PAGE)
    assert len(lab.process.mmap(str(lab.path), 0, offset=4 * PAGE)) == (NR_PAGES - 4) * PAGE
    empty = lab.path.with_name("empty")
    empty.touch()
    with pytest.raises(ValueError, match="empty file"):
        lab.process.mmap(str(empty), 0)
    with pytest.raises(OverflowError):
        lab.process.mmap(str(lab.path), -1)


def test_a_descriptor_must_allow_what_is_asked(lab: Lab) -> None:
    read_only, write = os.open(lab.path, os.O_RDONLY), os.open(lab.path, os.O_RDWR)
    try:
        with fails_with(errno.EACCES):
            lab.process.mmap(read_only, PAGE)
        private = lab.process.mmap(read_only, PAGE, PRIVATE)
        private[0] = 33
        readable = lab.process.mmap(read_only, PAGE, SHARED, RO)
        assert readable[:8] == stamp(0)
        lab.process.mmap(write, PAGE)[:1] = b"?"
        assert readable[:1] == b"?"
        assert private[:1] == b"!"
    finally:
        os.close(read_only)
        os.close(write)


def test_signals_name_the_address(lab: Lab) -> None:
    lab.process.mprotect(lab.at(2), PAGE, RO)
    lab.process.mprotect(lab.at(3), PAGE, 0)
    with pytest.raises(SegmentationFault) as caught:
        lab.process.store(lab.at(1), b"x" * 2 * PAGE)
    assert caught.value.vaddr == lab.at(2)
    assert lab.process.load(lab.at(1), PAGE) == b"x" * PAGE, "what lies before the signal has been stored"
    for call in (
        lambda: lab.process.load_word(lab.at(3)),
        lambda: lab.process.store_word(lab.at(2), 1),
        lambda: lab.process.load_byte(0),
        lambda: lab.process.run([lab.at(3)], LOAD),
    ):
        with pytest.raises(SegmentationFault):
            call()


def test_an_access_across_a_fault_does_all_or_nothing(lab: Lab) -> None:
    lab.process.mprotect(lab.at(2), PAGE, RO)
    before = lab.process.load(lab.at(2) - 4, 8)
    with pytest.raises(SegmentationFault):
        lab.process.store_word(lab.at(2) - 4, 0x1122334455667788)
    assert lab.process.load(lab.at(2) - 4, 8) == before
    lab.process.store_word(lab.at(1) - 4, 0x1122334455667788)
    assert lab.process.load_word(lab.at(1) - 4) == 0x1122334455667788


def test_a_mapping_that_may_not_be_executed(lab: Lab) -> None:
    has_nx = lab.machine.format.name == "x86_64"
    # Both before the page is there and after: without NX a fetch is a read.
    for _ in range(2):
        with pytest.raises(SegmentationFault) if has_nx else contextlib.nullcontext():
            lab.process.run([lab.at(0)], FETCH)
        lab.shown(0)
    lab.process.mprotect(lab.at(0), PAGE, RO | mmap.PROT_EXEC)
    assert lab.process.run([lab.at(0)], FETCH)[0] == int.from_bytes(stamp(0), "little")


def test_batches_mix_kinds_and_sizes(lab: Lab) -> None:
    vaddrs = np.array([lab.at(0), lab.at(0), lab.at(5), lab.at(5) + 1], np.uint64)
    kinds = [STORE, LOAD, kind_of(AccessKind.STORE, 1), kind_of(AccessKind.LOAD, 2)]
    values = np.array([1 << 63, 0, 0xFFEE, 0], np.uint64)
    vaddrs.flags.writeable = values.flags.writeable = False
    assert lab.process.run(vaddrs, np.array(kinds, np.uint8), values).tolist()[:2] == [1 << 63, 1 << 63]
    assert lab.process.load(lab.at(5), 1) == b"\xee"
    assert lab.process.run([], LOAD).tolist() == []


def test_a_batch_ends_at_its_signal_with_the_rest_undone(lab: Lab) -> None:
    task = lab.process.task([lab.at(0), 0, lab.at(1)], STORE, 7)
    with pytest.raises(SegmentationFault):
        lab.machine.run([task])
    assert task.position == 1
    assert lab.process.load_word(lab.at(0)) == 7
    assert lab.shown(1) == stamp(1)


def test_the_dead_do_nothing(lab: Lab) -> None:
    lab.shown(0)
    lab.process.exit()
    lab.process.exit()
    calls: list[Callable[[], object]] = [
        lambda: lab.shown(0),
        lambda: lab.process.store(lab.at(0), b"x"),
        lab.process.fork,
        lambda: lab.process.munmap(lab.at(0), PAGE),
        lambda: lab.process.msync(lab.at(0), PAGE),
        lambda: lab.process.load_byte(lab.at(0)),
        lambda: lab.process.store_byte(lab.at(0), 1),
        lambda: lab.process.load_word(lab.at(0)),
        lambda: lab.process.run([lab.at(0)], LOAD),
    ]
    for call in calls:
        with fails_with(errno.ESRCH):
            call()


def test_nothing_runs_on_a_machine_that_is_off(lab: Lab) -> None:
    lab.shown(0)
    lab.machine.power_off()
    with fails_with(errno.ESRCH):
        lab.process.load_byte(lab.at(0))
    with fails_with(errno.ESRCH):
        lab.process.load_word(lab.at(5))
