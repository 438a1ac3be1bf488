"""Forced unmounts while files are open, the daemons they leave, and the stores that these hold."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fsbackend import mount as mounts
from fsbackend import state
from tests.fuse.test_command import folders, fremap

__all__ = ["folders"]
pytestmark = pytest.mark.fuse


@pytest.fixture
def detached(folders: tuple[Path, Path]) -> Iterator[tuple[int, int]]:
    """Return the daemon of a mount that was detached while a file was open, and that file."""
    pid = mounts.mount(*folders).pid
    fd = os.open(folders[1] / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"before")
    began_s = time.monotonic()
    code, said = fremap("umount", folders[1], "--force")
    try:
        assert time.monotonic() - began_s < 15
        assert code == 0
        assert f"is detached; daemon pid {pid} ends when the last file is closed" in said
        yield pid, fd
    finally:
        with suppress(OSError):
            os.close(fd)
        assert mounts.wait_exit(pid, 20)


def test_it_serves_until_the_last_file_is_closed(folders: tuple[Path, Path], detached: tuple[int, int]) -> None:
    store, mountpoint = folders
    pid, fd = detached
    left = next(one for one in state.find_detached() if one.pid == pid)
    assert (left.mountpoint, left.store) == (str(mountpoint), str(store))
    assert Path(left.log).exists()
    said = fremap("status", mountpoint)[1]
    assert f"detached, files are open in it; store {store}, pid {pid}" in said
    assert '"detached": true' in fremap("status", mountpoint, "--json")[1]
    code, said = fremap("umount", mountpoint)
    assert (code, f"daemon pid {pid} ends when" in said, said.count("\n")) == (1, True, 1), said
    code, said = fremap("mount", store, mountpoint)
    assert (code, f"in use by another mount (daemon pid {pid}:" in said) == (1, True), said
    assert f"`kill {pid}` ends it" in said
    os.write(fd, b" and after")
    os.close(fd)
    assert mounts.wait_exit(pid, 20)
    assert (store / "file").read_bytes() == b"before and after"
    assert not Path(left.log).exists()
    assert not any(one.pid == pid for one in state.find_detached())


@pytest.mark.parametrize("by_signal", [True, False])
def test_it_can_be_ended_and_writes_back_first(
    folders: tuple[Path, Path], detached: tuple[int, int], *, by_signal: bool
) -> None:
    store, mountpoint = folders
    log = next(one.log for one in state.find_detached() if one.pid == detached[0])
    if by_signal:
        os.kill(detached[0], signal.SIGTERM)
        assert mounts.wait_exit(detached[0], 20)
    else:
        assert fremap("umount", mountpoint, "--force") == (0, f"{mountpoint} is unmounted\n")
    assert (store / "file").read_bytes() == b"before"
    assert not Path(log).exists()
    mounts.mount(store, mountpoint)


def test_an_older_daemon_leaves_the_log_of_a_newer_mount(
    folders: tuple[Path, Path], detached: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    log = mounts.mount(tmp_path / "other", folders[1]).log
    os.kill(detached[0], signal.SIGTERM)
    assert mounts.wait_exit(detached[0], 20)
    assert Path(log).exists()
    (folders[1] / "file").write_bytes(b"the newer one serves on")


def test_a_signal_while_unmounting_says_what_is_left(folders: tuple[Path, Path]) -> None:
    mounts.mount(*folders)
    fd = os.open(folders[1] / "file", os.O_RDWR | os.O_CREAT)
    try:
        command = [sys.executable, "-m", "emu.cli", "umount", str(folders[1]), "--force"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            until_s = time.monotonic() + 20
            mine = str(folders[1])
            while mine not in {one.mountpoint for one in state.find_detached()} and time.monotonic() < until_s:
                time.sleep(0.02)
            child.terminate()
            assert child.stderr is not None
            assert "fremap: ended by SIGTERM; detached; daemon pid" in child.stderr.read()
        assert child.returncode == 143
    finally:
        os.close(fd)


def test_a_store_within_a_mount_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    mounts.mount(*folders)
    inner, second = folders[1] / "inner", tmp_path / "second"
    inner.mkdir()
    second.mkdir()
    code, said = fremap("mount", inner, second)
    assert (code, said.count("\n")) == (1, 1)
    assert f"lies in the fremap mount {folders[1]}" in said


def test_a_read_only_store_is_warned_of(folders: tuple[Path, Path]) -> None:
    store = str(folders[0])
    if os.geteuid():
        pytest.skip("needs root to mount read-only")
    (folders[0] / "file").write_bytes(b"read")
    subprocess.run(["mount", "--bind", "-o", "ro", store, store], check=True)
    try:
        code, said = fremap("mount", *folders)
        assert code == 0
        assert f"warning: the store {store} is read-only" in said
        assert os.listdir(folders[1]) == ["file"]
        assert (folders[1] / "file").read_bytes() == b"read"
        for change in (lambda path: os.open(path, os.O_WRONLY), os.unlink, lambda path: os.chmod(path, 0)):
            with pytest.raises(OSError, match="Read-only"):
                change(folders[1] / "file")
        mounts.umount(folders[1])
    finally:
        subprocess.run(["umount", "-l", store], check=True)


@pytest.mark.parametrize(("survive", "words"), [("none", "nothing"), ("all", "everything"), ("7", "what seed 7 chose")])
def test_a_power_cut_says_what_survived(folders: tuple[Path, Path], survive: str, words: str) -> None:
    mounts.mount(*folders, power_cut=True)
    said = fremap("power-cut", folders[1], "--survive", survive)[1]
    assert said.endswith(f"of what was not synced, {words} survived\n")
