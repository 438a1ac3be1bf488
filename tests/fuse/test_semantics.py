"""Files and names as POSIX has them, on both kinds of mount."""

import errno
import fcntl
import os
import stat
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
