"""Mappings of most of an address space, of which a few pages are there: nothing may be sized by what lies between."""

import errno
import mmap
from pathlib import Path

import numpy as np
import pytest

from emu.check import check
from emu.machine import Machine
from emu.mm.rmap import STRATEGIES
from tests.emu.mm.helpers import fails_with, virtual_machine

FORMATS = {"x86_64": 46, "x86_64_la57": 55, "sv57": 55, "arm64_64k": 47}
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
SHARED = mmap.MAP_SHARED
MOST_PAGES = {"shadow": (1 << 32) - 1, "slot_chain": (1 << 31) - 1}
"""Nonlinear pages that a reverse map can name, where that is bounded: its entries have 4 bytes."""
RW = mmap.PROT_READ | mmap.PROT_WRITE


def _machine(fmt: str, **options: object) -> Machine:
    machine, _ = virtual_machine(format=fmt, ram="16M", overcommit_memory=1, **options)
    return machine


@pytest.mark.parametrize("fmt", FORMATS)
def test_pages_at_both_ends_are_copied_protected_moved_and_unmapped(fmt: str) -> None:
    machine = _machine(fmt)
    nbytes, page = 1 << FORMATS[fmt] - 1, machine.kernel.page_size
    process = machine.spawn()
    start = process.sys_mmap(0, nbytes, RW, ANONYMOUS, -1, 0)
    ends = (start, start + nbytes - page)
    for vaddr in ends:
        process.store(vaddr, b"parent")
    child = process.fork()
    for vaddr in ends:
        child.store(vaddr, b"child!")
        assert process.load(vaddr, 6) == b"parent"
    process.mprotect(start, nbytes, mmap.PROT_READ)
    moved = process.mremap(start, nbytes, nbytes, 3, start - nbytes)
    assert process.load(moved + nbytes - page, 6) == b"parent"
    check(machine)
    process.munmap(moved, nbytes)
    check(machine)
    assert not process.mm.pt.leaves
    machine.shutdown()


@pytest.mark.parametrize("rmap", STRATEGIES)
@pytest.mark.parametrize("fmt", FORMATS)
def test_pages_far_apart_are_remapped_in_one_call(fmt: str, rmap: str, tmp_path: Path) -> None:
    machine = _machine(fmt, rmap=rmap)
    nbytes, page = 1 << FORMATS[fmt], machine.kernel.page_size
    path = tmp_path / "file"
    path.write_bytes(bytes(16 * page))
    process = machine.spawn()
    start = process.sys_mmap(0, nbytes, RW, SHARED, str(path), 0)
    process.store(start, b"linear")
    vaddrs = np.array([start, start + nbytes - page, start + nbytes // 2, start], np.uint64)
    if nbytes // page > MOST_PAGES.get(rmap, nbytes):
        with fails_with(errno.ENOMEM):
            process.remap_file_pages_bulk(vaddrs, [3, 4, 5, 6])
        assert not any(vma.nonlinear for vma in process.vmas)
    else:
        process.remap_file_pages_bulk(vaddrs, [3, 4, 5, 6])
        for vaddr, data in zip(vaddrs[1:].tolist(), (b"four", b"five", b"six!"), strict=True):
            process.store(vaddr, data)
        process.msync(start, nbytes)
        assert [path.read_bytes()[pgoff * page :][:4] for pgoff in (4, 5, 6)] == [b"four", b"five", b"six!"]
    assert path.read_bytes()[3 * page :][:4] == bytes(4)
    process.munmap(start, nbytes)
    check(machine)
    machine.shutdown()
    assert path.read_bytes()[:6] == b"linear"
