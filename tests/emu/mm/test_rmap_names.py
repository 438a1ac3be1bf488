"""How a reverse map names a PTE, late in a machine's life: mms and files share numbers that are never used twice."""

from pathlib import Path

import pytest

from emu.check import check
from tests.emu.mm.helpers import NR_PAGES, PAGE, make_file, map_nonlinear, virtual_machine


@pytest.mark.parametrize("fmt", ["i386", "x86_64"])
@pytest.mark.parametrize("ident", [2047, 2048, 1 << 20])
@pytest.mark.parametrize("rmap", ["pte_chain", "slot_chain", "dirty_index"])
def test_a_process_may_have_any_number(rmap: str, ident: int, fmt: str, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(format=fmt, rmap=rmap)
    machine.kernel.next_ident = ident
    process = machine.spawn()
    child = process.fork()
    for one in (process, child):
        mapping = map_nonlinear(one, path, NR_PAGES)
        for page in range(NR_PAGES):
            one.store(mapping.vaddr + page * PAGE, b"x")
    check(machine)
    machine.sync()
    check(machine)
    for _ in range(4):
        machine.kernel.try_to_free_pages(machine.kernel, 1000)
    check(machine)
    child.exit()
    process.exit()
    check(machine)
    machine.power_off()
