"""The daemon is killed at any moment: the store holds what was fsynced, programs get ENOTCONN, nothing hangs."""

import errno
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend import mount as mounts
from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=16 << 10, dirty_bytes=64 << 20, expire_s=0.02, periodic_s=0.01)
MakeMount = Callable[..., TemporaryMount]

WRITER = """
import os, sys
number = int(sys.argv[2])
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while True:
    number += 1
    page = number % 16
    os.pwrite(fd, number.to_bytes(8, "little") * 512, page * 4096)
    os.pwrite(fd, number.to_bytes(8, "little") * 512, (page + 16) * 4096)
    os.fsync(fd)
    print(number, flush=True)
"""


def test_any_moment(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY)
    chance = random.Random(1)
    last = 0
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(mounted.path / "file"), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stderr is not None
            acknowledged = [int(writer.stdout.readline())]
            time.sleep(chance.random() * 0.3)
            mounted.kill()
            acknowledged += [int(line) for line in writer.stdout]
            said = writer.stderr.read()
            assert "not connected" in said or "connection abort" in said
        last = acknowledged[-1]
        data = (mounted.store / "file").read_bytes()
        for page in range(32):
            stamp = int.from_bytes(data[page * 4096 : page * 4096 + 8], "little")
            newest = max((number for number in acknowledged if number % 16 == page % 16), default=0)
            assert newest <= stamp <= last + 1, f"page {page} holds {stamp}, acknowledged was {newest}"
        mounted.remount()
        last += 1


def test_nobody_hangs(make_mount: MakeMount) -> None:
    """Whoever waits for the daemon, in whatever call, is told when it is gone."""
    mounted = make_mount("disk", params=BUSY, inject=["read,write,fsync,lookup,flush delay=30"])
    path = mounted.path / "file"
    mounted.inject("clear")
    path.write_bytes(b"x" * 100_000)
    fd = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(fd, 100_000)
    mapped[0:1] = b"y"
    mounted.inject("read,write,fsync,lookup,mkdir delay=30")
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    found: list[int] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
            found.append(0)
        except OSError as error:
            found.append(error.errno or -1)

    calls: list[Callable[[], object]] = [
        lambda: os.pread(fd, 10, 60_000),
        lambda: os.pwrite(fd, b"z", 50_000),
        lambda: os.fsync(fd),
        lambda: os.stat(mounted.path / "nothing"),
        lambda: os.mkdir(mounted.path / "folder"),
    ]
    threads = [threading.Thread(target=attempt, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    mounted.kill()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "somebody still waits"
    assert set(found) <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, 0}, found
    assert errno.ENOTCONN in found or errno.ECONNABORTED in found
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        os.statvfs(mounted.path)
    mapped.close()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        os.close(fd)


def test_the_next_mount_takes_over(make_mount: MakeMount, tmp_path: Path) -> None:
    """A stale mountpoint is cleaned by whoever mounts there next, with whatever store."""
    mounted = make_mount("disk")
    (mounted.path / "file").write_bytes(b"old")
    mounted.set_control("sync", "1")
    mounted.kill()
    store = tmp_path / "other"
    store.mkdir()
    info = mounts.mount(store, mounted.path)
    try:
        assert os.listdir(mounted.path) == []
        assert sum(found.mountpoint == str(mounted.path) for found in mounts.find_mounts()) == 1
    finally:
        mounts.umount(mounted.path)
    assert mounts.wait_exit(info.pid, 10)
    assert (mounted.store / "file").read_bytes() == b"old"
