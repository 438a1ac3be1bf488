"""Errors of background writes: who is told at msync, and how often."""

import errno
from pathlib import Path

import pytest

from emu.mapping import Mapping
from emu.mm.flusher import sync_all
from emu.process import Process
from tests import breaks
from tests.emu.mm.helpers import NR_PAGES, PAGE, Lab, fails_with


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A file with one dirty page, whose background write has failed, and can be written since."""
    lab = Lab(tmp_path)
    lab.process.store(lab.at(0), b"x")
    with breaks.failing_writes(errno.ENOSPC):
        assert sync_all(lab.machine.kernel)
    assert not sync_all(lab.machine.kernel)
    return lab


def mapped(process: Process, lab: Lab) -> Mapping:
    return process.mmap(str(lab.path), NR_PAGES * PAGE)


def told(mapping: Mapping) -> None:
    """Expect the error, once."""
    with fails_with(errno.ENOSPC):
        mapping.flush()
    mapping.flush()


def test_an_error_that_somebody_was_told_is_no_news_to_who_maps_the_file_later(lab: Lab) -> None:
    told(lab.mapping)
    mapped(lab.machine.spawn(), lab).flush()


def test_an_error_that_nobody_was_told_is_news_to_who_maps_the_file_later(lab: Lab) -> None:
    told(mapped(lab.machine.spawn(), lab))
    told(lab.mapping)


def test_who_maps_a_file_again_opens_it_again(lab: Lab) -> None:
    other = lab.machine.spawn()
    mapped(other, lab).close()
    told(lab.mapping)
    again = mapped(other, lab)
    again.flush()
    mapped(other, lab).flush()


def test_a_second_mapping_does_not_make_a_process_forget(lab: Lab) -> None:
    second = mapped(lab.process, lab)
    told(mapped(lab.machine.spawn(), lab))
    mapped(lab.process, lab)
    told(second)
    lab.mapping.flush()


def test_a_child_shares_the_open_file(lab: Lab) -> None:
    child = lab.process.fork()
    with fails_with(errno.ENOSPC):
        child.msync(lab.at(0), PAGE)
    lab.process.msync(lab.at(0), PAGE)


def test_each_error_is_told_anew(lab: Lab) -> None:
    told(lab.mapping)
    other = mapped(lab.machine.spawn(), lab)
    lab.process.store(lab.at(1), b"y")
    with breaks.failing_writes(errno.EIO):
        assert sync_all(lab.machine.kernel)
    for mapping in (lab.mapping, other):
        with fails_with(errno.EIO):
            mapping.flush()
        mapping.flush()
