"""A store that fills up: what write(2) says it took is there, and nothing else."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount

pytestmark = [pytest.mark.fuse, pytest.mark.disk]

MakeMount = Callable[..., TemporaryMount]


def write_until_refused(fd: int, piece: bytes) -> int:
    """Write a piece again and again; return how many bytes were taken."""
    taken = 0
    try:
        while True:
            taken += os.write(fd, piece[taken % len(piece) :])
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017 - the loop ends by it
    return taken


def test_a_full_store_takes_what_fits(small_disk: str, make_mount: MakeMount) -> None:
    mounted = make_mount("disk", store_dir=small_disk)
    piece = bytes(range(1, 251)) * 1001  # of an odd length, so that room ends within one
    path = mounted.path / "file"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        taken = write_until_refused(fd, piece)
        assert path.stat().st_size == taken
        os.fsync(fd)
    finally:
        os.close(fd)
    mounted.umount()
    want = piece * (taken // len(piece)) + piece[: taken % len(piece)]
    assert (Path(small_disk) / "file").read_bytes() == want
