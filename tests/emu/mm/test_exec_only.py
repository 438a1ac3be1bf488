"""PROT_EXEC alone: what may be executed can be read on x86 and on arm64 without EPAN, but not on RISC-V."""

import mmap
from contextlib import nullcontext
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import SegmentationFault
from emu.hw.mmu import AccessKind, kind_of
from emu.hw.pte import FORMATS
from emu.machine import Machine
from emu.mm.entry import access
from emu.process import Process
from tests.emu.mm.helpers import RO

EXEC, RWX = mmap.PROT_EXEC, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


def fetch(process: Process, vaddr: int) -> None:
    access(process.kernel, process.mm, vaddr, kind_of(AccessKind.FETCH, 1), 0)


def expected(name: str) -> nullcontext[None] | pytest.RaisesExc[SegmentationFault]:
    return pytest.raises(SegmentationFault, match="not readable") if name.startswith("sv") else nullcontext()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("i386", "x86_64", "sv32", "sv57", "arm64_16k") for kind in ("file", "private")),
        ("x86_64", "huge"),
        ("sv39", "huge"),
    ],
)
def test_execute_only(name: str, kind: str, tmp_path: Path) -> None:
    page = FORMATS[name].page_size
    with Machine(name, ram=2048 * page, io_depth=0) as machine:
        process = machine.spawn()
        if kind == "file":
            path = tmp_path / "file"
            path.write_bytes(b"A" * 2 * page)
            vaddr = process.mmap(str(path), 0, prot=EXEC).vaddr
        else:
            nr_pages = 2 if kind == "private" else 1200
            vaddr = process.mmap(-1, nr_pages * page, mmap.MAP_PRIVATE, prot=EXEC).vaddr
        fetch(process, vaddr)
        with expected(name):
            process.load_byte(vaddr)
        process.mprotect(vaddr, page, RO)
        value = process.load_byte(vaddr)
        assert value == (ord("A") if kind == "file" else 0)
        process.mprotect(vaddr, page, EXEC)
        with expected(name):
            process.load_byte(vaddr)
        fetch(process, vaddr)
        if kind != "file":
            process.mprotect(vaddr, page, RWX)
            process.store_byte(vaddr, 7)
            process.mprotect(vaddr, page, EXEC)
            with expected(name):
                process.load_byte(vaddr)
        with expected(name):
            process.load_byte(vaddr + page)
        check(machine)
