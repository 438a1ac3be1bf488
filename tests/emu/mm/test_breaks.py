"""Each named break makes a correct strategy lose writes; without it the same scenario loses none."""

import contextlib
import mmap
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import KernelBug
from emu.machine import Machine
from emu.process import Process
from tests import breaks
from tests.emu.mm.helpers import PAGE, RO, RW, make_file, map_nonlinear, on_disk, stamp, virtual_machine

NR_PAGES = 16
FORMATS = ("x86_64", "i386")

# Stores, writes back, stores again, syncs. Returns the check's complaints on the way.
Scenario = Callable[[Machine, Process, Path], None]


def store_all(process: Process, vaddr: int, order: list[int], generation: int) -> None:
    for place, pgoff in enumerate(order):
        process.store(vaddr + place * PAGE, stamp(pgoff, generation))


REVERSED = list(range(NR_PAGES))[::-1]


def plain(machine: Machine, process: Process, path: Path) -> None:
    """Nonlinear; generation 1, writeback, generation 2."""
    mapping = map_nonlinear(process, path, NR_PAGES)
    store_all(process, mapping.vaddr, REVERSED, 1)
    machine.sync()
    store_all(process, mapping.vaddr, REVERSED, 2)


def forked(machine: Machine, process: Process, path: Path) -> None:
    """The child inherits writable PTEs, and stores through them after a writeback."""
    mapping = map_nonlinear(process, path, NR_PAGES)
    store_all(process, mapping.vaddr, REVERSED, 1)
    child = process.fork()
    machine.sync()
    store_all(child, mapping.vaddr, REVERSED, 2)


def protected(machine: Machine, process: Process, path: Path) -> None:
    """mprotect read-only, writeback, mprotect read-write, store."""
    mapping = map_nonlinear(process, path, NR_PAGES)
    store_all(process, mapping.vaddr, REVERSED, 1)
    process.mprotect(mapping.vaddr, mapping.nbytes, RO)
    machine.sync()
    process.mprotect(mapping.vaddr, mapping.nbytes, RW)
    store_all(process, mapping.vaddr, REVERSED, 2)


def converted(machine: Machine, process: Process, path: Path) -> None:
    """A linear mapping with writable PTEs becomes nonlinear (its first two pages change places)."""
    mapping = process.mmap(str(path), NR_PAGES * PAGE)
    store_all(process, mapping.vaddr, list(range(NR_PAGES)), 1)
    process.remap_file_pages(mapping.vaddr, PAGE, 0, 1)
    process.remap_file_pages(mapping.vaddr + PAGE, PAGE, 0, 0)
    machine.sync()
    store_all(process, mapping.vaddr, [1, 0, *range(2, NR_PAGES)], 2)


SCENARIOS: dict[str, Scenario] = {
    "no TLB flush in mkclean": plain,
    "no index entry at fork": forked,
    "none at mprotect": protected,
    "none at conversion": converted,
}


def lost_pages(
    scenario: Scenario,
    rmap: str,
    fmt: str,
    path: Path,
    broken: Callable[[Machine], AbstractContextManager[None]] | None,
) -> tuple[int, bool]:
    """Return how many pages lost generation 2 after a successful sync, and whether `check` saw the break coming."""
    make_file(path, NR_PAGES)
    machine, _ = virtual_machine(rmap=rmap, format=fmt)
    caught = False
    with contextlib.ExitStack() as stack:
        if broken is not None:
            stack.enter_context(breaks.forgetful_index(machine))
            stack.enter_context(broken(machine))
        process = machine.spawn()
        scenario(machine, process, path)
        try:
            check(machine)
        except KernelBug:
            caught = True
        vma = process.vmas[0]
        process.msync(vma.start, vma.end - vma.start)
        machine.power_off()
    return sum(on_disk(path, pgoff) != stamp(pgoff, 2) for pgoff in range(NR_PAGES)), caught


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("rmap", ["scan", "dirty_index"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_without_a_break(name: str, rmap: str, fmt: str, tmp_path: Path) -> None:
    assert lost_pages(SCENARIOS[name], rmap, fmt, tmp_path / "file", None) == (0, False)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_break_makes_dirty_index_lose_writes_and_check_sees_it(name: str, fmt: str, tmp_path: Path) -> None:
    lost, caught = lost_pages(SCENARIOS[name], "dirty_index", fmt, tmp_path / "file", breaks.LOSING[name])
    assert lost > 0
    assert caught, "check does not see it"


@pytest.mark.parametrize("fmt", FORMATS)
def test_without_the_flush_scan_loses_writes_too(fmt: str, tmp_path: Path) -> None:
    broken = breaks.LOSING["no TLB flush in mkclean"]
    lost, caught = lost_pages(plain, "scan", fmt, tmp_path / "file", broken)
    assert lost > 0
    assert caught


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_none_loses_writes_without_any_break(name: str, fmt: str, tmp_path: Path) -> None:
    lost, _ = lost_pages(SCENARIOS[name], "none", fmt, tmp_path / "file", None)
    assert lost > 0
    # All but the two pages that the conversion itself took out of their PTEs.
    assert lost == {"none at conversion": NR_PAGES - 2}.get(name, NR_PAGES)


def test_the_index_says_itself_that_an_entry_is_missing(tmp_path: Path) -> None:
    machine, _ = virtual_machine(rmap="dirty_index")
    process = machine.spawn()
    path = make_file(tmp_path / "file", NR_PAGES)
    with breaks.no_index_at_conversion(machine):
        mapping = process.mmap(str(path), NR_PAGES * PAGE)
        process.store(mapping.vaddr, b"x")
        process.remap_file_pages(mapping.vaddr + PAGE, PAGE, 0, 0, 0)
    with pytest.raises(KernelBug, match="dirty_index lacks"):
        check(machine)
    with pytest.raises(KernelBug, match="dirty_index has no entry"):
        process.madvise(mapping.vaddr, mapping.nbytes, mmap.MADV_DONTNEED)
    machine.power_off()


@pytest.mark.parametrize("rmap", ["scan", "dirty_index"])
def test_a_remote_cpu_must_be_flushed(rmap: str, tmp_path: Path) -> None:
    """The process runs on CPU 1, writeback on CPU 0."""

    def scenario(machine: Machine, process: Process, path: Path) -> None:
        machine.kernel.cpu = 1
        mapping = map_nonlinear(process, path, NR_PAGES)
        store_all(process, mapping.vaddr, REVERSED, 1)
        machine.kernel.cpu = 0
        before = machine.vmstat.nr_tlb_remote_flush
        machine.sync()
        flushed.append(machine.vmstat.nr_tlb_remote_flush - before)
        machine.kernel.cpu = 1
        store_all(process, mapping.vaddr, REVERSED, 2)

    flushed: list[int] = []
    losses = []
    for broken in (None, lambda _machine: breaks.no_remote_flush_in_mkclean()):
        make_file(tmp_path / "file", NR_PAGES)
        machine, _ = virtual_machine(rmap=rmap, cpus=2)
        with contextlib.nullcontext() if broken is None else broken(machine):
            process = machine.spawn()
            scenario(machine, process, tmp_path / "file")
            if broken is None:
                check(machine)
            else:
                with pytest.raises(KernelBug, match="CPU 1"):
                    check(machine)
            process.msync(process.vmas[0].start, NR_PAGES * PAGE)
            machine.power_off()
        losses.append(sum(on_disk(tmp_path / "file", page) != stamp(page, 2) for page in range(NR_PAGES)))
    assert losses[0] == 0
    assert losses[1] > 0
    assert flushed[0] >= NR_PAGES
    assert flushed[1] == 0
