"""mprotect, fork, private and anonymous memory: what the PTEs look like after each, and who hears of it."""

import errno
import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import SegmentationFault
from emu.mm.rmap.dirty_index import DirtyIndex
from tests.emu.mm.helpers import NR_PAGES, PAGE, RO, RW, Lab, fails_with, map_nonlinear, on_disk, stamp


@pytest.fixture(params=["x86_64", "i386"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, request.param)
    yield made
    check(made.machine)
    made.machine.power_off()


def bits(lab: Lab, page: int) -> tuple[bool, bool]:
    """Return (writable, dirty) of the PTE."""
    return lab.machine.format.pte_write(lab.pte(page)), lab.machine.format.pte_dirty(lab.pte(page))


def test_read_only_keeps_dirty_and_read_write_gives_write_back_without_a_fault(lab: Lab) -> None:
    lab.process.store(lab.at(0), b"one")
    lab.process.load(lab.at(1), 1)
    lab.process.mprotect(lab.at(0), 2 * PAGE, RO)
    assert bits(lab, 0) == (False, True)
    with pytest.raises(SegmentationFault):
        lab.process.store(lab.at(0), b"two")
    lab.process.mprotect(lab.at(0), 2 * PAGE, RW)
    assert bits(lab, 0) == (True, True)
    assert bits(lab, 1) == (False, False), "a clean one waits for its fault"
    faults = lab.machine.vmstat.pgfault
    lab.process.store(lab.at(0), b"two")
    assert lab.machine.vmstat.pgfault == faults
    lab.process.store(lab.at(1), b"two")
    assert lab.machine.vmstat.pgfault == faults + 1


def test_read_only_clean_read_write_store(lab: Lab) -> None:
    """The case that an index of writable PTEs alone would lose."""
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    index = lab.machine.kernel.rmap
    assert isinstance(index, DirtyIndex)
    lab.process.store(mapping.vaddr, stamp(15, 1))
    assert index.nr_entries == 1
    lab.process.mprotect(mapping.vaddr, PAGE, RO)
    assert index.nr_entries == 1, "read-only, but dirty"
    lab.machine.sync()
    assert index.nr_entries == 0
    lab.process.mprotect(mapping.vaddr, PAGE, RW)
    assert index.nr_entries == 0
    lab.process.store(mapping.vaddr, stamp(15, 2))
    assert (index.nr_entries, lab.machine.vmstat.nr_dirty) == (1, 1)
    mapping.flush()
    lab.machine.power_off()
    assert on_disk(lab.path, 15) == stamp(15, 2)


def test_errors_of_mprotect(lab: Lab) -> None:
    for vaddr, prot in ((lab.at(0) + 1, RO), (lab.at(0), 0x100)):
        with fails_with(errno.EINVAL):
            lab.process.mprotect(vaddr, PAGE, prot)
    lab.process.mprotect(lab.at(0), 0, RO)
    lab.process.munmap(lab.at(4), PAGE)
    with fails_with(errno.ENOMEM):
        lab.process.mprotect(lab.at(2), 4 * PAGE, RO)
    with pytest.raises(SegmentationFault):
        lab.process.store(lab.at(3), b"what lies before the hole is changed")
    lab.process.store(lab.at(5), b"what lies behind is not")
    with lab.path.open("rb") as file:
        vaddr = lab.process.sys_mmap(0, PAGE, RO, mmap.MAP_SHARED, file.fileno(), 0)
    # That others have the file open for writing does not help this mapping.
    with fails_with(errno.EACCES):
        lab.process.mprotect(vaddr, PAGE, RW)


def test_a_mapping_of_a_file_opened_for_reading_may_not_become_writable(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    other = tmp_path / "read-only"
    other.write_bytes(bytes(PAGE))
    with other.open("rb") as file:
        vaddr = lab.process.sys_mmap(0, PAGE, RO, mmap.MAP_SHARED, file.fileno(), 0)
        with fails_with(errno.EACCES):
            lab.process.sys_mmap(0, PAGE, RW, mmap.MAP_SHARED, file.fileno(), 0)
    with fails_with(errno.EACCES):
        lab.process.mprotect(vaddr, PAGE, RW)
    lab.machine.power_off()


def test_no_right_at_all_and_back(lab: Lab) -> None:
    lab.process.store(lab.at(0), b"kept")
    lab.process.mprotect(lab.at(0), PAGE, 0)
    for access in (lambda: lab.process.load(lab.at(0), 1), lambda: lab.process.store(lab.at(0), b"x")):
        with pytest.raises(SegmentationFault):
            access()
    check(lab.machine)
    lab.machine.sync()
    check(lab.machine)
    lab.process.mprotect(lab.at(0), PAGE, RW)
    assert lab.process.load(lab.at(0), 4) == b"kept"
    lab.process.store(lab.at(0), b"seen")
    assert lab.machine.vmstat.nr_dirty == 1


def test_split_and_merge_follow_the_protections(lab: Lab) -> None:
    for page in (3, 7, 8):
        lab.process.mprotect(lab.at(page), PAGE, RO)
    assert [vma.nr_pages for vma in lab.process.vmas] == [3, 1, 3, 2, 7]
    lab.process.mprotect(lab.at(0), NR_PAGES * PAGE, RW)
    assert [vma.nr_pages for vma in lab.process.vmas] == [NR_PAGES]


def test_split_and_merge_of_a_nonlinear_mapping_keep_order_and_index(lab: Lab) -> None:
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    for page in range(NR_PAGES):
        lab.process.store(mapping.vaddr + page * PAGE, stamp(NR_PAGES - 1 - page, 1))
    lab.process.mprotect(mapping.vaddr + 3 * PAGE, 4 * PAGE, RO)
    check(lab.machine)
    lab.process.munmap(mapping.vaddr + 10 * PAGE, 2 * PAGE)
    check(lab.machine)
    lab.process.madvise(mapping.vaddr, 10 * PAGE, mmap.MADV_DONTNEED)
    lab.process.mprotect(mapping.vaddr, 10 * PAGE, RW)
    nonlinear = [vma.nr_pages for vma in lab.process.vmas if vma.nonlinear]
    assert nonlinear == [10, 4]
    assert lab.process.load(mapping.vaddr + 4 * PAGE, 8) == stamp(11, 1)
    lab.machine.sync()
    assert [on_disk(lab.path, page) for page in range(NR_PAGES)] == [stamp(page, 1) for page in range(NR_PAGES)]


def test_fork_copies_nonlinear_ptes_clean_and_as_writable(lab: Lab) -> None:
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    lab.process.store(mapping.vaddr, b"x")
    lab.process.load(mapping.vaddr + PAGE, 1)
    child = lab.process.fork()
    fmt = lab.machine.format
    theirs = [child.mm.pt.get(mapping.vaddr + page * PAGE) for page in range(3)]
    ours = [lab.process.mm.pt.get(mapping.vaddr + page * PAGE) for page in range(3)]
    assert [fmt.pte_write(pte) for pte in theirs[:2]] == [True, False]
    assert not any(fmt.pte_dirty(pte) or fmt.pte_young(pte) for pte in theirs[:2])
    assert fmt.pte_dirty(ours[0])
    assert theirs[2] == ours[2] == fmt.pgoff_to_pte(NR_PAGES - 3)
    index = lab.machine.kernel.rmap
    assert isinstance(index, DirtyIndex)
    assert index.nr_entries == 2
    assert child.load(mapping.vaddr + 2 * PAGE, 8) == stamp(NR_PAGES - 3)


def test_fork_leaves_linear_shared_mappings_to_faults(lab: Lab) -> None:
    lab.process.store(lab.at(0), b"shared")
    child = lab.process.fork()
    assert not child.mm.pt.get(lab.at(0))
    assert child.load(lab.at(0), 6) == b"shared"
    child.store(lab.at(0), b"child!")
    assert lab.process.load(lab.at(0), 6) == b"child!"


@pytest.mark.parametrize("fileno", ["file", "anonymous"])
def test_fork_shares_private_pages_until_one_writes(lab: Lab, fileno: str) -> None:
    where: str | int = -1 if fileno == "anonymous" else str(lab.path)
    mapping = lab.process.mmap(where, 2 * PAGE, mmap.MAP_PRIVATE)
    lab.process.store(mapping.vaddr, b"before")
    child = lab.process.fork()
    check(lab.machine)
    assert lab.machine.vmstat.nr_anon_pages == 1
    lab.process.store(mapping.vaddr, b"parent")
    child.store(mapping.vaddr + 100, b"child")
    assert lab.process.load(mapping.vaddr, 6) == b"parent"
    assert child.load(mapping.vaddr, 6) == b"before"
    assert lab.machine.vmstat.nr_anon_pages == 2
    check(lab.machine)
    child.exit()
    assert lab.machine.vmstat.nr_anon_pages == 1
    assert on_disk(lab.path, 0) == stamp(0)


def test_a_private_page_alone_again_is_reused_not_copied(lab: Lab) -> None:
    mapping = lab.process.mmap(-1, PAGE, mmap.MAP_PRIVATE)
    lab.process.store(mapping.vaddr, b"x")
    child = lab.process.fork()
    child.exit()
    lab.process.store(mapping.vaddr, b"y")
    assert lab.machine.vmstat.nr_cow == 0


def test_mprotect_does_not_make_a_shared_private_page_writable(lab: Lab) -> None:
    mapping = lab.process.mmap(-1, PAGE, mmap.MAP_PRIVATE)
    lab.process.store(mapping.vaddr, b"before")
    child = lab.process.fork()
    lab.process.mprotect(mapping.vaddr, PAGE, RO)
    lab.process.mprotect(mapping.vaddr, PAGE, RW)
    lab.process.store(mapping.vaddr, b"parent")
    assert child.load(mapping.vaddr, 6) == b"before"


def test_locks_are_not_inherited(lab: Lab) -> None:
    lab.process.mlock(lab.at(0), PAGE)
    child = lab.process.fork()
    assert child.mm.locked_vm == 0
    lab.process.exit()
    assert lab.machine.vmstat.nr_mlock == 0


def test_fork_without_frames_is_enomem_and_the_machine_stays_whole(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    map_nonlinear(lab.process, lab.path, NR_PAGES)
    k = lab.machine.kernel
    for spared in range(4):
        taken = []
        while k.ram.nr_free > spared and (pfn := k.ram.alloc_frame()) >= 0:
            taken.append(pfn)
        with fails_with(errno.ENOMEM):
            lab.process.fork()
        for pfn in taken:
            k.ram.free_frame(pfn)
        check(lab.machine)
    lab.machine.power_off()
