"""Mounting, refusing to, unmounting, dying, and what is in the store afterwards."""

import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fsbackend import mount as mounts
from fsbackend import state
from fsbackend.mount import MountError, TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

LAZY = DirtyParams(expire_s=3600, periodic_s=3600)


def test_unmount_writes_everything_back(disk: TemporaryMount) -> None:
    data = os.urandom(1_000_000)
    (disk.path / "file").write_bytes(data)
    assert (disk.store / "file").stat().st_size == 0, "a write stays in the cache"
    disk.umount()
    assert (disk.store / "file").read_bytes() == data
    assert not any(found.mountpoint == str(disk.path) for found in mounts.find_mounts())


def test_sigterm_writes_back_and_unmounts(disk: TemporaryMount) -> None:
    (disk.path / "file").write_bytes(b"x" * 10_000)
    os.kill(disk.pid, signal.SIGTERM)
    assert mounts.wait_exit(disk.pid, 20.0)
    assert (disk.store / "file").read_bytes() == b"x" * 10_000


def test_a_crash_loses_only_what_was_not_fsynced(make_mount: Callable[..., TemporaryMount]) -> None:
    disk = make_mount("disk", params=LAZY)
    synced, unsynced = disk.path / "synced", disk.path / "unsynced"
    with synced.open("wb") as file:
        file.write(b"kept" * 5000)
        file.flush()
        os.fsync(file.fileno())
        file.write(b"lost" * 5000)
    unsynced.write_bytes(b"lost")
    disk.kill()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        synced.read_bytes()
    found = next(item for item in mounts.find_mounts() if item.mountpoint == str(disk.path))
    assert found.stale
    disk.remount()
    assert synced.read_bytes()[:20_000] == b"kept" * 5000
    assert unsynced.read_bytes() == b""
    assert (disk.store / "synced").read_bytes()[:20_000] == b"kept" * 5000


def test_a_stale_mount_can_be_unmounted(disk: TemporaryMount) -> None:
    disk.kill()
    disk.umount()
    assert os.listdir(disk.path) == []


def test_a_store_is_mounted_once(disk: TemporaryMount, tmp_path: Path) -> None:
    with pytest.raises(MountError, match="in use by another mount"):
        mounts.mount(disk.store, tmp_path)


@pytest.mark.parametrize("what", ["store", "mountpoint"])
def test_missing_directories_are_named(tmp_path: Path, what: str) -> None:
    store, mountpoint = tmp_path / "store", tmp_path / "mountpoint"
    for path in (store, mountpoint):
        if path.name != what:
            path.mkdir()
    with pytest.raises(MountError, match=f"{what}.*mkdir -p"):
        mounts.mount(store, mountpoint)


def test_no_mount_over_a_mount(disk: TemporaryMount, tmp_path: Path) -> None:
    with pytest.raises(MountError, match="is a mount point already"):
        mounts.mount(tmp_path, disk.path)


def test_of_two_mounts_at_one_place_at_once_one_is_refused(tmp_path: Path) -> None:
    stores = [tmp_path / "one", tmp_path / "two"]
    place = tmp_path / "mnt"
    for directory in (*stores, place):
        directory.mkdir()

    def attempt(store: Path) -> str:
        try:
            mounts.mount(store, place)
        except MountError as error:
            return str(error)
        return "mounted"

    try:
        with ThreadPoolExecutor(2) as pool:
            ended = sorted(pool.map(attempt, stores))
        assert ended[1] == "mounted"
        assert "is a mount point already" in ended[0]
        assert [found.mountpoint for found in mounts.find_mounts()].count(str(place)) == 1
    finally:
        while any(found.mountpoint == str(place) for found in mounts.find_mounts()):
            mounts.umount(place)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="contradict"):
        mounts.mount(tmp_path, tmp_path, "ramfs,strictlimit")
    (tmp_path / "in").mkdir()
    with pytest.raises(MountError, match="inside each other"):
        mounts.mount(tmp_path, tmp_path / "in")
    with pytest.raises(MountError, match="GLOB=CAPS"):
        mounts.mount(tmp_path, tmp_path, overrides=["nonsense"])


def test_unmounting_what_is_in_use_fails(disk: TemporaryMount) -> None:
    with (disk.path / "file").open("wb"), pytest.raises(MountError, match="in use"):
        disk.umount()
    (disk.path / "file").write_bytes(b"it lives on")


def test_unmounting_what_is_no_mount(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="no mount of fremap"):
        mounts.umount(tmp_path)


def test_odd_store_names(make_mount: Callable[..., TemporaryMount], tmp_path: Path) -> None:
    store = tmp_path / "a,b\\c d"
    store.mkdir()
    mounted = make_mount("disk", store_dir=store)
    (mounted.path / "file").write_bytes(b"x")
    found = next(item for item in mounts.find_mounts() if item.mountpoint == str(mounted.path))
    assert found.store == str(store)


def test_ramfs_leaves_nothing(make_mount: Callable[..., TemporaryMount]) -> None:
    mounted = make_mount("ramfs")
    (mounted.path / "file").write_bytes(b"x")
    assert mounted.stats()["BdiDirtied"] == 0
    mounted.umount()
    assert os.listdir(mounted.store) == []


def test_a_symlink_in_the_store_leads_nowhere(disk: TemporaryMount, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    (disk.path / "folder").mkdir()
    (disk.path / "folder" / "file").write_bytes(b"mine")
    disk.set_control("sync", "1")
    os.rename(disk.store / "folder", disk.store / "old")
    os.symlink(secret, disk.store / "folder")
    time.sleep(1.1)
    disk.umount()
    disk.remount()
    assert (disk.path / "folder").is_symlink(), "it is shown as what it is, not followed by us"


def test_control_files(disk: TemporaryMount) -> None:
    assert ".bdi" not in os.listdir(disk.path)
    assert disk.control("caps") == "disk\n"
    disk.set_control("max_ratio", "50\n")
    assert disk.control("max_ratio") == "50\n"
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
        disk.set_control("max_ratio", "101")
    assert "percentage" in disk.control("last_error")
    disk.set_control("dirty_expire_centisecs", "100")
    assert disk.control("dirty_expire_centisecs") == "100\n"
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOENT):
        disk.control("no_such")
    with pytest.raises(PermissionError):
        (disk.path / ".bdi" / "new").write_text("x")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EPERM):
        (disk.path / ".bdi").rmdir()


def test_what_holds_for_a_file(make_mount: Callable[..., TemporaryMount]) -> None:
    mounted = make_mount("disk,stable_writes", overrides=["wal-*=ramfs"])
    for name, preset in (("data", "disk"), ("wal-1", "ramfs")):
        path = mounted.path / name
        path.write_bytes(b"x" * 100)
        text = mounted.control(f"files/{path.stat().st_ino}")
        assert f'"path": "{name}"' in text
        assert f'"preset": "{preset}"' in text
    mounted.set_control("sync", "1")
    assert (mounted.path / "wal-1").read_bytes() == b"x" * 100
    assert (mounted.store / "wal-1").read_bytes() == b"", "a ramfs file is never written back"
    assert (mounted.store / "data").read_bytes() == b"x" * 100


def test_overrides_change_live(disk: TemporaryMount) -> None:
    disk.set_control("overrides", "*.tmp=ramfs\n")
    (disk.path / "a.tmp").write_bytes(b"x" * 100)
    disk.set_control("sync", "1")
    assert (disk.store / "a.tmp").stat().st_size == 0


def test_an_o_direct_handle_writes_through(make_mount: Callable[..., TemporaryMount]) -> None:

    disk = make_mount("disk", params=LAZY)
    path = disk.path / "file"
    path.write_bytes(b"a" * 12_288)
    before = disk.stats()["BdiDirtied"]
    buffer = mmap.mmap(-1, 4096)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        os.preadv(fd, [buffer], 4096)
        assert buffer[:] == b"a" * 4096, "it sees the mount's dirty bytes"
        buffer[:] = b"b" * 4096
        os.pwritev(fd, [buffer], 4096)
        os.pwritev(fd, [buffer], 20_480)
    finally:
        os.close(fd)
        buffer.close()
    assert disk.stats()["BdiDirtied"] == before
    assert path.read_bytes() == b"a" * 4096 + b"b" * 4096 + b"a" * 4096 + bytes(8192) + b"b" * 4096
    assert (disk.store / "file").read_bytes()[4096:8192] == b"b" * 4096
    disk.set_control("sync", "1")
    assert (disk.store / "file").read_bytes() == path.read_bytes()


OWNER = """
import signal, sys
from fsbackend.mount import temporary_mount
with temporary_mount("disk") as mounted:
    (mounted.path / "file").write_bytes(b"x")
    print(mounted.base, mounted.pid, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_temporary_mount_ends_with_its_owner(number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        base, pid = owner.stdout.readline().split()
        assert (Path(base) / "store").is_dir()
        owner.send_signal(number)
    assert mounts.wait_exit(int(pid), 20.0)
    assert not Path(base).exists()
    assert base not in Path("/proc/self/mountinfo").read_text()


def test_what_killed_processes_left_is_swept(make_mount: Callable[..., TemporaryMount]) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        base, pid = owner.stdout.readline().split()
        os.kill(int(pid), signal.SIGKILL)
        owner.kill()
    assert mounts.wait_exit(int(pid), 20.0)
    assert Path(base).exists()
    make_mount("disk")
    assert not Path(base).exists()
    assert not (state.state_dir() / f"{pid}.json").exists()


def test_a_directory_is_never_removed_through_a_mount(disk: TemporaryMount) -> None:
    (disk.path / "file").write_bytes(b"x")
    state.remove_scratch(str(disk.base))
    assert (disk.path / "file").read_bytes() == b"x"
