"""What memory counts for the dirty limits: what is free above the reserve, and the file pages that can be cleaned."""

import errno
import mmap
from pathlib import Path

import pytest

from emu.check import check
from emu.machine import Machine
from emu.mm.page_writeback import global_dirty_limits
from emu.mm_types.page import ACTIVE, INACTIVE
from emu.process import Process
from fsbackend.throttle import DirtyParams
from tests import breaks
from tests.emu.mm.helpers import PAGE, fails_with, make_file, virtual_machine

NR_PAGES = 400


def dirtyable(machine: Machine) -> int:
    """Return the limit of a machine that lets all memory be dirtied that counts."""
    return global_dirty_limits(machine.kernel).dirty


def boot(**options: object) -> tuple[Machine, Process]:
    machine, _ = virtual_machine(huge_pages=False, params=DirtyParams(dirty_ratio=100, background_ratio=99), **options)
    return machine, machine.spawn()


def touch(process: Process, vaddr: int) -> None:
    for page in range(NR_PAGES):
        process.load(vaddr + page * PAGE, 1)


def lost(machine: Machine, process: Process, vaddr: int) -> int:
    """Return how many pages fewer could be dirty after a mapping was touched; page tables and the like are a few."""
    before = dirtyable(machine)
    touch(process, vaddr)
    check(machine)
    return before - dirtyable(machine)


def test_pages_of_a_disk_can_be_dirtied(tmp_path: Path) -> None:
    machine, process = boot()
    k = machine.kernel
    assert dirtyable(machine) == k.ram.nr_free - k.watermarks.high + 1
    mapping = process.mmap(str(make_file(tmp_path / "file", NR_PAGES)), 0)
    assert lost(machine, process, mapping.vaddr) < 5
    process.mlock(mapping.vaddr, 300 * PAGE)
    assert dirtyable(machine) == k.ram.nr_free - k.watermarks.high + 1 + 100
    check(machine)
    machine.shutdown()


def test_ramfs_pages_cannot(tmp_path: Path) -> None:
    machine, process = boot(plain_caps="ramfs")
    mapping = process.mmap(str(make_file(tmp_path / "file", NR_PAGES)), 0)
    assert lost(machine, process, mapping.vaddr) >= NR_PAGES
    machine.shutdown()


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_anonymous_memory_cannot_on_swap_or_off(flags: int) -> None:
    machine, process = boot(swap=(NR_PAGES + 1) * PAGE)
    vaddr = process.mmap(-1, NR_PAGES * PAGE, flags).vaddr
    before = dirtyable(machine)
    for page in range(NR_PAGES):
        process.store(vaddr + page * PAGE, b"x")
    assert before - dirtyable(machine) >= NR_PAGES
    assert machine.kernel.lru.nr_file == [0, 0, 0]
    for _ in range(4):
        machine.kernel.try_to_free_pages(machine.kernel, NR_PAGES)
    machine.kernel.io.wait_all()
    check(machine)
    touch(process, vaddr)
    check(machine)
    assert machine.vmstat.pswpin > 0
    lru = machine.kernel.lru
    assert lru.nr_file[ACTIVE] + lru.nr_file[INACTIVE] == 0
    machine.shutdown()


def test_a_page_that_could_not_be_written_was_dirtied_once(tmp_path: Path) -> None:
    machine, process = boot()
    mapping = process.mmap(str(make_file(tmp_path / "file", 8)), 0)
    process.store(mapping.vaddr, b"x" * 8 * PAGE)
    bdi = next(iter(machine.kernel.bdis.values()))
    with breaks.failing_writes(errno.EIO), fails_with(errno.EIO):
        mapping.flush()
    assert (machine.vmstat.nr_dirty, machine.vmstat.nr_dirtied, bdi.nr_dirtied) == (8, 8, 8)
    assert process.mm.nr_dirtied == 8, "nor does its process pay for it again"
    check(machine)
    mapping.flush()
    assert (machine.vmstat.nr_dirty, machine.vmstat.nr_dirtied, bdi.nr_dirtied) == (0, 8, 8)
    machine.shutdown()
