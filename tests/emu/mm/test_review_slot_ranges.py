"""slot_chain: each VMA has the slots of its own pages, whatever is split, unmapped, mapped again and merged."""

import mmap
import random
from pathlib import Path

import pytest

from emu.check import check
from emu.mm.rmap.slot_chain import SlotChain
from tests.emu.mm.helpers import NR_PAGES, PAGE, RO, RW, make_file, map_nonlinear, virtual_machine


@pytest.mark.parametrize("hole", [0, 3, 6])
def test_hole_that_is_mapped_again_has_slots_of_its_own(hole: int, tmp_path: Path) -> None:
    """The part mapped anew merges with the rest, which must not lend it the slots of what was there before."""
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(rmap="slot_chain")
    with machine:
        process = machine.spawn()
        start = process.mmap(str(path), 8 * PAGE).vaddr
        process.remap_file_pages(start, PAGE, 0, 7)
        again = start + hole * PAGE
        process.munmap(again, 2 * PAGE)
        process.sys_mmap(again, 2 * PAGE, RW, mmap.MAP_SHARED | 0x10, str(path), hole * PAGE)
        process.remap_file_pages(again, PAGE, 0, 9)
        process.load(again + PAGE, 1)
        process.mprotect(again, 2 * PAGE, RO)
        process.mprotect(again, 2 * PAGE, RW)
        assert len(process.vmas) == 1
        process.remap_file_pages(again, PAGE, 0, 10)
        check(machine)
        process.munmap(start, 8 * PAGE)
        check(machine)
        assert isinstance(machine.kernel.rmap, SlotChain)
        assert machine.kernel.rmap.cost.nbytes == 0


def test_random_splits_and_merges_end_with_nothing_kept(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(rmap="slot_chain")
    rng = random.Random(5)
    with machine:
        process = machine.spawn()
        start = map_nonlinear(process, path, NR_PAGES).vaddr
        for _ in range(150):
            first, last = sorted(rng.sample(range(NR_PAGES + 1), 2))
            vaddr, nbytes = start + first * PAGE, (last - first) * PAGE
            action = rng.randrange(4)
            if action == 0:
                process.mprotect(vaddr, nbytes, rng.choice([RO, RW]))
            elif action == 1:
                process.sys_mmap(vaddr, nbytes, RW, mmap.MAP_SHARED | 0x10, str(path), first * PAGE)
            else:
                process.remap_file_pages(vaddr, PAGE, 0, rng.randrange(NR_PAGES))
            check(machine)
        process.exit()
        assert machine.kernel.rmap.cost.nbytes == 0
