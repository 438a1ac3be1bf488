"""Anonymous memory on swap: out, back in, shared by fork, freed with the last who needs it."""

import errno
import mmap
import os
import random
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import OutOfMemory
from emu.hw.pte import FORMATS
from emu.hw.swapops import is_swap_pte
from emu.machine import Machine
from emu.mapping import Mapping
from emu.mm.swapfile import mkswap
from emu.mm_types.clock import VirtualClock
from emu.process import Process
from tests.emu.mm.helpers import PAGE, RO, RW, fails_with, stamp, virtual_machine

PRIVATE = mmap.MAP_PRIVATE
EVERYTHING = 1 << 20


def small(**options: object) -> Machine:
    return virtual_machine(**{"ram": 96 * PAGE, "swap": 401 * PAGE, "huge_pages": False, **options})[0]


def written(process: Process, nr_pages: int) -> Mapping:
    """Map private memory and stamp every page."""
    mapping = process.mmap(-1, nr_pages * PAGE, PRIVATE)
    for page in range(nr_pages):
        process.store(mapping.vaddr + page * PAGE, stamp(page))
    return mapping


def push_out(machine: Machine) -> None:
    """Reclaim everything that can be."""
    for _ in range(4):
        machine.kernel.try_to_free_pages(machine.kernel, EVERYTHING)
    machine.kernel.io.wait_all()
    machine.kernel.try_to_free_pages(machine.kernel, EVERYTHING)
    check(machine)


def nr_swapped(process: Process) -> int:
    return process.mm.swap_ents


@pytest.mark.parametrize("io_depth", [0, 2])
@pytest.mark.parametrize("name", FORMATS)
def test_memory_twice_the_ram(name: str, io_depth: int) -> None:
    page = FORMATS[name].page_size
    rng = random.Random(5)
    machine = Machine(name, 96 * page, swap=301 * page, clock=VirtualClock(), io_depth=io_depth, huge_pages=False)
    process = machine.spawn()
    mapping = process.mmap(-1, 200 * page, PRIVATE)
    newest = dict.fromkeys(range(200), 0)
    for step in range(1, 1000):
        place = rng.randrange(200)
        vaddr = mapping.vaddr + place * page
        expected = newest[place].to_bytes(8, "little")
        assert process.load(vaddr, 8) == expected
        if rng.random() < 0.6:
            newest[place] = step
            process.store(vaddr, step.to_bytes(8, "little"))
        if step % 250 == 0:
            check(machine)
    stat = machine.vmstat
    assert stat.pswpout > 50
    assert stat.pswpin > 50
    assert stat.nr_oom == 0
    process.exit()
    machine.kernel.io.wait_all()
    check(machine)
    assert machine.kernel.swap.nr_free == machine.kernel.swap.total_pages == 300
    machine.shutdown()


def test_a_page_that_comes_back_clean_keeps_its_slot_and_is_not_written_again() -> None:
    machine = small(page_cluster=0)
    process = machine.spawn()
    mapping = written(process, 8)
    push_out(machine)
    assert nr_swapped(process) == machine.vmstat.pswpout == 8
    assert all(is_swap_pte(machine.format, process.mm.pt.get(mapping.vaddr + page * PAGE)) for page in range(8))
    assert process.load(mapping.vaddr, 8) == stamp(0)
    assert (machine.vmstat.pswpin, machine.vmstat.nr_swapcached, machine.vmstat.pgmajfault) == (1, 1, 1)
    assert machine.kernel.swap.areas[0].inuse_pages == 8
    push_out(machine)
    assert machine.vmstat.pswpout == 8, "a clean page is written twice"
    process.store(mapping.vaddr, b"new")
    push_out(machine)
    assert machine.vmstat.pswpout == 9
    assert process.load(mapping.vaddr, 8) == b"new" + stamp(0)[3:]
    machine.shutdown()


def test_neighbours_are_read_along() -> None:
    machine = small(page_cluster=3)
    process = machine.spawn()
    mapping = written(process, 16)
    push_out(machine)
    process.load(mapping.vaddr + 4 * PAGE, 1)
    assert 4 <= machine.vmstat.pswpin <= 8
    major = machine.vmstat.pgmajfault
    assert process.mincore(mapping.vaddr, 16 * PAGE).count(1) == machine.vmstat.pswpin
    near = next(page for page in (3, 5) if process.mincore(mapping.vaddr + page * PAGE, PAGE) == b"\1")
    assert process.load(mapping.vaddr + near * PAGE, 8) == stamp(near)
    assert machine.vmstat.pgmajfault == major
    check(machine)
    machine.shutdown()


def test_fork_shares_slots_and_a_store_does_not_reach_the_other() -> None:
    machine = small()
    parent = machine.spawn()
    mapping = written(parent, 16)
    push_out(machine)
    child = parent.fork()
    check(machine)
    assert nr_swapped(child) == nr_swapped(parent) == 16
    assert machine.kernel.swap.areas[0].inuse_pages == 16
    parent.store(mapping.vaddr, b"parent")
    child.store(mapping.vaddr + PAGE, b"child")
    push_out(machine)
    assert child.load(mapping.vaddr, 8) == stamp(0)
    assert parent.load(mapping.vaddr, 8) == b"parent" + stamp(0)[6:]
    assert parent.load(mapping.vaddr + PAGE, 8) == stamp(1)
    assert child.load(mapping.vaddr + PAGE, 8) == b"child" + stamp(1)[5:]
    child.exit()
    check(machine)
    assert parent.load(mapping.vaddr + 15 * PAGE, 8) == stamp(15)
    parent.exit()
    assert machine.kernel.swap.areas[0].inuse_pages == 0
    machine.shutdown()


def test_mprotect_does_not_let_one_of_two_write_to_a_page_that_the_other_has_on_swap() -> None:
    """Reclaim takes the page from the parent and stops at the child, who has locked it: mapped once, and dirty."""
    machine = small(page_cluster=0)
    parent = machine.spawn()
    mapping = written(parent, 4)
    child = parent.fork()
    for process in (parent, child):
        # Read-only, or mlock would give each a copy.
        process.mprotect(mapping.vaddr, PAGE, RO)
        process.mlock(mapping.vaddr, PAGE)
    parent.munlock(mapping.vaddr, PAGE)
    push_out(machine)
    assert (nr_swapped(parent), nr_swapped(child)) == (4, 3)
    child.munlock(mapping.vaddr, PAGE)
    child.mprotect(mapping.vaddr, PAGE, RW)
    check(machine)
    child.store(mapping.vaddr, b"child")
    assert parent.load(mapping.vaddr, 8) == stamp(0)
    check(machine)
    machine.shutdown()


def test_dontneed_munmap_and_exit_free_slots_and_remapped_memory_is_zero() -> None:
    machine = small()
    process = machine.spawn()
    mapping = written(process, 12)
    push_out(machine)
    area = machine.kernel.swap.areas[0]
    process.madvise(mapping.vaddr, 4 * PAGE, mmap.MADV_DONTNEED)
    assert (area.inuse_pages, nr_swapped(process)) == (8, 8)
    assert process.load(mapping.vaddr, 4 * PAGE) == bytes(4 * PAGE)
    process.munmap(mapping.vaddr + 4 * PAGE, 4 * PAGE)
    assert (area.inuse_pages, nr_swapped(process)) == (4, 4)
    check(machine)
    process.exit()
    assert area.inuse_pages == 0
    check(machine)
    machine.shutdown()


@pytest.mark.parametrize(("nr_slots", "left"), [(4, 2), (64, 4)])
def test_the_last_swap_pte_frees_slots_of_mapped_pages_until_swap_is_half_full(nr_slots: int, left: int) -> None:
    """v2.6.29 mm/swapfile.c: free_swap_and_cache()."""
    machine = small(swap=(nr_slots + 1) * PAGE, page_cluster=0)
    parent = machine.spawn()
    mapping = written(parent, 4)
    child = parent.fork()
    push_out(machine)
    for page in range(4):
        parent.load(mapping.vaddr + page * PAGE, 1)
    area = machine.kernel.swap.areas[0]
    assert area.inuse_pages == 4
    child.munmap(mapping.vaddr, 4 * PAGE)
    assert area.inuse_pages == left
    check(machine)
    push_out(machine)
    assert parent.load(mapping.vaddr + 3 * PAGE, 8) == stamp(3)
    machine.shutdown()


def test_mremap_moves_swapped_pages_and_reclaim_finds_them_there() -> None:
    machine = small()
    process = machine.spawn()
    mapping = written(process, 8)
    push_out(machine)
    process.load(mapping.vaddr, 4 * PAGE)
    away = process.mremap(mapping.vaddr, 8 * PAGE, 12 * PAGE, 3, mapping.vaddr - (1 << 24))
    check(machine)
    push_out(machine)
    assert nr_swapped(process) == 8
    assert [process.load(away + page * PAGE, 8) for page in range(12)] == [
        *(stamp(page) for page in range(8)), *[bytes(8)] * 4,
    ]  # fmt: skip
    check(machine)
    machine.shutdown()


def test_mlock_brings_pages_in_and_keeps_them() -> None:
    machine = small()
    process = machine.spawn()
    mapping = written(process, 8)
    push_out(machine)
    process.mlock(mapping.vaddr, 4 * PAGE)
    assert process.mincore(mapping.vaddr, 4 * PAGE) == b"\1" * 4
    push_out(machine)
    assert nr_swapped(process) == 4
    assert machine.vmstat.nr_mlock == 4
    process.munlock(mapping.vaddr, 4 * PAGE)
    push_out(machine)
    assert nr_swapped(process) == 8
    machine.shutdown()


def test_private_copies_of_file_pages_are_swapped_and_the_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(stamp(page).ljust(PAGE, b"f") for page in range(16)))
    machine = small()
    process = machine.spawn()
    mapping = process.mmap(str(path), 16 * PAGE, PRIVATE)
    process.store(mapping.vaddr + 3 * PAGE, b"mine")
    process.load(mapping.vaddr, 16 * PAGE)
    push_out(machine)
    assert nr_swapped(process) == machine.vmstat.pswpout == 1
    assert process.load(mapping.vaddr + 3 * PAGE, 8) == b"mine" + stamp(3)[4:]
    process.mmap(str(path), 16 * PAGE)
    push_out(machine)
    # Truncated: the private copy on swap goes, too.
    process.ftruncate(os.open(path, os.O_RDWR), 2 * PAGE)
    assert (nr_swapped(process), machine.kernel.swap.areas[0].inuse_pages) == (0, 0)
    check(machine)
    machine.shutdown()
    assert path.read_bytes()[:PAGE] == stamp(0).ljust(PAGE, b"f")


@pytest.mark.parametrize("name", ["x86_64", "arm64_4k"])
def test_large_pages_are_split_and_swapped(name: str) -> None:
    machine = Machine(name, 6 << 20, swap="16M", clock=VirtualClock(), junk=False)
    process = machine.spawn()
    mapping = process.mmap(-1, 10 << 20, PRIVATE)
    nr_pages = 10 << 20 >> 12
    for page in range(0, nr_pages, 3):
        process.store(mapping.vaddr + page * PAGE, stamp(page))
    assert machine.vmstat.thp_fault_alloc > 0
    assert machine.vmstat.pswpout > 200
    check(machine)
    for page in range(0, nr_pages, 3):
        assert process.load(mapping.vaddr + page * PAGE, 8) == stamp(page)
    machine.shutdown()


def test_swap_full_is_out_of_memory_and_nothing_else_is_lost() -> None:
    machine = small(swap=33 * PAGE, overcommit_memory=1)
    process, other = machine.spawn(), machine.spawn()
    mine = written(other, 4)
    mapping = process.mmap(-1, 200 * PAGE, PRIVATE)
    with pytest.raises(OutOfMemory) as caught:
        process.store(mapping.vaddr, b"x" * 200 * PAGE)
    nr_stored = (caught.value.vaddr - mapping.vaddr) // PAGE
    assert nr_stored > 96, "swap was not used"
    assert machine.kernel.swap.nr_free == 0
    check(machine)
    process.munmap(mapping.vaddr + 150 * PAGE, 50 * PAGE)
    process.munmap(mapping.vaddr, 16 * PAGE)
    for page in range(16, nr_stored, 7):
        assert process.load(mapping.vaddr + page * PAGE, 1) == b"x"
    assert [other.load(mine.vaddr + page * PAGE, 8) for page in range(4)] == [stamp(page) for page in range(4)]
    process.exit()
    check(machine)
    written(other, 64)
    machine.shutdown()


def test_two_areas_are_filled_one_after_the_other_and_swapoff_moves_on() -> None:
    machine = small(swap=17 * PAGE)
    assert machine.swapon(65 * PAGE) == 1
    process = machine.spawn()
    mapping = written(process, 60)
    push_out(machine)
    areas = machine.kernel.swap.areas
    assert [area.inuse_pages for area in areas.values()] == [16, 44]
    machine.swapoff(0)
    check(machine)
    assert list(areas) == [1]
    assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(60)] == [stamp(page) for page in range(60)]
    machine.swapoff(1)
    check(machine)
    assert machine.vmstat.nr_swapcached == nr_swapped(process) == 0
    with fails_with(errno.EINVAL):
        machine.swapoff(1)
    machine.shutdown()


def test_swapoff_that_does_not_fit_leaves_the_area_in_use() -> None:
    machine = small()
    process = machine.spawn()
    mapping = written(process, 200)
    with fails_with(errno.ENOMEM):
        machine.swapoff()
    check(machine)
    assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(200)] == [stamp(p) for p in range(200)]
    machine.shutdown()


def test_a_file_of_mkswap_is_used_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    mkswap(path, 33 * PAGE, PAGE)
    machine = small(swap=path)
    assert machine.kernel.swap.total_pages == 32
    with fails_with(errno.EBUSY):
        machine.swapon(str(path))
    process = machine.spawn()
    written(process, 16)
    push_out(machine)
    assert any(stamp(page) in path.read_bytes() for page in range(16))
    machine.power_off()
    plain = tmp_path / "plain"
    plain.write_bytes(b"data" * PAGE)
    again = small(swap=str(path))
    with fails_with(errno.EINVAL):
        again.swapon(str(plain))
    with fails_with(errno.EINVAL):
        again.swapon("/dev/null")
    with fails_with(errno.ENOENT):
        again.swapon(str(tmp_path / "none"))
    with fails_with(errno.EINVAL):
        again.swapon(PAGE)
    again.shutdown()
    assert plain.read_bytes() == b"data" * PAGE
    with pytest.raises(OSError, match="65536-byte pages; make one with mkswap"):
        Machine("arm64_64k", "4M", swap=path)
