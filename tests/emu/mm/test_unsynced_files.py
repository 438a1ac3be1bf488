"""What was written to a file, but not synced, is synced by the next sync, whatever became of its pages."""

import os
from pathlib import Path
from unittest.mock import patch

from tests.emu.mm.helpers import NR_PAGES, PAGE, make_file, settle, virtual_machine


def test_a_file_whose_caches_were_dropped_is_synced_all_the_same(tmp_path: Path) -> None:
    machine, clock = virtual_machine()
    process = machine.spawn()
    mapping = process.mmap(str(make_file(tmp_path / "file", NR_PAGES)), NR_PAGES * PAGE)
    process.store(mapping.vaddr, b"x")
    process.exit()
    # The flusher writes what is old, and syncs nothing.
    clock.advance(40.0)
    settle(machine)
    assert machine.vmstat.nr_written == 1
    assert machine.drop_caches() == 1
    with patch.object(os, "fdatasync", wraps=os.fdatasync) as fdatasync:
        machine.sync()
    assert fdatasync.call_count == 1
    machine.drop_caches()
    assert not machine.kernel.inodes
    machine.shutdown()
