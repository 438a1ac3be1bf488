"""A machine whose RAM is nearly full of memory that cannot be reclaimed goes on, or says that it is out of memory."""

import mmap
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import OutOfMemory
from tests.emu.mm.helpers import PAGE, make_file, stamp, virtual_machine

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@pytest.mark.parametrize("nr_anon", [241, 243, 246, 249, 252])
def test_page_just_faulted_in_is_used_before_it_is_reclaimed(nr_anon: int, tmp_path: Path) -> None:
    """Kswapd runs after each fault; if it took that fault's page every time, the access would never be done."""
    path = make_file(tmp_path / "file", 4)
    machine, _ = virtual_machine(ram=256 * PAGE)
    with machine:
        process = machine.spawn()
        file = process.mmap(str(path), 4 * PAGE)
        memory = process.mmap(-1, nr_anon * PAGE, PRIVATE)
        try:
            for page in range(nr_anon):
                memory[page * PAGE] = 1
            for turn in range(20):
                assert process.load(file.vaddr + turn % 4 * PAGE, 8) == stamp(turn % 4)
        except OutOfMemory:
            assert machine.vmstat.nr_oom
        assert machine.vmstat.pgfault < 1000
        check(machine)
