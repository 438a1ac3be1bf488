"""Address spaces and TLBs: where the hardware tells them apart, and where a switch flushes."""

import mmap
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import BusError
from emu.hw.pte import FORMATS
from emu.hw.tlb import PRESETS
from emu.hw.tlb_dump import pwc_entries
from emu.machine import Machine
from emu.mm.fork import mm_alloc
from tests.emu.mm.helpers import make_file, virtual_machine

NR_PAGES = 8


def walks(machine: Machine) -> int:
    return machine.kernel.cpus[0].counters()["walks"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_switch_flushes_only_where_there_are_no_asids(name: str) -> None:
    page = FORMATS[name].page_size
    with Machine(name, ram=256 * page, huge_pages=False, io_depth=0) as machine:
        processes = [machine.spawn(), machine.spawn()]
        vaddrs = [process.mmap(-1, NR_PAGES * page, mmap.MAP_PRIVATE).vaddr for process in processes]
        before = 0
        for turn in range(4):
            if turn == 1:
                before = walks(machine)
            for number, process in enumerate(processes):
                for place in range(NR_PAGES):
                    vaddr = vaddrs[number] + place * page
                    if not turn:
                        process.store_byte(vaddr, number)
                    assert process.load_byte(vaddr) == number
        expected = 3 * 2 * NR_PAGES if name in {"i386", "i386_pae"} else 0
        assert walks(machine) - before == expected
        check(machine)


@pytest.mark.parametrize(("name", "remote"), [("i386", 0), ("i386_pae", 0), ("sv39", NR_PAGES), ("x86_64", NR_PAGES)])
def test_a_cpu_that_runs_another_holds_nothing_without_asids(name: str, remote: int, tmp_path: Path) -> None:
    machine, _ = virtual_machine(format=name, cpus=2)
    first, second = machine.spawn(), machine.spawn()
    mapping = first.mmap(str(make_file(tmp_path / "file", NR_PAGES)), 0)
    other = second.mmap(-1, 4096, mmap.MAP_PRIVATE)
    machine.kernel.cpu = 1
    first.load(mapping.vaddr, 1)
    second.store(other.vaddr, b"x")
    machine.kernel.cpu = 0
    for place in range(NR_PAGES):
        first.store(mapping.vaddr + place * 4096, b"x")
    before = machine.vmstat.nr_tlb_remote_flush
    mapping.flush()
    assert machine.vmstat.nr_tlb_remote_flush - before == remote
    machine.kernel.cpu = 1
    assert first.load(mapping.vaddr, 1) == b"x"
    check(machine)
    machine.shutdown()


@pytest.mark.parametrize(("name", "most"), [("sv32", 512), ("i386", 2048)])
def test_no_more_address_spaces_than_numbers(name: str, most: int) -> None:
    machine, _ = virtual_machine(format=name, ram="16M")
    kernel = machine.kernel
    mms = [mm_alloc(kernel) for _ in range(most - len(kernel.mms))]
    assert {mm.asid for mm in kernel.mms.values()} == set(range(most))
    with pytest.raises(MemoryError, match=f"more than {most} address spaces"):
        mm_alloc(kernel)
    assert len(mms) == len(kernel.mms)
    machine.power_off()


def test_a_lazy_cpu_that_runs_the_process_is_flushed_at_once() -> None:
    with Machine(ram="4M", cpus=2, lazy_tlb=True, huge_pages=False, io_depth=0) as machine:
        process = machine.spawn()
        memory = process.mmap(-1, 4096, mmap.MAP_PRIVATE)
        for cpu in (1, 0):
            machine.kernel.cpu = cpu
            process.store(memory.vaddr, b"here")
        process.madvise(memory.vaddr, 4096, mmap.MADV_DONTNEED)
        check(machine)
        machine.kernel.cpu = 1
        assert process.load(memory.vaddr, 4) == bytes(4)


def test_a_number_that_is_given_anew_brings_nothing_of_its_last_owner() -> None:
    """A lazy CPU keeps what it cached of a process that exits elsewhere; the next of that number must not see it."""
    with Machine("sv39", ram="4M", cpus=2, lazy_tlb=True, huge_pages=False, io_depth=0) as machine:
        k = machine.kernel
        process, other = machine.spawn(), machine.spawn()
        vaddr, asid = process.mmap(-1, 4096, mmap.MAP_PRIVATE).vaddr, process.mm.asid
        k.cpu = 1
        process.store(vaddr, b"mine")
        other.load(other.mmap(-1, 4096, mmap.MAP_PRIVATE).vaddr, 1)
        k.cpu = 0
        process.exit()
        k.next_ident = asid + 2048 * 3
        heir = machine.spawn()
        assert heir.mm.asid == asid
        assert heir.mmap(-1, 4096, mmap.MAP_PRIVATE, vaddr=vaddr).vaddr == vaddr
        check(machine)
        k.cpu = 1
        assert heir.load(vaddr, 4) == bytes(4)
        check(machine)


@pytest.mark.parametrize("name", ["i386", "x86_64", "sv57", "arm64_64k"])
def test_a_table_that_goes_without_any_page_leaves_the_page_walk_cache(name: str, tmp_path: Path) -> None:
    """There is nothing to flush for the pages' sake, but walks have led through the table."""
    machine, _ = virtual_machine(format=name, ram="16M", tlb=PRESETS["haswell"])
    page = machine.kernel.page_size
    process = machine.spawn()
    start = process.sys_mmap(0, page, mmap.PROT_READ, mmap.MAP_SHARED, str(make_file(tmp_path / "file", 0)), 0)
    for _ in range(2):
        with pytest.raises(BusError):
            process.load(start, 1)
    assert list(pwc_entries(machine.kernel.cpus[0]))
    process.munmap(start, page)
    assert not process.mm.pt.leaves
    check(machine)
    machine.shutdown()
