"""A store whose filesystem dies under the mount: every call says so, nothing hangs, and the daemon ends in order."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable

import pytest

from fsbackend.mount import MountError, TemporaryMount
from fsbackend.state import state_dir

pytestmark = [pytest.mark.fuse, pytest.mark.disk]

EXT4_IOC_SHUTDOWN = 0x8004587D
"""Source: Linux v6.12 fs/ext4/ext4.h; with 2, the journal is not even written."""


@pytest.mark.parametrize("small_disk", ["ext4"], indirect=True)
def test_a_store_that_dies(small_disk: str, make_mount: Callable[..., TemporaryMount]) -> None:
    mounted = make_mount("disk", store_dir=small_disk, expect_log="not written back at unmount")
    fd = os.open(mounted.path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"durable", 0)
    os.fsync(fd)
    os.pwrite(fd, b"too late", 4096)
    store_fd = os.open(small_disk, os.O_RDONLY)
    try:
        fcntl.ioctl(store_fd, EXT4_IOC_SHUTDOWN, struct.pack("I", 2))
    finally:
        os.close(store_fd)
    for call in (
        lambda: os.fsync(fd),
        lambda: os.fsync(fd),
        lambda: os.mkdir(mounted.path / "dir"),
        lambda: os.open(mounted.path / "other", os.O_CREAT | os.O_WRONLY),
    ):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
            call()
    assert os.pread(fd, 8, 4096) == b"too late"
    os.close(fd)
    with pytest.raises(MountError, match="file: Input/output error"):
        mounted.umount()
    mounted.umount(force=True)
    assert f"{mounted.pid}.json" not in os.listdir(state_dir())
