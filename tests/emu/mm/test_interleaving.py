"""What the merge of nopage and populate into fault fixed, shown by interleavings at named preemption points."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.check import check
from emu.errors import BusError, KernelBug
from emu.machine import Machine
from emu.mm.inode import Inode
from emu.mm.mmap import MAP_NONBLOCK
from emu.mm.truncate import invalidate_inode_pages2, truncate_range
from tests.emu.mm.helpers import NR_PAGES, PAGE, make_file, page_bytes, virtual_machine
from tests.interleave import Interleave

if TYPE_CHECKING:
    from emu.mapping import Mapping
    from emu.process import Process

SHOWN = 3
"""The page of the mapping that the tests fault in."""

LOOKED_UP = {"merged": "fault:page_locked", "legacy": "nopage:looked_up"}


class Window:
    """A machine with one process that maps a file, linearly or in reverse, nothing faulted in yet."""

    def __init__(self, directory: Path, fault_path: str, *, nonlinear: bool) -> None:
        self.machine, _ = virtual_machine(fault_path=fault_path)
        self.path = make_file(directory / "file", NR_PAGES)
        self.process: Process = self.machine.spawn()
        self.mapping: Mapping = self.process.mmap(str(self.path), 0)
        self.pgoff = NR_PAGES - 1 - SHOWN if nonlinear else SHOWN
        if nonlinear:
            vaddrs = [self.mapping.vaddr + place * PAGE for place in range(NR_PAGES)]
            self.process.remap_file_pages_bulk(vaddrs, list(range(NR_PAGES))[::-1])
        self.vaddr = self.mapping.vaddr + SHOWN * PAGE
        self.kernel = self.machine.kernel

    @property
    def inode(self) -> Inode:
        assert isinstance(self.mapping.file, Inode)
        return self.mapping.file

    def punch(self) -> None:
        truncate_range(self.kernel, self.inode, self.pgoff, self.pgoff + 1)

    def invalidate(self) -> None:
        invalidate_inode_pages2(self.kernel, self.inode.mapping)

    def load(self) -> bytes:
        return self.process.load(self.vaddr, PAGE)


@pytest.fixture(params=["linear", "nonlinear"])
def nonlinear(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "nonlinear")


def _window(directory: Path, fault_path: str, *, nonlinear: bool) -> Iterator[Window]:
    window = Window(directory, fault_path, nonlinear=nonlinear)
    yield window
    window.machine.power_off()


@pytest.fixture
def merged(tmp_path: Path, nonlinear: bool) -> Iterator[Window]:
    yield from _window(tmp_path, "merged", nonlinear=nonlinear)


@pytest.fixture
def legacy(tmp_path: Path, nonlinear: bool) -> Iterator[Window]:
    yield from _window(tmp_path, "legacy", nonlinear=nonlinear)


def test_hole_punched_around_a_fault_leaves_a_stale_page_under_legacy(legacy: Window) -> None:
    with Interleave(legacy.kernel, "truncate:unmapped", lambda: _fault(legacy)):
        legacy.punch()
    # The file has zeroes there now; the process goes on seeing, and storing to, a page that belongs to nobody.
    assert legacy.load() == page_bytes(legacy.pgoff)
    with pytest.raises(KernelBug, match="maps a page of another file"):
        check(legacy.machine)


def test_hole_punched_around_a_fault_is_seen_under_merged(merged: Window) -> None:
    with Interleave(merged.kernel, "truncate:unmapped", lambda: _fault(merged)):
        merged.punch()
    check(merged.machine)
    assert merged.load() == bytes(PAGE)


def _fault(window: Window) -> None:
    assert window.load() == page_bytes(window.pgoff)


def test_invalidation_within_a_legacy_linear_fault_leaves_a_stale_page(tmp_path: Path) -> None:
    window = Window(tmp_path, "legacy", nonlinear=False)
    with Interleave(window.kernel, LOOKED_UP["legacy"], window.invalidate) as other:
        window.process.store(window.vaddr, b"lost")
    assert other.blocked == 0
    with pytest.raises(KernelBug, match="maps a page of another file"):
        check(window.machine)
    second = window.machine.spawn().mmap(str(window.path), 0)
    assert second[SHOWN * PAGE : SHOWN * PAGE + 4] != b"lost"
    window.process.msync(window.mapping.vaddr, window.mapping.nbytes)
    assert window.path.read_bytes()[SHOWN * PAGE : SHOWN * PAGE + 4] != b"lost"
    window.machine.power_off()


def test_invalidation_waits_for_the_page_lock_under_merged(merged: Window) -> None:
    with Interleave(merged.kernel, LOOKED_UP["merged"], merged.invalidate) as other:
        merged.process.store(merged.vaddr, b"kept")
    assert other.blocked == 1
    check(merged.machine)
    assert merged.load()[:4] == b"kept"
    merged.process.msync(merged.mapping.vaddr, merged.mapping.nbytes)
    assert merged.path.read_bytes()[merged.pgoff * PAGE :][:4] == b"kept"


@pytest.mark.parametrize("fault_path", ["merged", "legacy"])
def test_shortening_the_file_within_a_fault_leaves_nothing_stale(
    tmp_path: Path, fault_path: str, *, nonlinear: bool
) -> None:
    window = Window(tmp_path, fault_path, nonlinear=nonlinear)
    shorter = window.pgoff * PAGE

    def truncate() -> None:
        window.process.ftruncate(window.mapping, shorter)

    # Legacy: its guards, truncate_count and install_page's second look at i_size, cover this case. Merged: the truncate
    # waits for the page lock, then unmaps what the fault has mapped, before the load comes to its second try.
    with (
        Interleave(window.kernel, LOOKED_UP[fault_path], truncate) as other,
        pytest.raises(BusError, match=r"beyond the end|truncated meanwhile"),
    ):
        window.load()
    assert other.blocked == (fault_path == "merged")
    check(window.machine)
    with pytest.raises(BusError):
        window.load()
    window.machine.power_off()


@pytest.mark.parametrize("fault_path", ["merged", "legacy"])
def test_shortening_the_file_within_a_private_store_leaves_no_copy(tmp_path: Path, fault_path: str) -> None:
    """v2.6.23 mm/memory.c: vmtruncate(): the page lock keeps the page, not the copy that is made under it."""
    window = Window(tmp_path, fault_path, nonlinear=False)
    private = window.process.mmap(str(window.path), 0, mmap.MAP_PRIVATE)
    vaddr = private.vaddr + SHOWN * PAGE

    def truncate() -> None:
        window.process.ftruncate(window.mapping, PAGE)

    with Interleave(window.kernel, LOOKED_UP[fault_path], truncate) as other:
        if fault_path == "merged":
            window.process.store(vaddr, b"mine")
        else:
            with pytest.raises(BusError):
                window.process.store(vaddr, b"mine")
    assert other.blocked == (fault_path == "merged")
    check(window.machine)
    with pytest.raises(BusError):
        window.process.load(vaddr, 4)
    window.machine.power_off()


@pytest.mark.parametrize(("fault_path", "faults"), [("merged", 1), ("legacy", 2)])
def test_first_store_to_a_nonlinear_page_faults_once_or_twice(tmp_path: Path, fault_path: str, faults: int) -> None:
    window = Window(tmp_path, fault_path, nonlinear=True)
    window.process.store_word(window.vaddr, 1)
    vmstat = window.machine.vmstat
    assert (vmstat.pgfault, vmstat.nr_do_wp_page, vmstat.nr_page_mkwrite) == (faults, faults - 1, 1)
    check(window.machine)
    window.machine.power_off()


@pytest.mark.parametrize("fault_path", ["merged", "legacy"])
def test_first_store_where_nothing_was_remapped_faults_once(tmp_path: Path, fault_path: str) -> None:
    """v2.6.20 mm/memory.c: handle_pte_fault(): a none PTE goes to ->nopage in a nonlinear VMA, too."""
    window = Window(tmp_path, fault_path, nonlinear=False)
    other = (SHOWN + 1) * PAGE
    window.process.remap_file_pages(window.mapping.vaddr + other, PAGE, 0, 0, 0x10000)
    window.process.store_word(window.vaddr, 1)
    vmstat = window.machine.vmstat
    assert (vmstat.pgfault, vmstat.nr_do_wp_page, vmstat.nr_nonlinear_fault) == (1, 0, 0)
    check(window.machine)
    window.machine.power_off()


@pytest.mark.parametrize("rmap", ["scan", "dirty_index"])
def test_legacy_path_runs_the_ordinary_cases(tmp_path: Path, rmap: str) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    with Machine(ram=1024 * PAGE, rmap=rmap, fault_path="legacy", io_depth=0) as machine:
        process = machine.spawn()
        mapping = process.mmap(str(path), 0)
        private = process.mmap(str(path), 0, mmap.MAP_PRIVATE)
        for place in range(NR_PAGES):
            process.remap_file_pages(mapping.vaddr + place * PAGE, PAGE, 0, NR_PAGES - 1 - place)
        private[:4] = b"mine"
        for generation in (b"old!", b"new!"):
            mapping[SHOWN * PAGE : SHOWN * PAGE + 4] = generation
            machine.sync()
            check(machine)
        assert private[:4] == b"mine"
    assert path.read_bytes()[(NR_PAGES - 1 - SHOWN) * PAGE :][:4] == b"new!"


@pytest.mark.parametrize("fault_path", ["merged", "legacy"])
def test_two_threads_of_a_process_store_to_one_private_page(tmp_path: Path, fault_path: str) -> None:
    """Both find nothing mapped and make a copy; the second to come must see the first one's PTE (pte_same)."""
    window = Window(tmp_path, fault_path, nonlinear=False)
    private = window.process.mmap(str(window.path), 0, mmap.MAP_PRIVATE)
    vaddr = private.vaddr + SHOWN * PAGE
    with Interleave(window.kernel, LOOKED_UP[fault_path], lambda: window.process.store(vaddr, b"first")):
        window.process.store(vaddr + 5, b" last")
    check(window.machine)
    assert window.process.load(vaddr, 10) == b"first last"
    window.machine.shutdown()


@pytest.mark.parametrize("nonlinear", [False, True])
def test_a_page_truncated_within_a_write_fault_is_not_mapped_again(tmp_path: Path, *, nonlinear: bool) -> None:
    window = Window(tmp_path, "merged", nonlinear=nonlinear)
    window.load()
    shorter = window.pgoff * PAGE
    with (
        Interleave(window.kernel, "wp:page_locked", lambda: window.process.ftruncate(window.mapping, shorter)) as other,
        pytest.raises(BusError, match="beyond the end"),
    ):
        window.process.store(window.vaddr, b"lost")
    # Its page is locked, but not its PTE: that has gone by the time that the fault goes on.
    assert other.blocked == 1
    check(window.machine)
    window.machine.power_off()


@pytest.mark.parametrize(
    ("fault_path", "point"), [("merged", "fault:before_set_pte"), ("legacy", "populate:checked")]
)
def test_a_page_remapped_within_its_fault_shows_what_the_remap_says(
    tmp_path: Path, fault_path: str, point: str
) -> None:
    """Both hold mmap_sem for reading, as faults and remaps of a nonlinear mapping do."""
    window = Window(tmp_path, fault_path, nonlinear=True)

    def remap() -> None:
        window.process.remap_file_pages(window.vaddr, PAGE, 0, 1, MAP_NONBLOCK)

    with Interleave(window.kernel, point, remap):
        assert window.load() == page_bytes(1)
    check(window.machine)
    window.machine.shutdown()


@pytest.mark.parametrize("fault_path", ["merged", "legacy"])
def test_a_page_that_is_about_to_be_truncated_is_beyond_the_end(tmp_path: Path, fault_path: str) -> None:
    """The length changes first: a fault that still finds the page in the cache must not map it any more."""
    window = Window(tmp_path, fault_path, nonlinear=False)
    other = window.machine.spawn()
    theirs = other.mmap(str(window.path), 0)
    window.load()
    found: list[str] = []

    def fault() -> None:
        with pytest.raises(BusError, match="beyond the end"):
            other.load(theirs.vaddr + SHOWN * PAGE, 1)
        found.append("SIGBUS")

    with Interleave(window.kernel, "truncate:size_set", fault):
        window.process.ftruncate(window.mapping, SHOWN * PAGE)
    assert found == ["SIGBUS"]
    check(window.machine)
    window.machine.power_off()
