"""A page is mlocked as long as a locked mapping shows it, and no longer: else reclaim would never see it again."""

import mmap
from pathlib import Path

import pytest

from emu.check import check
from emu.mm_types.page import PG_MLOCKED, UNEVICTABLE
from tests.emu.mm.helpers import NR_PAGES, PAGE, RO, RW, Lab, make_file, virtual_machine

MADV_DONTNEED_LOCKED = 24


def _nothing_is_locked(lab: Lab) -> None:
    check(lab.machine)
    assert lab.machine.vmstat.nr_mlock == 0
    assert lab.machine.kernel.lru.nr[UNEVICTABLE] == 0


@pytest.mark.parametrize("nr_pages", [1, NR_PAGES])
def test_what_a_locked_mapping_drops_is_no_longer_locked(tmp_path: Path, nr_pages: int) -> None:
    lab = Lab(tmp_path)
    lab.process.mlock(lab.at(0), nr_pages * PAGE)
    assert lab.machine.vmstat.nr_mlock == nr_pages
    lab.process.madvise(lab.at(0), nr_pages * PAGE, MADV_DONTNEED_LOCKED)
    _nothing_is_locked(lab)
    # The mapping is locked still: what comes in again is, too.
    lab.process.load(lab.at(0), 1)
    assert lab.machine.vmstat.nr_mlock == 1
    lab.machine.shutdown()


def test_a_locked_private_mapping_that_copies_a_page_unlocks_the_file_s(tmp_path: Path) -> None:
    machine, _ = virtual_machine()
    process = machine.spawn()
    private = process.mmap(str(make_file(tmp_path / "file", 4)), 4 * PAGE, flags=mmap.MAP_PRIVATE, prot=RO)
    process.mlock(private.vaddr, private.nbytes)
    process.mprotect(private.vaddr, private.nbytes, RW)
    check(machine)
    assert machine.vmstat.nr_mlock == 4, "the copies, and nothing else"
    process.exit()
    check(machine)
    assert machine.vmstat.nr_mlock == 0
    machine.shutdown()


def test_a_copy_after_fork_leaves_the_child_a_page_that_can_be_reclaimed() -> None:
    machine, _ = virtual_machine()
    process = machine.spawn()
    memory = process.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    process.mlock(memory.vaddr, memory.nbytes)
    child = process.fork()
    process.store(memory.vaddr, b"x")
    check(machine)
    pte = child.mm.pt.get(memory.vaddr)
    assert not machine.kernel.mem_map.flags[machine.format.pte_pfn(pte)] & PG_MLOCKED
    assert machine.vmstat.nr_mlock == 4
    machine.shutdown()


@pytest.mark.parametrize("bulk", [False, True])
def test_a_page_that_a_remap_takes_out_of_a_locked_mapping_is_unlocked(tmp_path: Path, *, bulk: bool) -> None:
    lab = Lab(tmp_path)
    lab.process.remap_file_pages(lab.at(0), PAGE, 0, 1)
    lab.process.mlock(lab.at(8), 2 * PAGE)
    assert lab.machine.vmstat.nr_mlock == 2
    if bulk:
        lab.process.remap_file_pages_bulk([lab.at(8), lab.at(9)], [2, 3])
        assert lab.machine.vmstat.nr_mlock == 0
    else:
        lab.process.remap_file_pages(lab.at(8), 2 * PAGE, 0, 2)
        assert lab.machine.vmstat.nr_mlock == 2
    check(lab.machine)
    lab.machine.shutdown()


def test_pages_of_a_file_without_a_disk_stay_out_of_sight_when_they_are_unlocked(tmp_path: Path) -> None:
    lab = Lab(tmp_path, plain_caps="ramfs")
    lab.process.mlock(lab.at(0), 4 * PAGE)
    lab.process.munlock(lab.at(0), 4 * PAGE)
    check(lab.machine)
    assert lab.machine.kernel.lru.nr[UNEVICTABLE] == 4
    lab.machine.shutdown()
