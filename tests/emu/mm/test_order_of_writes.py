"""Writes in flight when a file is cut or a hole is punched: they end first, or they would bring the bytes back."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from emu.machine import Machine
from emu.mm import truncate
from emu.mm.flusher import wb_do_writeback
from emu.mm.inode import Inode
from emu.mm.truncate import truncate_range
from tests.emu.mm.helpers import NR_PAGES, PAGE, make_file

A_WHILE_S = 0.3
"""How long a write waits for what must not come before it."""


@pytest.mark.parametrize("what", ["ftruncate", "punch_hole"])
def test_a_write_in_flight_ends_before_what_takes_its_page(what: str, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    order: list[str] = []
    changed = threading.Event()
    real_write, real_truncate, real_punch = os.pwritev, os.ftruncate, truncate.punch_hole

    def pwritev(*arguments: Any) -> int:
        changed.wait(A_WHILE_S)
        order.append("write")
        return real_write(*arguments)

    def noted(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            order.append("change")
            changed.set()
            real(*arguments)

        return call

    with Machine(ram="4M", io_depth=1) as machine:
        process = machine.spawn()
        mapping = process.mmap(str(path), NR_PAGES * PAGE)
        process.store(mapping.vaddr + 9 * PAGE, b"x")
        with (
            patch.object(os, "pwritev", pwritev),
            patch.object(os, "ftruncate", noted(real_truncate)),
            patch.object(truncate, "punch_hole", noted(real_punch)),
        ):
            machine.kernel.kthreads.flusher_next_s = 0.0
            machine.kernel.params = machine.kernel.params.with_(expire_s=0.0)
            wb_do_writeback(machine.kernel)
            assert machine.vmstat.nr_writeback == 1
            if what == "ftruncate":
                process.ftruncate(mapping, 4 * PAGE)
            else:
                assert isinstance(mapping.file, Inode)
                truncate_range(machine.kernel, mapping.file, 8, 12)
        assert order == ["write", "change"]
    assert path.stat().st_size == (4 if what == "ftruncate" else NR_PAGES) * PAGE
    if what == "punch_hole":
        assert path.read_bytes()[9 * PAGE :][:1] == b"\0"
