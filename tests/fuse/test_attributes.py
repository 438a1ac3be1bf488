"""Times, modes, owners and extended attributes, on both kinds of mount."""

import errno
import os
import stat
import time
from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount

pytestmark = pytest.mark.fuse


def test_times_in_nanoseconds(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(1_000_000_001, 2_000_000_003))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1_000_000_001, 2_000_000_003)
    before = time.time_ns() - 20_000_000
    os.utime(path)
    assert path.stat().st_mtime_ns >= before
    os.utime(path, ns=(-5_000_000_000, 7))
    assert path.stat().st_atime_ns == -5_000_000_000


def test_a_read_moves_atime(mounted: TemporaryMount) -> None:
    """As under relatime: only if the file was changed since it was last read."""
    path = mounted.path / "file"
    path.write_bytes(b"x" * 10_000)
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # else the kernel's cache answers, and nobody hears of it
        os.utime(path, ns=(1, path.stat().st_mtime_ns))
        time.sleep(0.02)
        os.pread(fd, 100, 0)
        assert path.stat().st_atime_ns > path.stat().st_mtime_ns
    finally:
        os.close(fd)


def test_a_write_moves_mtime_and_ctime(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x")
    os.utime(path, ns=(1, 1))
    ctime = path.stat().st_ctime_ns
    time.sleep(0.02)
    with path.open("r+b") as file:
        file.write(b"y")
    assert path.stat().st_mtime_ns > ctime
    assert path.stat().st_ctime_ns == path.stat().st_mtime_ns
    mtime = path.stat().st_mtime_ns
    time.sleep(0.02)
    path.chmod(0o600)
    assert path.stat().st_mtime_ns == mtime
    assert path.stat().st_ctime_ns > mtime


def test_writeback_does_not_move_times(disk: TemporaryMount) -> None:
    path = disk.path / "file"
    path.write_bytes(b"x" * 5000)
    before = path.stat()
    time.sleep(0.05)
    disk.set_control("sync", "1")
    time.sleep(1.1)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert (disk.store / "file").stat().st_mtime_ns == before.st_mtime_ns


def test_fsync_takes_mtime_to_the_store(disk: TemporaryMount) -> None:
    path = disk.path / "file"
    with path.open("wb") as file:
        for times in (None, (1000, 2000)):
            file.write(b"x")
            file.flush()
            if times is not None:
                os.utime(path, times)
            os.fsync(file.fileno())
            assert (disk.store / "file").stat().st_mtime_ns == path.stat().st_mtime_ns
    assert path.stat().st_mtime == 2000


def test_ctime_is_when_a_program_changed_the_inode_not_when_it_was_written_back(disk: TemporaryMount) -> None:
    path, other = disk.path / "file", disk.path / "other"
    path.write_bytes(b"x" * 5000)
    disk.set_control("sync", "1")
    changes: list[Callable[[], object]] = [
        lambda: path.chmod(0o600),
        lambda: os.link(path, other),
        other.unlink,
        lambda: path.rename(other).rename(path),
        lambda: os.utime(path, ns=(1, 2)),
        lambda: os.truncate(path, 5000),
    ]
    for number, change in enumerate(changes):
        before = path.stat().st_ctime_ns
        time.sleep(0.005)
        change()
        changed = path.stat().st_ctime_ns
        assert changed > before, number
        with path.open("r+b") as file:
            file.write(b"y")
        written = path.stat().st_ctime_ns
        assert written >= changed
        disk.set_control("sync", "1")
        time.sleep(0.005)
        assert path.stat().st_ctime_ns == written


def test_modes_and_umask(mounted: TemporaryMount) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(mounted.path / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        (mounted.path / "folder").mkdir()
    finally:
        os.umask(old)
    assert stat.S_IMODE((mounted.path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((mounted.path / "folder").stat().st_mode) == 0o750
    (mounted.path / "file").chmod(0o4755)
    assert stat.S_IMODE((mounted.path / "file").stat().st_mode) == 0o4755


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_creator_owns_what_it_makes(make_mount: Callable[..., TemporaryMount], kind: str) -> None:
    mounted = make_mount(kind, allow_other=True)
    mounted.base.chmod(0o755)
    mounted.path.chmod(0o777)
    sgid = mounted.path / "sgid"
    sgid.mkdir()
    os.chown(sgid, 0, 4242)
    sgid.chmod(0o2777)
    secret = mounted.path / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0o600)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setgroups([])
            os.setgid(1001)
            os.setuid(1000)
            (mounted.path / "mine").write_bytes(b"x")
            (mounted.path / "dir").mkdir()
            (mounted.path / "link").symlink_to("x")
            (sgid / "inside").write_bytes(b"")
            (sgid / "sub").mkdir()
            try:
                secret.read_bytes()
            except PermissionError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    for name in ("mine", "dir", "link"):
        info = (mounted.path / name).lstat()
        assert (info.st_uid, info.st_gid) == (1000, 1001), name
    assert (sgid / "inside").stat().st_gid == 4242
    assert (sgid / "sub").stat().st_gid == 4242
    assert (sgid / "sub").stat().st_mode & stat.S_ISGID


def test_a_write_clears_setuid(make_mount: Callable[..., TemporaryMount], kind: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    mounted = make_mount(kind, allow_other=True)
    mounted.base.chmod(0o755)
    path = mounted.path / "file"
    path.write_bytes(b"x")
    path.chmod(0o6777)
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(1001)
        os.setuid(1000)
        with path.open("r+b") as file:
            file.write(b"y")
        os._exit(0)
    os.waitpid(child, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


@pytest.fixture(params=["disk", "ramfs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_extended_attributes_if_asked_for(make_mount: Callable[..., TemporaryMount]) -> None:
    mounted = make_mount("disk", xattrs=True)
    path = mounted.path / "file"
    path.write_bytes(b"x")
    try:
        os.setxattr(mounted.store / "file", b"user.probe", b"")
    except OSError as error:
        pytest.skip(f"the store's filesystem carries none: {error}")
    os.removexattr(mounted.store / "file", b"user.probe")
    os.setxattr(path, b"user.one", b"1" * 1000)
    assert os.getxattr(path, b"user.one") == b"1" * 1000
    assert os.getxattr(mounted.store / "file", b"user.one") == b"1" * 1000
    with pytest.raises(FileExistsError):
        os.setxattr(path, b"user.one", b"2", os.XATTR_CREATE)
    assert os.listxattr(path) == ["user.one"]
    os.removexattr(path, b"user.one")
    assert os.listxattr(path) == []
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENODATA):
        os.getxattr(path, b"user.one")
    with pytest.raises(OSError, check=lambda error: error.errno in {errno.EINVAL, errno.EOPNOTSUPP}):
        os.setxattr(path, b"system.posix_acl_access", b"x")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EOPNOTSUPP):
        os.setxattr(path, b"system.other", b"x")


def test_extended_attributes_in_ram(make_mount: Callable[..., TemporaryMount]) -> None:
    path = make_mount("ramfs", xattrs=True).path / "file"
    path.write_bytes(b"x")
    changed_ns = path.stat().st_ctime_ns
    os.setxattr(path, b"user.one", b"1" * 1000, os.XATTR_CREATE)
    os.setxattr(path, b"user.two", b"")
    assert path.stat().st_ctime_ns > changed_ns
    assert (os.getxattr(path, b"user.one"), sorted(os.listxattr(path))) == (b"1" * 1000, ["user.one", "user.two"])
    with pytest.raises(FileExistsError):
        os.setxattr(path, b"user.one", b"2", os.XATTR_CREATE)
    os.removexattr(path, b"user.one")
    for call in (
        lambda: os.getxattr(path, b"user.one"),
        lambda: os.removexattr(path, b"user.one"),
        lambda: os.setxattr(path, b"user.one", b"2", os.XATTR_REPLACE),
    ):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.ENODATA):
            call()
    for name in (b"system.other", b"other.one", b"user", b"one"):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EOPNOTSUPP):
            os.setxattr(path, name, b"x")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
        os.setxattr(path, b"user.", b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_trusted_attributes_are_listed_to_root_only(make_mount: Callable[..., TemporaryMount], kind: str) -> None:
    mounted = make_mount(kind, xattrs=True, allow_other=True)
    mounted.base.chmod(0o755)
    path = mounted.path / "file"
    path.write_bytes(b"x")
    for name in (b"user.one", b"trusted.one"):
        os.setxattr(path, name, b"1")
    assert sorted(os.listxattr(path)) == ["trusted.one", "user.one"]
    os.seteuid(1000)
    try:
        assert os.listxattr(path) == ["user.one"]
    finally:
        os.seteuid(0)


def test_no_extended_attributes_by_default(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EOPNOTSUPP):
        os.setxattr(path, b"user.one", b"1")
