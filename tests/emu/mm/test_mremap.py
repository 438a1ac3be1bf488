"""mremap: what moves, what stays, and that no write is lost on the way."""

import errno
import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import SegmentationFault
from emu.machine import Machine
from emu.mm.mremap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from emu.mm.rmap import STRATEGIES
from emu.process import Process
from tests.emu.mm.helpers import NR_PAGES, PAGE, RW, fails_with, make_file, map_nonlinear, page_bytes, virtual_machine

FREE = 0x4000_0000
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


# Where remaps make VMAs, a remapped range is many mappings, which mremap refuses (EFAULT), here as in Linux.
@pytest.fixture(params=[name for name in STRATEGIES if name != "none" and not name.startswith("linear_vmas")])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    booted, _ = virtual_machine(rmap=request.param)
    yield booted
    booted.power_off()


@pytest.fixture
def process(machine: Machine) -> Process:
    return machine.spawn()


def test_moved_nonlinear_mapping_keeps_its_order_and_its_dirty_pages(
    machine: Machine, process: Process, tmp_path: Path
) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    mapping = map_nonlinear(process, path, NR_PAGES)
    process.store(mapping.vaddr, b"gen1")
    there = process.mremap(mapping.vaddr, mapping.nbytes, mapping.nbytes, MREMAP_MAYMOVE | MREMAP_FIXED, FREE)
    check(machine)
    assert there == FREE
    assert process.load(there + PAGE, PAGE) == page_bytes(NR_PAGES - 2)
    with pytest.raises(SegmentationFault):
        process.load(mapping.vaddr, 1)
    machine.sync()
    process.store(there, b"gen2")
    process.msync(there, PAGE)
    check(machine)
    assert path.read_bytes()[(NR_PAGES - 1) * PAGE :][:4] == b"gen2"


def test_part_of_a_nonlinear_mapping_moves(machine: Machine, process: Process, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    mapping = map_nonlinear(process, path, NR_PAGES)
    process.store(mapping.vaddr + 5 * PAGE, b"five")
    process.mremap(mapping.vaddr + 4 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, FREE)
    check(machine)
    assert process.load(FREE + PAGE, 4) == b"five"
    assert process.load(mapping.vaddr + 8 * PAGE, PAGE) == page_bytes(NR_PAGES - 9)
    machine.sync()
    process.store(FREE + PAGE, b"FIVE")
    process.msync(FREE, PAGE)
    assert path.read_bytes()[(NR_PAGES - 6) * PAGE :][:4] == b"FIVE"


def test_grows_in_place_shrinks_and_moves_when_it_must(machine: Machine, process: Process, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    where = process.sys_mmap(FREE, 4 * PAGE, 3, 1 | 0x10, path, 0)
    assert process.mremap(where, 4 * PAGE, 8 * PAGE, 0) == where
    assert process.load(where + 7 * PAGE, PAGE) == page_bytes(7)
    check(machine)
    assert process.mremap(where, 8 * PAGE, 2 * PAGE, 0) == where
    with pytest.raises(SegmentationFault):
        process.load(where + 2 * PAGE, 1)
    process.sys_mmap(where + 2 * PAGE, PAGE, 3, 2 | 0x30, -1, 0)
    with fails_with(errno.ENOMEM):
        process.mremap(where, 2 * PAGE, 4 * PAGE, 0)
    moved = process.mremap(where, 2 * PAGE, 4 * PAGE)
    assert moved != where
    assert process.load(moved + 3 * PAGE, PAGE) == page_bytes(3)
    check(machine)


def test_a_nonlinear_mapping_grows(machine: Machine, process: Process, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    where = process.sys_mmap(FREE, 4 * PAGE, 3, 1 | 0x10, path, 0)
    process.remap_file_pages(where, PAGE, 0, 9)
    process.store(where, b"nine")
    assert process.mremap(where, 4 * PAGE, 6 * PAGE, 0) == where
    check(machine)
    assert process.load(where, 4) == b"nine"
    assert process.load(where + 5 * PAGE, PAGE) == page_bytes(5)
    process.munmap(where, 6 * PAGE)
    check(machine)


def test_length_zero_duplicates_a_shared_mapping(machine: Machine, process: Process, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    mapping = process.mmap(path, 0)
    other = process.mremap(mapping.vaddr, 0, 2 * PAGE)
    process.store(other, b"seen")
    assert mapping[:4] == b"seen"
    check(machine)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((FREE + 1, PAGE, PAGE, MREMAP_MAYMOVE), errno.EINVAL),
        ((FREE, PAGE, 0, MREMAP_MAYMOVE), errno.EINVAL),
        ((FREE, PAGE, PAGE, 4), errno.EINVAL),
        ((FREE, PAGE, PAGE, MREMAP_FIXED, 2 * FREE), errno.EINVAL),
        ((FREE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, FREE + PAGE), errno.EINVAL),
        ((FREE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 2 * FREE + 1), errno.EINVAL),
        ((FREE, 5 * PAGE, 6 * PAGE, MREMAP_MAYMOVE), errno.EFAULT),
        ((2 * FREE, PAGE, 2 * PAGE, MREMAP_MAYMOVE), errno.EFAULT),
    ],
)
def test_errors(machine: Machine, process: Process, tmp_path: Path, arguments: tuple[int, ...], expected: int) -> None:
    process.sys_mmap(FREE, 4 * PAGE, 3, 1 | 0x10, make_file(tmp_path / "file", NR_PAGES), 0)
    with fails_with(expected):
        process.mremap(*arguments)
    check(machine)


def test_resize_of_a_mapping(machine: Machine, process: Process, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    mapping = process.mmap(path, 0)
    mapping.resize(20 * PAGE)
    mapping[19 * PAGE] = 7
    mapping.flush()
    check(machine)
    assert path.stat().st_size == 20 * PAGE
    assert path.read_bytes()[19 * PAGE] == 7
    mapping.resize(PAGE)
    assert path.stat().st_size == PAGE
    check(machine)


@pytest.mark.parametrize(("flags", "spare"), [(MREMAP_MAYMOVE, 4), (MREMAP_MAYMOVE | MREMAP_FIXED, 6)])
def test_a_move_needs_some_mappings_to_spare(flags: int, spare: int) -> None:
    """As measured on Linux 6.18: four below max_map_count for a move, six if it has to unmap what lies there."""
    machine, _ = virtual_machine(max_map_count=20)
    process = machine.spawn()
    vaddr = process.sys_mmap(FREE // 2, PAGE, RW, ANONYMOUS | 0x10, -1, 0)
    process.sys_mmap(vaddr + PAGE, PAGE, mmap.PROT_READ, ANONYMOUS | 0x10, -1, 0)
    others = [FREE * 2 + 2 * page * PAGE for page in range(20 - spare - 1)]
    for other in others:
        process.sys_mmap(other, PAGE, RW, ANONYMOUS | 0x10, -1, 0)
    assert process.mm.map_count == 20 - spare + 1
    with fails_with(errno.ENOMEM):
        process.mremap(vaddr, PAGE, 2 * PAGE, flags, FREE)
    assert process.mm.map_count == 20 - spare + 1
    process.munmap(others[0], PAGE)
    process.store(process.mremap(vaddr, PAGE, 2 * PAGE, flags, FREE), b"x" * 2 * PAGE)
    check(machine)
    machine.power_off()


@pytest.mark.parametrize("privileged", [False, True])
def test_the_bound_on_nonlinear_pages_holds_for_growth_and_copies(tmp_path: Path, *, privileged: bool) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(nonlinear_max_pages=8)
    process = machine.spawn(privileged=privileged)
    start = process.mmap(str(path), 6 * PAGE).vaddr
    process.remap_file_pages(start, PAGE, 0, 5)
    for old, new, flags in ((6, 9, 0), (6, 9, MREMAP_MAYMOVE), (0, 3, 1), (6, 6, MREMAP_DONTUNMAP | 1), (6, 9, 3)):
        if privileged:
            break
        with fails_with(errno.EPERM):
            process.mremap(start, old * PAGE, new * PAGE, flags, FREE)
        assert process.mm.nr_nonlinear == 6
    assert process.mremap(start, 6 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, FREE) == FREE
    if privileged:
        process.mremap(FREE, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE)
    child = process.fork()
    assert child.mm.nr_nonlinear == process.mm.nr_nonlinear == (16 if privileged else 8)
    check(machine)
    machine.power_off()


def test_what_dontunmap_leaves_behind_begins_anew(machine: Machine, process: Process, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    start = map_nonlinear(process, path, NR_PAGES).vaddr
    process.store(start, bytes(4 * PAGE))
    new = process.mremap(start + PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP)
    check(machine)
    # Where nothing says otherwise a page shows what a linear mapping would.
    assert process.load(start + 2 * PAGE, 8) == page_bytes(2)[:8]
    assert process.load(new + 4 * PAGE, 8) == page_bytes(NR_PAGES - 1 - 5)[:8]
    process.store(start + 2 * PAGE, b"left")
    check(machine)
    machine.sync()
    process.store(start + 2 * PAGE, b"late")
    process.msync(start, NR_PAGES * PAGE)
    assert path.read_bytes()[2 * PAGE :][:4] == b"late"
    check(machine)
