"""check.py itself: each invariant broken by hand once, and seen."""

import re
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import KernelBug
from emu.mm.mmap import MAP_NONBLOCK
from emu.mm_types.page import UNEVICTABLE
from tests.emu.mm import broken_pages, broken_tables
from tests.emu.mm.helpers import PAGE
from tests.emu.mm.whole import BREAKS, Whole

assert broken_pages
assert broken_tables, "importing them is what fills BREAKS"


@pytest.mark.parametrize("fmt", ["x86_64", "i386"])
@pytest.mark.parametrize("name", BREAKS)
def test_each_invariant_is_seen_when_it_breaks(name: str, fmt: str, tmp_path: Path) -> None:
    lab = Whole(tmp_path, fmt)
    how, says = BREAKS[name]
    how(lab)
    with pytest.raises(KernelBug) as caught:
        check(lab.machine)
    assert any(re.search(says, line) for line in str(caught.value).splitlines()), str(caught.value)
    lab.machine.power_off()


def test_all_violations_are_reported_together(tmp_path: Path) -> None:
    lab = Whole(tmp_path, "x86_64")
    lab.k.vmstat.nr_dirty += 1
    lab.k.vmstat.nr_mapped += 1
    with pytest.raises(KernelBug) as caught:
        check(lab.machine)
    assert len(str(caught.value).splitlines()) == 2
    lab.machine.power_off()


def test_a_whole_machine_passes_at_every_stage_of_its_life(tmp_path: Path) -> None:
    for fmt in ("x86_64", "i386"):
        lab = Whole(tmp_path, fmt)
        lab.process.remap_file_pages(lab.at(3), 4 * PAGE, 0, 9, MAP_NONBLOCK)
        check(lab.machine)
        lab.process.mlock(lab.at(0), 2 * PAGE)
        check(lab.machine)
        assert lab.k.lru.nr[UNEVICTABLE] == 2
        lab.machine.sync()
        check(lab.machine)
        lab.process.exit()
        check(lab.machine)
        lab.machine.drop_caches()
        check(lab.machine)
        lab.machine.shutdown()
        check(lab.machine)
