"""Private copies made while frames are so short that allocating the copy reclaims first."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import BusError, OutOfMemory
from emu.machine import Machine
from emu.mm import vmscan
from fsbackend.throttle import DirtyParams
from tests.emu.mm.helpers import PAGE, fails_with, make_file, stamp, virtual_machine

PRIVATE = mmap.MAP_PRIVATE
NEVER = DirtyParams(background_ratio=99, dirty_ratio=100)


@contextmanager
def nr_free(machine: Machine, nr_frames: int) -> Iterator[None]:
    """Hold all frames but so many, as memory would that nobody can reclaim."""
    held = []
    while machine.kernel.ram.nr_free > nr_frames:
        held.append(machine.kernel.ram.alloc_frame())
    yield
    for pfn in held:
        machine.kernel.ram.free_frame(pfn)


def stop_after(machine: Machine, point: str, times: int) -> None:
    """Let a loop without end fail instead."""
    left = [times]

    def count(name: str) -> None:
        left[0] -= name == point
        if not left[0]:
            pytest.fail(f"came to {point} {times} times")

    machine.kernel.preempt = count


@pytest.mark.parametrize("spare", range(5))
def test_a_store_to_a_shared_page_on_swap_ends(spare: int) -> None:
    """The copy needs a frame while the original, just read, is all that reclaim could take."""
    machine, _ = virtual_machine(ram=96 * PAGE, swap=101 * PAGE, huge_pages=False)
    kernel = machine.kernel
    parent = machine.spawn()
    mapping = parent.mmap(-1, PAGE, PRIVATE)
    parent.store(mapping.vaddr, stamp(1))
    child = parent.fork()
    child.load(mapping.vaddr, 1)
    while not parent.mm.swap_ents == child.mm.swap_ents == 1:
        kernel.try_to_free_pages(kernel, 1000)
    kernel.io.wait_all()
    kernel.try_to_free_pages(kernel, 1000)
    assert machine.vmstat.nr_swapcached == 0
    stop_after(machine, "swap:page_locked", 50)
    with nr_free(machine, kernel.watermarks.min - 1 + spare):
        child.store(mapping.vaddr, b"child")
        assert child.load(mapping.vaddr, 8) == b"child" + stamp(1)[5:]
        assert parent.load(mapping.vaddr, 8) == stamp(1)
        assert machine.vmstat.allocstall or spare > 2
    check(machine)
    machine.shutdown()


def test_without_a_frame_for_the_copy_it_is_out_of_memory() -> None:
    machine, _ = virtual_machine(ram=96 * PAGE, huge_pages=False)
    parent = machine.spawn()
    mapping = parent.mmap(-1, PAGE, PRIVATE)
    parent.store(mapping.vaddr, stamp(1))
    child = parent.fork()
    child.load(mapping.vaddr, 1)
    with nr_free(machine, 0), pytest.raises(OutOfMemory, match="no frame for a private copy"):
        child.store(mapping.vaddr, b"child")
    check(machine)
    machine.shutdown()


class Copier:
    """A file whose first 32 pages are dirty and on the inactive list, and a private mapping of it not yet copied."""

    def __init__(self, directory: Path, fault_path: str) -> None:
        self.path = make_file(directory / "file", 64)
        self.machine, _ = virtual_machine(huge_pages=False, params=NEVER, fault_path=fault_path)
        self.process = self.machine.spawn()
        self.mapping = self.process.mmap(str(self.path), 0, PRIVATE)
        self.store(63, b"a page table is there")
        writer = self.machine.spawn()
        shared = writer.mmap(str(self.path), 0)
        for page in range(32):
            writer.store(shared.vaddr + page * PAGE, stamp(page, 1))
        writer.exit()

    def store(self, page: int, what: bytes) -> None:
        self.process.store(self.mapping.vaddr + page * PAGE, what)


@pytest.fixture(params=["merged", "legacy"])
def copier(request: pytest.FixtureRequest, tmp_path: Path) -> Copier:
    return Copier(tmp_path, request.param)


def test_reclaim_for_a_copy_writes_the_neighbours_of_its_page(copier: Copier) -> None:
    machine = copier.machine
    with nr_free(machine, machine.kernel.watermarks.min):
        copier.store(5, b"mine")
    assert machine.vmstat.allocstall == 1
    assert machine.vmstat.nr_written == 32
    assert copier.process.load(copier.mapping.vaddr + 5 * PAGE, 8) == b"mine" + stamp(5, 1)[4:]
    check(machine)
    machine.shutdown()


def test_a_copy_that_fails_leaves_no_frame_behind(copier: Copier) -> None:
    machine = copier.machine
    machine.kernel.try_to_free_pages = lambda _kernel, _nr_pages: 0
    with nr_free(machine, 0), pytest.raises(OutOfMemory):
        copier.store(5, b"mine")
    with copier.path.open("r+b") as file:
        copier.process.ftruncate(file.fileno(), PAGE)
    with pytest.raises(BusError):
        copier.store(5, b"mine")
    check(machine)
    machine.shutdown()


def test_what_breaks_in_page_out_is_not_hidden(copier: Copier, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise OSError(5, "broken")

    kernel = copier.machine.kernel
    monkeypatch.setattr(vmscan, "_pageout", breaks)
    with fails_with(5):
        kernel.try_to_free_pages(kernel, 1000)
    copier.machine.power_off()
