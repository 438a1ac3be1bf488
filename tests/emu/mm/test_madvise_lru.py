"""madvise FREE, COLD, PAGEOUT, and WILLNEED of what is on swap."""

import errno
import mmap
from pathlib import Path

import pytest

from emu.check import check
from emu.mm.madvise import MADV_COLD
from tests.emu.mm.helpers import PAGE, fails_with, make_file, stamp, virtual_machine
from tests.emu.mm.test_swap import nr_swapped, push_out, small, written

FREE, COLD, PAGEOUT = 8, 20, 21


@pytest.mark.parametrize("swap", [65 * PAGE, None])
def test_pages_given_up_show_what_they_held_until_they_are_dropped(swap: int | None) -> None:
    machine = small(swap=swap)
    process = machine.spawn()
    mapping = written(process, 16)
    process.madvise(mapping.vaddr, 16 * PAGE, FREE)
    check(machine)
    assert machine.vmstat.pglazyfree == 16
    process.madvise(mapping.vaddr, 16 * PAGE, FREE)
    assert machine.vmstat.pglazyfree == 16
    process.store(mapping.vaddr + 3 * PAGE, b"kept")
    push_out(machine)
    assert machine.vmstat.pglazyfreed == 15
    assert machine.vmstat.pswpout == (swap is not None)
    for page in range(16):
        held = b"kept" + stamp(3)[4:] if page == 3 else bytes(8)
        assert process.load(mapping.vaddr + page * PAGE, 8) == held
    check(machine)
    machine.shutdown()


def test_without_pressure_nothing_is_dropped() -> None:
    machine = small()
    process = machine.spawn()
    mapping = written(process, 8)
    process.madvise(mapping.vaddr, 8 * PAGE, FREE)
    assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(8)] == [stamp(page) for page in range(8)]
    check(machine)
    machine.shutdown()


def test_what_is_on_swap_is_freed_at_once_and_what_came_back_loses_its_slot() -> None:
    machine = small(page_cluster=0)
    process = machine.spawn()
    mapping = written(process, 8)
    push_out(machine)
    process.load(mapping.vaddr, 2 * PAGE)
    process.madvise(mapping.vaddr, 8 * PAGE, FREE)
    assert (machine.kernel.swap.areas[0].inuse_pages, nr_swapped(process)) == (0, 0)
    assert process.load(mapping.vaddr, 8) == stamp(0)
    assert process.load(mapping.vaddr + 4 * PAGE, PAGE) == bytes(PAGE)
    check(machine)
    machine.shutdown()


def test_a_page_that_a_child_shares_is_kept_for_it() -> None:
    machine = small(page_cluster=0)
    parent = machine.spawn()
    mapping = written(parent, 6)
    child = parent.fork()
    parent.madvise(mapping.vaddr, 2 * PAGE, FREE)
    push_out(machine)
    # From swap its PTEs are clean; there its slot tells that it is needed.
    child.load(mapping.vaddr + 2 * PAGE, 4 * PAGE)
    parent.load(mapping.vaddr + 2 * PAGE, 4 * PAGE)
    parent.madvise(mapping.vaddr + 2 * PAGE, 2 * PAGE, FREE)
    # Without its slot nothing but PG_dirty does.
    machine.swapoff()
    parent.madvise(mapping.vaddr + 4 * PAGE, 2 * PAGE, FREE)
    push_out(machine)
    check(machine)
    assert [child.load(mapping.vaddr + page * PAGE, 8) for page in range(6)] == [stamp(page) for page in range(6)]
    for page in range(6):
        assert parent.load(mapping.vaddr + page * PAGE, 8) in {stamp(page), bytes(8)}
    machine.shutdown()


def test_what_cannot_be_given_up(tmp_path: Path) -> None:
    machine = small()
    process = machine.spawn()
    path = make_file(tmp_path / "file", 4)
    places = [
        process.mmap(str(path), PAGE, mmap.MAP_PRIVATE).vaddr,
        process.mmap(str(path), PAGE).vaddr,
        process.mmap(-1, PAGE).vaddr,
    ]
    locked = written(process, 1).vaddr
    process.mlock(locked, PAGE)
    for vaddr in (*places, locked):
        with fails_with(errno.EINVAL):
            process.madvise(vaddr, PAGE, FREE)
    for advice in (COLD, PAGEOUT):
        with fails_with(errno.EINVAL):
            process.madvise(locked, PAGE, advice)
    machine.shutdown()


@pytest.mark.parametrize("io_depth", [0, 2])
def test_pageout_writes_and_takes_pages_at_once(io_depth: int, tmp_path: Path) -> None:
    machine = small(io_depth=io_depth, page_cluster=0)
    process = machine.spawn()
    mapping = written(process, 8)
    shared = process.mmap(str(make_file(tmp_path / "file", 8)), 8 * PAGE)
    process.store(shared.vaddr, b"dirty")
    process.load(shared.vaddr, 8 * PAGE)
    process.madvise(mapping.vaddr, 4 * PAGE, PAGEOUT)
    process.madvise(shared.vaddr, 4 * PAGE, PAGEOUT)
    assert nr_swapped(process) == 4
    assert machine.vmstat.nr_file_pages == 4
    assert (tmp_path / "file").read_bytes().startswith(b"dirty")
    check(machine)
    assert process.load(mapping.vaddr + 3 * PAGE, 8) == stamp(3)
    machine.shutdown()


def test_cold_pages_are_taken_first() -> None:
    machine = small(page_cluster=0)
    process = machine.spawn()
    mapping = written(process, 40)
    cold = mapping.vaddr + 20 * PAGE
    process.madvise(cold, 8 * PAGE, COLD)
    machine.kernel.try_to_free_pages(machine.kernel, 8)
    assert nr_swapped(process) >= 8
    assert process.mincore(cold, 8 * PAGE) == bytes(8)
    check(machine)
    machine.shutdown()


@pytest.mark.parametrize("kind", [mmap.MAP_PRIVATE, mmap.MAP_SHARED])
def test_willneed_reads_swap_ahead(kind: int) -> None:
    machine = small()
    process = machine.spawn()
    mapping = process.mmap(-1, 16 * PAGE, kind)
    for page in range(16):
        process.store(mapping.vaddr + page * PAGE, stamp(page))
    push_out(machine)
    process.madvise(mapping.vaddr, 16 * PAGE, mmap.MADV_WILLNEED)
    assert process.mincore(mapping.vaddr, 16 * PAGE) == b"\1" * 16
    assert machine.vmstat.nr_swapcached == 16
    major = machine.vmstat.pgmajfault
    assert process.load(mapping.vaddr + 9 * PAGE, 8) == stamp(9)
    assert machine.vmstat.pgmajfault == major
    check(machine)
    machine.shutdown()


def test_a_cold_page_that_is_accessed_is_young_again(tmp_path: Path) -> None:
    """The flush that goes with the accessed bit: a TLB that keeps the page would never set it again."""
    machine, _ = virtual_machine()
    process = machine.spawn()
    mapping = process.mmap(str(make_file(tmp_path / "file", 1)), PAGE)
    young = []
    for _ in range(2):
        process.load(mapping.vaddr, 1)
        young.append(machine.format.pte_young(process.mm.pt.get(mapping.vaddr)))
        process.madvise(mapping.vaddr, PAGE, MADV_COLD)
        young.append(machine.format.pte_young(process.mm.pt.get(mapping.vaddr)))
    assert young == [True, False] * 2
    machine.shutdown()
