"""Swap that fails to be read or written, and writes that are under way."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from emu.check import check
from emu.errors import BusError
from tests.emu.mm.helpers import PAGE, fails_with, stamp
from tests.emu.mm.test_swap import nr_swapped, push_out, small, written


@contextmanager
def failing(patch: pytest.MonkeyPatch, call: str, slots: range) -> Iterator[None]:
    real = getattr(os, call)

    def fail(fd: int, buffers: list[memoryview], first_byte: int) -> int:
        if set(range(first_byte // PAGE, first_byte // PAGE + len(buffers))) & set(slots):
            raise OSError(errno.EIO, "bad sector")
        return int(real(fd, buffers, first_byte))

    with patch.context() as inner:
        inner.setattr(os, call, fail)
        yield


def test_a_slot_that_cannot_be_read_is_a_sigbus_for_its_page_only(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = small()
    process = machine.spawn()
    mapping = written(process, 16)
    push_out(machine)
    with failing(monkeypatch, "preadv", range(5, 6)):
        bad = []
        for page in range(16):
            try:
                assert process.load(mapping.vaddr + page * PAGE, 8) == stamp(page)
            except BusError:
                bad.append(page)
        assert len(bad) == 1
        with pytest.raises(BusError, match="Input/output error"):
            process.load(mapping.vaddr + bad[0] * PAGE, 8)
        check(machine)
        with fails_with(errno.EIO):
            machine.swapoff()
        check(machine)
    assert process.load(mapping.vaddr + bad[0] * PAGE, 8) == stamp(bad[0])
    process.exit()
    machine.shutdown()


@pytest.mark.parametrize("io_depth", [0, 2])
def test_a_page_that_cannot_be_written_stays_in_memory(io_depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = small(io_depth=io_depth)
    process = machine.spawn()
    mapping = written(process, 16)
    with failing(monkeypatch, "pwritev", range(1, 1000)):
        push_out(machine)
        assert machine.vmstat.nr_write_errors > 0
        # Out of the page tables, but in the swap cache.
        assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(16)] == [stamp(p) for p in range(16)]
    assert machine.vmstat.pswpin == 0
    push_out(machine)
    assert nr_swapped(process) == 16
    assert [process.load(mapping.vaddr + page * PAGE, 8) for page in range(16)] == [stamp(page) for page in range(16)]
    check(machine)
    machine.shutdown()


def test_pages_are_stored_to_unmapped_and_shared_while_they_are_being_written() -> None:
    machine = small(io_depth=8)
    kernel = machine.kernel
    process = machine.spawn()
    mapping = written(process, 8)
    for page in range(8):
        process.load(mapping.vaddr + page * PAGE, 1)
    while not kernel.io.in_flight:
        kernel.try_to_free_pages(kernel, 1)
    assert machine.vmstat.nr_writeback > 0
    check(machine)
    written_to = [page for page in range(8) if nr_swapped(process)]
    for page in written_to[:4]:
        process.store(mapping.vaddr + page * PAGE, b"late")
    child = process.fork()
    process.munmap(mapping.vaddr + 4 * PAGE, 4 * PAGE)
    check(machine)
    kernel.io.wait_all()
    check(machine)
    push_out(machine)
    for page in range(4):
        for one in (process, child):
            assert one.load(mapping.vaddr + page * PAGE, 8) == b"late" + stamp(page)[4:]
    for page in range(4, 8):
        assert child.load(mapping.vaddr + page * PAGE, 8) == stamp(page)
    child.exit()
    process.exit()
    kernel.io.wait_all()
    check(machine)
    assert kernel.swap.areas[0].inuse_pages == 0
    machine.shutdown()


def test_power_off_in_the_middle_of_swapping() -> None:
    machine = small(io_depth=4)
    process = machine.spawn()
    written(process, 200)
    machine.power_off()
    assert not machine.kernel.swap.areas
