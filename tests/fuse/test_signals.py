"""Signals that end a daemon: everything is written back, nothing is left behind, and a second one changes nothing."""

import errno
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fsbackend import mount as mounts
from fsbackend import state
from fsbackend.throttle import DirtyParams
from tests.fuse.test_command import folders

__all__ = ["folders"]
pytestmark = pytest.mark.fuse

LAZY = DirtyParams(expire_s=3600, periodic_s=3600)
ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def nothing_is_left(store: Path, mountpoint: Path, pid: int, log: str) -> None:
    assert not any(row[0] == str(mountpoint) for row in state.mount_table())
    assert not (state.state_dir() / f"{pid}.json").exists()
    assert not Path(log).exists(), Path(log).read_text()
    assert not (store / ".fremap-journal").exists()


@pytest.mark.parametrize("number", ENDING)
def test_a_daemon_that_has_just_said_that_it_serves_ends_in_order(
    folders: tuple[Path, Path], number: signal.Signals
) -> None:
    told = mounts.mount(*folders, params=LAZY, metadata=True)
    (folders[1] / "file").write_bytes(b"x" * 100_000)
    for _ in range(3):  # whoever is impatient
        with suppress(ProcessLookupError):
            os.kill(told.pid, number)
    assert mounts.wait_exit(told.pid, 20)
    assert (folders[0] / "file").read_bytes() == b"x" * 100_000
    nothing_is_left(*folders, told.pid, told.log)


def test_a_signal_between_the_mount_and_its_first_request(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    spawn = os.posix_spawn

    def spawn_and_remember(*args: Any, **more: Any) -> int:
        pids.append(spawn(*args, **more))
        return pids[-1]

    def kill_when_mounted() -> None:
        until_s = time.monotonic() + 20
        while not any(row[0] == str(folders[1]) for row in state.mount_table()) and time.monotonic() < until_s:
            time.sleep(0.0005)
        os.kill(pids[-1], signal.SIGTERM)

    monkeypatch.setattr(os, "posix_spawn", spawn_and_remember)
    for _ in range(3):
        killer = threading.Thread(target=kill_when_mounted)
        killer.start()
        told = mounts.mount(*folders)
        killer.join()
        assert mounts.wait_exit(told.pid, 20)
        nothing_is_left(*folders, told.pid, told.log)


@pytest.fixture
def left(folders: tuple[Path, Path]) -> Iterator[tuple[mounts.MountInfo, int, mmap.mmap]]:
    """Return a daemon that serves on without a mount, an open file, and a mapping of it."""
    told = mounts.mount(*folders, params=LAZY, metadata=True)
    fd = os.open(folders[1] / "file", os.O_RDWR | os.O_CREAT)
    mapped = None
    try:
        os.write(fd, b"." * 8192)
        mapped = mmap.mmap(fd, 8192)
        assert not state.kernel_unmount(str(folders[1]), lazy=True)
        yield told, fd, mapped
    finally:
        with suppress(ProcessLookupError):
            os.kill(told.pid, signal.SIGKILL)
        assert mounts.wait_exit(told.pid, 20)
        if mapped is not None:
            with suppress(OSError):
                mapped.close()
        with suppress(OSError):
            os.close(fd)


@pytest.mark.parametrize("number", ENDING)
def test_a_detached_daemon_takes_everything_with_it(
    folders: tuple[Path, Path], left: tuple[mounts.MountInfo, int, mmap.mmap], number: signal.Signals
) -> None:
    told, fd, mapped = left
    os.pwrite(fd, b"written", 0)
    mapped[4096:4102] = b"stored"
    os.kill(told.pid, number)
    os.kill(told.pid, number)
    assert mounts.wait_exit(told.pid, 20)
    data = (folders[0] / "file").read_bytes()
    assert (data[:8], data[4096:4103], len(data)) == (b"written.", b"stored.", 8192)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.fsync(fd)
    nothing_is_left(*folders, told.pid, told.log)
    mounts.mount(*folders)


def test_a_detached_daemon_whose_store_refuses_stays(folders: tuple[Path, Path]) -> None:
    told = mounts.mount(*folders, params=LAZY, inject=["store.write times=2 error=EIO"])
    fd = os.open(folders[1] / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, b"precious")
        assert not state.kernel_unmount(str(folders[1]), lazy=True)
        for _ in range(2):
            os.kill(told.pid, signal.SIGTERM)
            until_s = time.monotonic() + 20
            nr_said = Path(told.log).read_text().count("not written back")
            while Path(told.log).read_text().count("not written back") == nr_said and time.monotonic() < until_s:
                time.sleep(0.02)
            assert not mounts.wait_exit(told.pid, 0)
        assert os.pread(fd, 8, 0) == b"precious"
        os.kill(told.pid, signal.SIGTERM)
        assert mounts.wait_exit(told.pid, 20)
        assert (folders[0] / "file").read_bytes() == b"precious"
    finally:
        with suppress(OSError):
            os.close(fd)
        assert mounts.wait_exit(told.pid, 20)
        Path(told.log).unlink(missing_ok=True)
