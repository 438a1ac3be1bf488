"""Faults and power cuts together: a cut waits for no injected delay, no rule fires in it, descriptors hear of it."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams
from tests.fuse.cuts import write_synced

pytestmark = pytest.mark.fuse

LAZY = DirtyParams(expire_s=3600, periodic_s=3600)
BUSY = DirtyParams(background_bytes=16 << 10, dirty_bytes=64 << 20, expire_s=0.02, periodic_s=0.01)

MakeMount = Callable[..., TemporaryMount]


def wait_until_fired(mounted: TemporaryMount) -> None:
    until_s = time.monotonic() + 20
    while "fired 0" in mounted.control("inject"):
        assert time.monotonic() < until_s
        time.sleep(0.01)


@pytest.mark.parametrize("rule", ["store.fsync delay=60", "store.write delay=60", "fsync delay=60"])
def test_a_cut_does_not_wait_for_a_delay(make_mount: MakeMount, rule: str) -> None:
    mounted = make_mount("disk", params=LAZY, power_cut=True)
    path = mounted.path / "file"
    write_synced(path, b"durable!" * 1000)
    said: list[int] = []

    def write() -> None:
        try:
            write_synced(path, b"UNSYNCED" * 1000)
            said.append(0)
        except OSError as error:
            said.append(error.errno or -1)

    mounted.inject(rule)
    writer = threading.Thread(target=write)
    writer.start()
    wait_until_fired(mounted)
    began_s = time.monotonic()
    mounted.power_cut()
    assert time.monotonic() - began_s < 20
    writer.join(20)
    assert said == [errno.EIO]
    assert path.read_bytes() == b"durable!" * 1000
    mounted.inject("clear")
    write_synced(path, b"again...")
    assert path.read_bytes()[:16] == b"again...durable!"


@pytest.mark.parametrize("rule", ["store.write cut=none", "store.write error=EIO", "store.write delay=60"])
def test_no_rule_fires_in_a_cut(make_mount: MakeMount, rule: str) -> None:
    mounted = make_mount("disk", params=LAZY, power_cut=True)
    path = mounted.path / "file"
    path.write_bytes(b"survives" * 1000)
    mounted.inject(rule)
    mounted.power_cut("all")
    mounted.inject("clear")
    assert path.read_bytes() == b"survives" * 1000
    write_synced(path, b"the mount serves on")


@pytest.mark.parametrize("params", [BUSY, LAZY], ids=["flushed", "cached"])
def test_who_wrote_before_a_cut_is_promised_nothing_after_it(make_mount: MakeMount, params: DirtyParams) -> None:
    mounted = make_mount("disk", params=params, power_cut=True)
    paths = [mounted.path / name for name in ("written", "durable")]
    fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
    for fd in fds:
        os.write(fd, b"x" * 50_000)
        os.fsync(fd)
    other = os.open(paths[0], os.O_RDONLY)
    os.write(fds[0], b"y" * 50_000)
    mounted.power_cut()
    os.fsync(fds[1])
    later = os.open(paths[0], os.O_RDWR)
    os.fsync(later)
    for fd in (fds[0], other):
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(fd)
        os.fsync(fd)
    for fd in (*fds, other, later):
        os.close(fd)


def test_what_a_lying_disk_holds_gets_to_it_at_an_unmount(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY, inject=["store.write reorder", "store.fsync lie"])
    write_synced(mounted.path / "file", b"x" * 500_000)
    mounted.umount()
    assert (mounted.store / "file").read_bytes() == b"x" * 500_000


def test_a_store_written_past_its_cache_can_be_cut(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True, direct=True)
    path = mounted.path / "file"
    for text in (b"durable!", b"and this"):
        write_synced(path, text * 1001)
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"UNSYNCED" * 2001)
    mounted.set_control("sync", "1")
    os.write(fd, b"UNSYNCED" * 2001)
    mounted.power_cut()
    os.close(fd)
    assert path.read_bytes() == b"UNSYNCED" * 2001


SEEKER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
nbytes = os.fstat(fd).st_size
with mmap.mmap(fd, nbytes) as mapped:
    while True:
        for start in range(0, nbytes, 1 << 16):
            mapped[start] = 1
        os.lseek(fd, 0, os.SEEK_HOLE)
        print("sought", flush=True)
"""


def test_cuts_meet_seeks_that_fetch_what_a_mapping_holds(make_mount: MakeMount) -> None:
    """A seek has the kernel write back to us, and waits for it: no cut may stand between the two."""
    mounted = make_mount("disk", params=LAZY, power_cut=True)
    path = mounted.path / "file"
    with path.open("wb") as file:
        file.truncate(32 << 20)
        os.fsync(file.fileno())

    def cut_often() -> None:
        for _ in range(60):
            mounted.power_cut()

    with subprocess.Popen([sys.executable, "-c", SEEKER, str(path)], stdout=subprocess.PIPE) as seeker:
        assert seeker.stdout is not None
        assert seeker.stdout.readline() == b"sought\n"
        cutter = threading.Thread(target=cut_often, daemon=True)
        cutter.start()
        cutter.join(60)
        hangs = cutter.is_alive()
        if hangs:  # a thread of the daemon that waits in the kernel outlives a kill
            subprocess.run(["umount", "-f", mounted.path], check=False)
        seeker.kill()
    assert not hangs
