"""Files and names as POSIX has them, on both kinds of mount."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount

pytestmark = pytest.mark.fuse


def raises_errno(number: int) -> "pytest.RaisesExc[OSError]":
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_bytes_come_back(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    data = os.urandom(300_001)
    path.write_bytes(data)
    assert path.read_bytes() == data
    assert path.stat().st_size == len(data)


def test_append_truncate_and_exclusive(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    with path.open("ab") as file:
        file.write(b"one")
    with path.open("ab") as file:
        file.write(b"two")
    assert path.read_bytes() == b"onetwo"
    with raises_errno(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    path.open("wb").close()
    assert path.read_bytes() == b""


def test_truncate_zeroes_the_tail(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x" * 10_000)
    os.truncate(path, 5_001)
    os.truncate(path, 9_000)
    assert path.read_bytes() == b"x" * 5_001 + bytes(3_999)
    os.truncate(path, 0)
    os.truncate(path, 100)
    assert path.read_bytes() == bytes(100)


def test_holes_are_zeros_and_take_no_blocks(mounted: TemporaryMount) -> None:
    path = mounted.path / "sparse"
    with path.open("wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
    assert path.stat().st_size == (10 << 20) + 3
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert file.read(4096) == bytes(4096)
        file.seek(10 << 20)
        assert file.read() == b"end"


def test_rename_over_an_existing_file(mounted: TemporaryMount) -> None:
    one, two = mounted.path / "one", mounted.path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    with two.open("rb") as old:
        one.rename(two)
        assert old.read() == b"2"
    assert two.read_bytes() == b"1"
    assert os.listdir(mounted.path) == ["two"]


def test_rename_of_directories(mounted: TemporaryMount) -> None:
    (mounted.path / "a" / "b").mkdir(parents=True)
    (mounted.path / "a" / "b" / "file").write_bytes(b"deep")
    (mounted.path / "empty").mkdir()
    (mounted.path / "a").rename(mounted.path / "empty")
    assert (mounted.path / "empty" / "b" / "file").read_bytes() == b"deep"
    with raises_errno(errno.EINVAL):
        (mounted.path / "empty").rename(mounted.path / "empty" / "b" / "inside")
    (mounted.path / "full" / "x").mkdir(parents=True)
    with raises_errno(errno.ENOTEMPTY):
        (mounted.path / "empty").rename(mounted.path / "full")


def test_hard_links_are_one_file(mounted: TemporaryMount) -> None:
    one, two = mounted.path / "one", mounted.path / "two"
    one.write_bytes(b"shared")
    two.hardlink_to(one)
    assert one.stat().st_ino == two.stat().st_ino
    assert (one.stat().st_nlink, two.stat().st_nlink) == (2, 2)
    two.write_bytes(b"changed")
    assert one.read_bytes() == b"changed"
    one.unlink()
    assert two.stat().st_nlink == 1
    assert two.read_bytes() == b"changed"
    two.write_bytes(b"again")
    two.chmod(0o600)
    assert two.read_bytes() == b"again"


def test_unlinked_but_open(mounted: TemporaryMount) -> None:
    folder = mounted.path / "folder"
    folder.mkdir()
    path = folder / "file"
    with path.open("w+b") as file:
        file.write(b"x" * 10_000)
        file.flush()
        path.unlink()
        assert os.listdir(folder) == []
        folder.rmdir()
        info = os.fstat(file.fileno())
        assert (info.st_nlink, info.st_size) == (0, 10_000)
        os.ftruncate(file.fileno(), 5_000)
        os.fchmod(file.fileno(), 0o640)
        file.seek(0)
        assert file.read() == b"x" * 5_000
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o640
        os.fsync(file.fileno())
        path2 = mounted.path / "file"
        path2.write_bytes(b"other")
        assert os.fstat(file.fileno()).st_size == 5_000
    assert os.listdir(mounted.path) == ["file"]


def test_symlinks(mounted: TemporaryMount) -> None:
    link = mounted.path / "link"
    link.symlink_to("/no/such/../thing")
    assert os.readlink(link) == "/no/such/../thing"
    assert link.lstat().st_size == len("/no/such/../thing")
    with raises_errno(errno.ENAMETOOLONG):
        (mounted.path / "long").symlink_to("x" * 5000)
    (mounted.path / "loop").symlink_to("loop")
    with raises_errno(errno.ELOOP):
        (mounted.path / "loop").open()


def test_names(mounted: TemporaryMount) -> None:
    base = os.fsencode(mounted.path)
    for name in (b"x" * 255, b"\xff\xfe not utf-8", "gr\u00fcn \U0001f600".encode(), b"new\nline", b" "):
        with open(base + b"/" + name, "wb") as file:
            file.write(name)
        with open(base + b"/" + name, "rb") as file:
            assert file.read() == name
        assert name in os.listdir(base)
    with raises_errno(errno.ENAMETOOLONG):
        (mounted.path / ("x" * 256)).write_bytes(b"")


def test_a_deep_path(mounted: TemporaryMount) -> None:
    path = mounted.path
    for _ in range(200):
        path = path / "deep"
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"bottom")
    (mounted.path / "deep").rename(mounted.path / "moved")
    moved = Path(str(path).replace(f"{mounted.path}/deep", f"{mounted.path}/moved", 1))
    assert (moved / "file").read_bytes() == b"bottom"


def test_a_directory_with_many_entries(mounted: TemporaryMount) -> None:
    names = {f"entry-{number:05}" for number in range(5_000)}
    for name in names:
        os.close(os.open(mounted.path / name, os.O_CREAT | os.O_WRONLY))
    assert set(os.listdir(mounted.path)) == names
    seen = []
    with os.scandir(mounted.path) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert set(seen) == names
    assert os.listdir(mounted.path) == []


def test_directory_errors(mounted: TemporaryMount) -> None:
    folder = mounted.path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"")
    with raises_errno(errno.ENOTEMPTY):
        folder.rmdir()
    with raises_errno(errno.EISDIR):
        os.unlink(folder)
    with raises_errno(errno.ENOTDIR):
        os.rmdir(folder / "file")
    with raises_errno(errno.ENOTDIR):
        os.stat(folder / "file" / "x")
    with raises_errno(errno.EEXIST):
        folder.mkdir()
    assert folder.stat().st_nlink == 2
    (folder / "sub").mkdir()
    assert folder.stat().st_nlink == 3
    assert mounted.path.stat().st_nlink == 3


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


def test_special_files(mounted: TemporaryMount) -> None:
    os.mkfifo(mounted.path / "fifo", 0o600)
    assert stat.S_ISFIFO((mounted.path / "fifo").lstat().st_mode)
    if os.geteuid() == 0:
        os.mknod(mounted.path / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        info = (mounted.path / "null").lstat()
        assert stat.S_ISCHR(info.st_mode)
        assert info.st_rdev == os.makedev(1, 3)


def test_locks_are_kept(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as one, path.open("rb") as two:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_statfs(mounted: TemporaryMount) -> None:
    figures = os.statvfs(mounted.path)
    assert figures.f_bavail > 0
    assert figures.f_namemax == 255


def test_fsync_of_files_and_directories(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    with path.open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    folder = os.open(mounted.path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def test_fallocate(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    with path.open("w+b") as file:
        file.write(b"abc")
        file.flush()
        os.posix_fallocate(file.fileno(), 0, 10_000)
    assert path.read_bytes() == b"abc" + bytes(9_997)


def test_no_xattrs(mounted: TemporaryMount) -> None:
    with raises_errno(errno.EOPNOTSUPP):
        os.getxattr(mounted.path, "user.x")


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


def test_no_extended_attributes_by_default(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EOPNOTSUPP):
        os.setxattr(path, b"user.one", b"1")
