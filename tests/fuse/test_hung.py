"""A daemon killed while a thread of it waits in the kernel for itself: the mount is found, cleaned, and lets go."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from fsbackend import mount as mounts
from fsbackend.mount import TemporaryMount, find_mounts

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to abort a connection")]

SEEKER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
mapped = mmap.mmap(fd, os.fstat(fd).st_size)
mapped[0] = 1
print("stored", flush=True)
os.lseek(fd, 0, os.SEEK_HOLE)
"""


@pytest.mark.parametrize("how", ["umount", "remount"])
def test_who_hangs_on_a_dead_daemon_is_let_go(make_mount: Callable[..., TemporaryMount], how: str) -> None:
    mounted = make_mount("disk")
    path = mounted.path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 20)
    mounted.inject("write delay=600")
    with subprocess.Popen([sys.executable, "-c", SEEKER, str(path)], stdout=subprocess.PIPE) as seeker:
        assert seeker.stdout is not None
        assert seeker.stdout.readline() == b"stored\n"
        until_s = time.monotonic() + 20
        while "fired 1" not in mounted.control("inject"):  # the kernel writes back, for the seek
            assert time.monotonic() < until_s
            time.sleep(0.01)
        os.kill(mounted.pid, signal.SIGKILL)
        while "\tZ" not in status(mounted.pid):
            assert time.monotonic() < until_s
            time.sleep(0.01)
        assert next(found.stale for found in find_mounts() if found.mountpoint == str(mounted.path))
        if how == "umount":
            mounts.umount(mounted.path)
        else:
            mounted.remount()
            assert os.listdir(mounted.path) == ["file"]
        seeker.wait(20)


def status(pid: int) -> str:
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(line for line in file if line.startswith("State"))
