"""Large pages: used where they fit, on every format that has them, and split without a byte changed."""

import mmap
from collections.abc import Iterator

import numpy as np
import pytest

from emu.check import check
from emu.hw.mmu import AccessKind
from emu.hw.pte import FORMATS, get_format
from emu.machine import Machine
from emu.process import Process

MAP = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
RW = mmap.PROT_READ | mmap.PROT_WRITE
STORE = int(AccessKind.STORE)


def large_bytes(name: str) -> int:
    return 1 << get_format(name).levels[-2].shift


# A large page of arm64_64k has 512 MiB.
@pytest.fixture(params=[name for name in FORMATS if large_bytes(name) <= 32 << 20])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    ram = 6 * large_bytes(request.param) + (8 << 20)
    with Machine(request.param, ram=ram, junk=False, io_depth=0, overcommit_memory=1) as booted:
        yield booted
        check(booted)


def large_area(machine: Machine, process: Process, count: int = 2) -> int:
    """Map `count` large pages' worth of anonymous memory on a border of large pages."""
    nbytes = large_bytes(machine.format.name)
    where = 4 * nbytes
    return process.sys_mmap(where, count * nbytes, RW, MAP | 0x10, -1, 0)


def test_one_fault_maps_a_large_page_and_one_walk_fills_it(machine: Machine) -> None:
    process = machine.spawn()
    start = large_area(machine, process)
    nbytes = large_bytes(machine.format.name)
    vaddrs = np.arange(start, start + nbytes, process.page_size, dtype=np.uint64)
    process.run(vaddrs, STORE, vaddrs)
    assert (process.run(vaddrs, int(AccessKind.LOAD)) == vaddrs).all()
    assert (machine.vmstat.pgfault, machine.vmstat.thp_fault_alloc) == (1, 1)
    assert process.load(start + 8, 64) == bytes(64)
    check(machine)


def test_protecting_a_part_splits_and_keeps_the_bytes(machine: Machine) -> None:
    process = machine.spawn()
    start = large_area(machine, process)
    page = process.page_size
    process.store(start + 5 * page, b"five")
    process.mprotect(start + 4 * page, page, mmap.PROT_READ)
    assert process.load(start + 5 * page, 4) == b"five"
    assert not process.mm.pt.huge
    check(machine)
    process.munmap(start + 5 * page, page)
    check(machine)


def test_fork_splits_and_copies_on_write(machine: Machine) -> None:
    process = machine.spawn()
    start = large_area(machine, process, count=1)
    process.store(start, b"parent")
    child = process.fork()
    child.store(start, b"child!")
    assert (process.load(start, 6), child.load(start, 6)) == (b"parent", b"child!")
    check(machine)
    child.exit()
    process.exit()
    check(machine)


def test_small_pages_where_a_large_one_does_not_fit(machine: Machine) -> None:
    process = machine.spawn()
    nbytes = large_bytes(machine.format.name)
    where = process.sys_mmap(4 * nbytes + process.page_size, nbytes, RW, MAP | 0x10, -1, 0)
    process.store(where, b"small")
    assert machine.vmstat.thp_fault_alloc == 0
    check(machine)


def test_memory_runs_short_of_large_pages_before_it_runs_out(machine: Machine) -> None:
    process = machine.spawn()
    nbytes = large_bytes(machine.format.name)
    start = large_area(machine, process, count=12)
    for place in range(12):
        process.store(start + place * nbytes, b"x")
    assert machine.vmstat.thp_fault_alloc < 12
    assert machine.vmstat.thp_fault_fallback > 0
    check(machine)


def test_lazy_cpus_flush_when_they_come_back() -> None:
    with Machine(ram=8 << 20, cpus=2, lazy_tlb=True, huge_pages=False, io_depth=0) as machine:
        process, other = machine.spawn(), machine.spawn()
        where = process.sys_mmap(0x4000_0000, 1 << 16, RW, MAP | 0x10, -1, 0)
        machine.kernel.cpu = 1
        process.store(where, b"here")
        there = other.sys_mmap(0x4000_0000, 1 << 16, RW, MAP | 0x10, -1, 0)
        other.store(there, b"else")
        machine.kernel.cpu = 0
        process.madvise(where, 1 << 16, mmap.MADV_DONTNEED)
        assert machine.vmstat.nr_tlb_remote_flush == 0
        check(machine)
        machine.kernel.cpu = 1
        assert process.load(where, 4) == bytes(4)
        assert machine.vmstat.nr_tlb_lazy_flush == 1
        check(machine)
