"""msync without fsync, on a real mount whose daemon dies: the bytes were only ever in the mount's cache."""

import contextlib

import pytest

from emu.machine import Machine
from fsbackend.mount import TemporaryMount, temporary_mount
from tests import breaks
from tests.emu.mm.helpers import PAGE, make_file, map_nonlinear, on_disk, stamp

NR_PAGES = 16


def msync_then_kill(mount: TemporaryMount, rmap: str, *, broken: bool) -> int:
    """Return how many pages lost what a successful msync promised, when the mount's daemon is killed after it."""
    path = make_file(mount.mountpoint / f"file-{rmap}-{broken}", NR_PAGES)
    mount.control("sync")
    machine = Machine(rmap=rmap, guest_cache="writeback")
    process = machine.spawn()
    mapping = map_nonlinear(process, path, NR_PAGES)
    for place in range(NR_PAGES):
        process.store(mapping.vaddr + place * PAGE, stamp(NR_PAGES - 1 - place, 1))
    with breaks.msync_without_fsync() if broken else contextlib.nullcontext():
        mapping.flush()
    mount.kill()
    machine.power_off()
    mount.remount()
    return sum(on_disk(path, page) != stamp(page, 1) for page in range(NR_PAGES))


@pytest.mark.fuse
@pytest.mark.parametrize("rmap", ["scan", "dirty_index"])
def test_msync_needs_fsync(rmap: str) -> None:
    with temporary_mount("disk") as mount:
        assert msync_then_kill(mount, rmap, broken=False) == 0
        assert msync_then_kill(mount, rmap, broken=True) > 0
