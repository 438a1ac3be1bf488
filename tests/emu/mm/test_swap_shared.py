"""Shared anonymous memory on swap: one slot for all who map it."""

import mmap
import random

import pytest

from emu.check import check
from emu.errors import BusError
from emu.mm.madvise import MADV_REMOVE
from emu.mm.mmap import MAP_NONBLOCK, MAP_NORESERVE
from tests.emu.mm.helpers import PAGE, RO, RW, stamp
from tests.emu.mm.test_swap import push_out, small
from tests.emu.mm.test_swap_errors import failing

NR_PAGES = 16
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS


@pytest.mark.parametrize(
    ("rmap", "fault_path", "io_depth"),
    [("scan", "merged", 0), ("dirty_index", "merged", 2), ("linear_vmas", "merged", 2), ("pte_chain", "legacy", 0)],
)
def test_more_than_the_ram_mapped_by_two_in_any_order(rmap: str, fault_path: str, io_depth: int) -> None:
    machine = small(ram=72 * PAGE, readahead=8, io_depth=io_depth, rmap=rmap, fault_path=fault_path)
    parent = machine.spawn()
    mapping = parent.mmap(-1, 128 * PAGE)
    rng = random.Random(7)
    order = list(range(128))
    rng.shuffle(order)
    parent.remap_file_pages_bulk([mapping.vaddr + place * PAGE for place in range(128)], order)
    child = parent.fork()
    newest = dict.fromkeys(range(128), 0)
    for step in range(1, 700):
        place = rng.randrange(128)
        one, vaddr = rng.choice((parent, child)), mapping.vaddr + place * PAGE
        assert one.load_word(vaddr) == newest[order[place]]
        if rng.random() < 0.6:
            one.store_word(vaddr, step)
            newest[order[place]] = step
        if step % 100 == 0:
            check(machine)
    assert machine.vmstat.pswpout > 50
    assert machine.vmstat.pswpin > 50
    child.exit()
    check(machine)
    parent.exit()
    machine.kernel.io.wait_all()
    check(machine)
    assert machine.kernel.swap.areas[0].inuse_pages == machine.vmstat.nr_file_pages == 0
    machine.shutdown()


def test_memory_is_made_page_by_page_where_it_is_touched() -> None:
    """Nothing is read, so there is no read-ahead, no major fault and no input; WILLNEED makes nothing."""
    machine = small(readahead=8)
    process = machine.spawn()
    mapping = process.mmap(-1, NR_PAGES * PAGE)
    process.madvise(mapping.vaddr, NR_PAGES * PAGE, mmap.MADV_WILLNEED)
    process.store(mapping.vaddr + 5 * PAGE, stamp(5))
    process.load(mapping.vaddr + 9 * PAGE, 1)
    assert [place for place, there in enumerate(process.mincore(mapping.vaddr, NR_PAGES * PAGE)) if there] == [5, 9]
    vmstat = machine.vmstat
    assert (vmstat.nr_file_pages, vmstat.pgmajfault, vmstat.pgpgin) == (2, 0, 0)
    push_out(machine)
    process.load(mapping.vaddr + 5 * PAGE, 1)
    assert vmstat.pgmajfault == 1
    machine.shutdown()


def test_noreserve_memory_is_promised_page_by_page_and_given_back() -> None:
    """v2.6.20 mm/shmem.c: shmem_acct_block(): what is there counts, on swap too."""
    machine = small()
    process = machine.spawn()
    vaddr = process.sys_mmap(0, NR_PAGES * PAGE, RW, SHARED | MAP_NORESERVE, -1, 0)
    seen = []

    def note() -> None:
        check(machine)
        seen.append(machine.kernel.vm_committed_as)

    note()
    for page in (0, 1, 9):
        process.store(vaddr + page * PAGE, stamp(page))
    process.load(vaddr + PAGE, 1)
    note()
    push_out(machine)
    note()
    process.load(vaddr, 8)
    process.madvise(vaddr + PAGE, 9 * PAGE, MADV_REMOVE)
    note()
    process.munmap(vaddr, NR_PAGES * PAGE)
    note()
    assert seen == [0, 3, 3, 1, 0]
    machine.shutdown()


def test_slots_go_with_a_hole_and_with_the_last_mapping() -> None:
    machine = small(page_cluster=0)
    process = machine.spawn()
    mapping = process.mmap(-1, NR_PAGES * PAGE)
    for page in range(NR_PAGES):
        process.store(mapping.vaddr + page * PAGE, stamp(page))
    push_out(machine)
    area = machine.kernel.swap.areas[0]
    assert (area.inuse_pages, machine.vmstat.nr_file_pages) == (NR_PAGES, 0)
    assert process.mincore(mapping.vaddr, NR_PAGES * PAGE) == bytes(NR_PAGES)
    process.madvise(mapping.vaddr, 4 * PAGE, 9)
    assert area.inuse_pages == 12
    assert process.load(mapping.vaddr, 4 * PAGE) == bytes(4 * PAGE)
    assert process.load(mapping.vaddr + 5 * PAGE, 8) == stamp(5)
    # In memory again, it holds no slot.
    assert area.inuse_pages == 11
    process.munmap(mapping.vaddr, 8 * PAGE)
    assert area.inuse_pages == 11
    process.munmap(mapping.vaddr + 8 * PAGE, 8 * PAGE)
    assert area.inuse_pages == 0
    check(machine)
    machine.shutdown()


def test_mlock_swapoff_and_memory_without_swap() -> None:
    machine = small(page_cluster=0)
    process = machine.spawn()
    mapping = process.mmap(-1, NR_PAGES * PAGE)
    for page in range(NR_PAGES):
        process.store(mapping.vaddr + page * PAGE, stamp(page))
    process.mlock(mapping.vaddr, 4 * PAGE)
    push_out(machine)
    assert machine.kernel.swap.areas[0].inuse_pages == 12
    process.munlock(mapping.vaddr, 4 * PAGE)
    push_out(machine)
    assert machine.kernel.swap.areas[0].inuse_pages == NR_PAGES
    machine.swapoff()
    check(machine)
    assert machine.vmstat.nr_file_pages == NR_PAGES
    push_out(machine)
    assert machine.vmstat.nr_file_pages == NR_PAGES
    process.mprotect(mapping.vaddr, NR_PAGES * PAGE, RO)
    assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(NR_PAGES)] == [*map(stamp, range(NR_PAGES))]
    machine.shutdown()


def test_nonlinear_pages_come_back_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = small(page_cluster=0)
    process = machine.spawn()
    mapping = process.mmap(-1, NR_PAGES * PAGE)
    for page in range(NR_PAGES):
        process.store(mapping.vaddr + page * PAGE, stamp(page))
    push_out(machine)
    process.remap_file_pages(mapping.vaddr, 2 * PAGE, 0, 10, MAP_NONBLOCK)
    process.remap_file_pages(mapping.vaddr + 2 * PAGE, 2 * PAGE, 0, 8)
    push_out(machine)
    with failing(monkeypatch, "preadv", range(1, 100)), pytest.raises(BusError, match="Input/output error"):
        process.load(mapping.vaddr, 8)
    check(machine)
    assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(5)] == [*map(stamp, (10, 11, 8, 9, 4))]
    machine.shutdown()
