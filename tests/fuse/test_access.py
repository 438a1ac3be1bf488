"""Who reaches a mount: its user alone, unless others are let in; and nobody gets out of the store through it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else"),
]

MakeMount = Callable[..., TemporaryMount]
STRANGER = 1002


def errno_of_stranger(call: Callable[[], object]) -> int:
    """Return the errno that a call gives a stranger, 0 if it goes well."""
    child = os.fork()
    if not child:
        status = 255
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            call()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def opened(path: Path, flags: int) -> Callable[[], object]:
    return lambda: os.close(os.open(path, flags))


def test_only_its_user_by_default(make_mount: MakeMount) -> None:
    mounted = make_mount("disk")
    mounted.base.chmod(0o755)
    mounted.path.chmod(0o777)
    (mounted.path / "file").write_bytes(b"x")
    (mounted.path / "file").chmod(0o666)
    for call in (
        lambda: os.stat(mounted.path / "file"),
        lambda: os.listdir(mounted.path),
        opened(mounted.path / "file", os.O_RDONLY),
        opened(mounted.path / ".bdi" / "stats", os.O_RDONLY),
    ):
        assert errno_of_stranger(call) == errno.EACCES


def test_others_if_they_are_let_in(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", allow_other=True, power_cut=True)
    mounted.base.chmod(0o755)
    (mounted.path / "file").write_bytes(b"x")
    (mounted.path / "file").chmod(0o644)
    assert errno_of_stranger(opened(mounted.path / "file", os.O_RDONLY)) == 0
    assert errno_of_stranger(opened(mounted.path / "file", os.O_WRONLY)) == errno.EACCES
    control = mounted.path / ".bdi"
    assert errno_of_stranger(opened(control / "stats", os.O_RDONLY)) == 0
    for name in ("max_ratio", "strict_limit", "inject", "power_cut", "sync", "overrides", "dirty_ratio"):
        assert errno_of_stranger(opened(control / name, os.O_WRONLY)) == errno.EACCES, name
    assert errno_of_stranger(lambda: os.chmod(control / "stats", 0o666)) == errno.EPERM


def test_no_way_out_of_the_store(make_mount: MakeMount, tmp_path: Path) -> None:
    """Links in the backing tree are shown, never followed by us; a directory that became one is stale."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    store = tmp_path / "store"
    (store / "folder").mkdir(parents=True)
    (store / "folder" / "file").write_bytes(b"mine")
    (store / "absolute").symlink_to(secret)
    (store / "dots").symlink_to("../secret")
    mounted = make_mount("disk", store_dir=store, timeout_s=0.0)
    assert os.readlink(mounted.path / "absolute") == str(secret)
    assert (mounted.path / "absolute" / "file").read_bytes() == b"secret", "the reader's own kernel followed it"
    with pytest.raises(FileNotFoundError):  # it points at what is beside the mount point, as a link there would
        (mounted.path / "dots" / "file").read_bytes()
    assert os.listdir(mounted.path / "folder") == ["file"]
    (store / "folder").rename(tmp_path / "old")
    (store / "folder").symlink_to(secret)
    with pytest.raises(OSError, check=lambda error: error.errno in {errno.ELOOP, errno.ENOTDIR}):
        os.open(mounted.path / "folder", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    assert os.listdir(secret) == ["file"]
