"""What a review of the emulated kernel found wrong against Linux 2.6.20 to 2.6.24, with the case that showed it."""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import BusError, SegmentationFault
from emu.machine import Machine
from emu.mapping import Mapping
from emu.mm.page_writeback import mark_clean_if_so, write_cache_pages
from emu.mm.truncate import truncate_inode_pages
from tests.emu.mm.helpers import PAGE, RW, fails_with, make_file, on_disk, stamp, virtual_machine


@contextmanager
def interleaved(machine: Machine, point: str, action: Callable[[], object]) -> Iterator[None]:
    """Do something once, when the kernel first reaches a named point."""
    k = machine.kernel

    def preempt(name: str) -> None:
        if name == point:
            k.preempt = None
            action()

    k.preempt = preempt
    yield
    k.preempt = None


def _failing_pwritev(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_short_host_read_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host read that ends before the end of the file must not leave zeroes in the page cache."""
    path = make_file(tmp_path / "file", 16)
    machine, _ = virtual_machine(readahead=16)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, parts, first: preadv(fd, parts[:3], first))
    with machine:
        process = machine.spawn()
        mapping = process.mmap(str(path), 16 * PAGE)
        assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(16)] == [stamp(p) for p in range(16)]


def test_error_behind_a_short_host_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages before a bad sector can be read, the bad one is a SIGBUS, never zeroes."""
    path = make_file(tmp_path / "file", 16)
    machine, _ = virtual_machine(readahead=16)
    preadv = os.preadv

    def bad_sector(fd: int, parts: list[memoryview], first: int) -> int:
        good = max(5 - first // PAGE, 0) if first // PAGE <= 5 else len(parts)
        if not good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, parts[:good], first)

    monkeypatch.setattr(os, "preadv", bad_sector)
    with machine:
        process = machine.spawn()
        mapping = process.mmap(str(path), 16 * PAGE)
        for page in range(16):
            if page == 5:
                with pytest.raises(BusError):
                    process.load(mapping.vaddr + page * PAGE, 8)
            else:
                assert process.load(mapping.vaddr + page * PAGE, 8) == stamp(page)


def test_sync_reports_what_the_flusher_had_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that was submitted before sync() and fails during it is an error of sync()."""
    path = make_file(tmp_path / "file", 4)
    machine, _ = virtual_machine(io_depth=2)
    with machine:
        mapping = machine.spawn().mmap(str(path), 4 * PAGE)
        mapping[0] = 1
        assert mapping.file is not None
        cached = machine.kernel.mappings[next(iter(machine.kernel.mappings))]
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwritev", _failing_pwritev)
            write_cache_pages(machine.kernel, cached, 0, 4, sync=False)
            mark_clean_if_so(machine.kernel, cached)
            with fails_with(errno.EIO):
                machine.sync()
        assert machine.vmstat.nr_dirty == 1
    assert on_disk(path, 0)[0] == 1


def test_failed_write_back_does_not_keep_others_from_copy_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At shutdown files without writeback are copied out, whatever became of the other files."""
    memory, disk = make_file(tmp_path / "memory", 1), make_file(tmp_path / "disk", 1)
    machine, _ = virtual_machine(plain_caps="ramfs")
    process = machine.spawn()
    process.mmap(str(memory), PAGE)[0] = 77
    machine.kernel.options.plain_caps = "disk"
    process.mmap(str(disk), PAGE)[0] = 78
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwritev", _failing_pwritev)
        with fails_with(errno.EIO):
            machine.shutdown()
    assert on_disk(memory, 0)[0] == 77


def test_remap_with_vmas_keeps_shared_anonymous_memory() -> None:
    """Remapping all of it replaces its only VMA, which must not free the memory."""
    machine, _ = virtual_machine(rmap="linear_vmas")
    with machine:
        process = machine.spawn()
        mapping = process.mmap(-1, 4 * PAGE)
        for page in range(4):
            process.store(mapping.vaddr + page * PAGE, stamp(page))
        process.remap_file_pages(mapping.vaddr, 4 * PAGE, 0, 1)
        assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(3)] == [stamp(p) for p in (1, 2, 3)]
        check(machine)
        process.munmap(mapping.vaddr, 4 * PAGE)
        assert machine.vmstat.nr_file_pages == 0
        check(machine)


def _legacy(tmp_path: Path) -> tuple[Machine, Mapping]:
    machine, _ = virtual_machine(fault_path="legacy")
    return machine, machine.spawn().mmap(str(make_file(tmp_path / "file", 4)), 4 * PAGE)


def test_legacy_private_copy_of_a_truncated_page_is_refused(tmp_path: Path) -> None:
    """do_no_page() looks at truncate_count for a private copy, too."""
    path = make_file(tmp_path / "file", 4)
    machine, _ = virtual_machine(fault_path="legacy")
    with machine, path.open("r+b") as file:
        process, other = machine.spawn(), machine.spawn()
        mapping = process.mmap(file.fileno(), 4 * PAGE, mmap.MAP_PRIVATE)
        with (
            interleaved(machine, "nopage:looked_up", lambda: other.ftruncate(file.fileno(), PAGE)),
            pytest.raises(BusError),
        ):
            process.store(mapping.vaddr + 2 * PAGE, b"x")
        check(machine)


def test_legacy_orphan_can_be_remapped_and_stored_to(tmp_path: Path) -> None:
    """A page that left its file while it was being mapped is nobody's dirty page, and no endless fault."""
    machine, mapping = _legacy(tmp_path)
    with machine:
        k, process, vaddr = machine.kernel, mapping.process, mapping.vaddr
        cached = k.mappings[next(iter(k.mappings))]
        with interleaved(machine, "nopage:looked_up", lambda: truncate_inode_pages(k, cached, 2, 3)):
            process.load(vaddr + 2 * PAGE, 1)
        process.store(vaddr + 2 * PAGE, b"y")
        assert process.load(vaddr + 2 * PAGE, 1) == b"y"
        assert cached.pages.lookup(2) == 0
        with interleaved(machine, "nopage:looked_up", lambda: truncate_inode_pages(k, cached, 1, 2)):
            process.store(vaddr + PAGE, b"x")
        process.remap_file_pages(vaddr + PAGE, PAGE, 0, 3, 0)
        process.munmap(vaddr, 4 * PAGE)
        check(machine)


def test_mlock_stops_at_a_hole(tmp_path: Path) -> None:
    """What lies before the hole is locked, but not brought in; what lies behind it is not."""
    path = make_file(tmp_path / "file", 4)
    machine, _ = virtual_machine()
    with machine:
        process = machine.spawn()
        start = 0x1000000
        for page in (0, 2):
            process.sys_mmap(start + page * PAGE, PAGE, RW, mmap.MAP_SHARED | 0x10, str(path), 0)
        with fails_with(errno.ENOMEM):
            process.mlock(start, 3 * PAGE)
        assert (process.mm.locked_vm, machine.vmstat.nr_mlock) == (1, 0)
        process.load(start, 1)
        process.load(start + 2 * PAGE, 1)
        assert machine.vmstat.nr_mlock == 1
        check(machine)


def test_sparse_bulk_remap_makes_only_the_tables_it_needs(tmp_path: Path) -> None:
    """Two pages at the ends of a terabyte need two leaf tables."""
    path = make_file(tmp_path / "file", 8)
    machine, _ = virtual_machine()
    with machine:
        process = machine.spawn()
        start = process.sys_mmap(0, 1 << 40, RW, mmap.MAP_SHARED, str(path), 0)
        last = start + (1 << 40) - PAGE
        process.remap_file_pages_bulk([start, last], [5, 6])
        assert process.load(start, 8) == stamp(5)
        assert process.load(last, 8) == stamp(6)
        assert len(process.mm.pt.leaves) == 2
        check(machine)


@pytest.mark.parametrize("fmt", ["i386", "x86_64", "sv39", "arm64_4k"])
@pytest.mark.parametrize("vaddr", [-8, 1 << 32, 1 << 60, (1 << 64) - 8, 1 << 64, 1 << 70])
def test_numbers_that_are_no_addresses_are_segmentation_faults(vaddr: int, fmt: str) -> None:
    machine, _ = virtual_machine(format=fmt)
    with machine:
        process = machine.spawn()
        with pytest.raises(SegmentationFault):
            process.load(vaddr, 8)
        with pytest.raises(SegmentationFault):
            process.load_byte(vaddr)
        with pytest.raises(SegmentationFault):
            process.store_word(vaddr, 1)


@pytest.mark.parametrize("nbytes", [1 << 63, 1 << 70])
def test_truncate_to_a_length_that_no_file_has(nbytes: int, tmp_path: Path) -> None:
    machine, _ = virtual_machine()
    with machine, make_file(tmp_path / "file", 1).open("r+b") as file, fails_with(errno.EFBIG):
        machine.spawn().ftruncate(file.fileno(), nbytes)
