"""Reads of private memory that was never written share the zero page."""

import mmap

from emu.check import check
from tests.emu.mm.helpers import PAGE, RO, RW, virtual_machine


def test_reads_map_one_page_and_the_first_store_copies_it() -> None:
    machine, _ = virtual_machine()
    process = machine.spawn()
    mapping = process.mmap(-1, 16 * PAGE, mmap.MAP_PRIVATE)
    process.store(mapping.vaddr, b"table")
    free = machine.kernel.ram.nr_free
    assert process.load(mapping.vaddr + PAGE, 15 * PAGE) == bytes(15 * PAGE)
    assert machine.kernel.ram.nr_free == free
    check(machine)
    process.store(mapping.vaddr + 5 * PAGE, b"x")
    assert machine.kernel.ram.nr_free == free - 1
    assert process.load(mapping.vaddr + 6 * PAGE, PAGE) == bytes(PAGE)
    assert process.load(mapping.vaddr + 5 * PAGE, 2) == b"x\0"
    assert machine.vmstat.nr_cow == 1
    check(machine)
    machine.shutdown()


def test_the_zero_page_survives_every_change_of_its_mappings() -> None:
    machine, _ = virtual_machine()
    process = machine.spawn()
    mapping = process.mmap(-1, 8 * PAGE, mmap.MAP_PRIVATE)
    process.load(mapping.vaddr, 8 * PAGE)
    process.mprotect(mapping.vaddr, 8 * PAGE, RO)
    process.mprotect(mapping.vaddr, 8 * PAGE, RW)
    process.mprotect(mapping.vaddr, PAGE, RO)
    process.mlock(mapping.vaddr, PAGE)
    assert machine.vmstat.nr_mlock == 0
    check(machine)
    process.munlock(mapping.vaddr, PAGE)
    process.mprotect(mapping.vaddr, 8 * PAGE, RW)
    process.store(mapping.vaddr + PAGE, b"x")
    child = process.fork()
    child.store(mapping.vaddr + 2 * PAGE, b"y")
    assert process.load(mapping.vaddr + 2 * PAGE, PAGE) == bytes(PAGE)
    moved = process.mremap(mapping.vaddr, 8 * PAGE, 8 * PAGE, 3, mapping.vaddr - (1 << 24))
    process.madvise(moved, 8 * PAGE, mmap.MADV_DONTNEED)
    check(machine)
    child.exit()
    process.exit()
    check(machine)
    assert machine.kernel.mem_map.refcount[machine.kernel.zero_pfn] == 1
    machine.shutdown()
