"""Which calls move mtime and ctime of what: as on the host's filesystem."""

import mmap
import os
from collections.abc import Callable

import pytest

from tests.fuse.posix import OWNER, Script, World

pytestmark = pytest.mark.fuse

Same = Callable[[Script], None]


def test_calls_on_names(same: Same) -> None:
    def script(world: World) -> None:
        for name in ("a", "b"):
            world.make(name, "dir", 0o755)
        p = world.path
        world.moved("create", lambda: os.close(os.open(p("a/file"), os.O_CREAT | os.O_WRONLY)), "a", ".")
        world.moved("mkdir", lambda: os.mkdir(p("a/dir")), "a", ".")
        world.moved("mkfifo", lambda: os.mkfifo(p("a/fifo")), "a")
        world.moved("symlink", lambda: os.symlink("x", p("a/soft")), "a")
        world.moved("link", lambda: os.link(p("a/file"), p("b/hard")), "a", "b", "a/file")
        world.moved("failed link", lambda: os.link(p("a/file"), p("b/hard")), "a", "b", "a/file")
        world.moved("rename", lambda: os.rename(p("a/file"), p("a/moved")), "a")
        world.moved("rename of it", lambda: os.rename(p("a/moved"), p("b/moved")), "a", "b", "b/hard")
        world.moved("rename over its link", lambda: os.rename(p("b/moved"), p("b/hard")), "b", "b/hard")
        world.moved("rename of a dir", lambda: os.rename(p("a/dir"), p("b/dir")), "a", "b")
        world.make("over", "file")
        os.link(p("over"), p("also"))
        world.moved("rename over", lambda: os.rename(p("b/moved"), p("over")), "b", ".", "also")
        world.moved("unlink of one name", lambda: os.unlink(p("over")), ".", "b/hard")
        world.moved("rmdir", lambda: os.rmdir(p("b/dir")), "b")
        world.moved("failed rmdir", lambda: os.rmdir(p("b")), ".", "b")
        world.moved("failed mkdir", lambda: os.mkdir(p("b")), ".", "b")
        world.moved(
            "open of what is there", lambda: os.close(os.open(p("also"), os.O_CREAT | os.O_WRONLY)), ".", "also"
        )

    same(script)


def test_calls_on_attributes(same: Same) -> None:
    def script(world: World) -> None:
        p = world.path
        for kind in ("file", "dir", "fifo"):
            world.make(kind, kind, 0o644, OWNER)
            world.moved("chmod", lambda kind=kind: os.chmod(p(kind), 0o600), kind)  # type: ignore[misc]
            world.moved("chmod to the same", lambda kind=kind: os.chmod(p(kind), 0o600), kind)  # type: ignore[misc]
            world.moved("chown", lambda kind=kind: os.chown(p(kind), 12, 13), kind)  # type: ignore[misc]
            world.moved("chown to the same", lambda kind=kind: os.chown(p(kind), 12, 13), kind)  # type: ignore[misc]
            world.moved("chown of nothing", lambda kind=kind: os.chown(p(kind), -1, -1), kind)  # type: ignore[misc]
            world.moved("utime", lambda kind=kind: os.utime(p(kind), ns=(1, 2)), kind)  # type: ignore[misc]
            world.moved("utime now", lambda kind=kind: os.utime(p(kind)), kind)  # type: ignore[misc]
        os.symlink("x", p("soft"))
        world.moved("lchown", lambda: os.lchown(p("soft"), 12, 13), "soft")
        world.moved("lutime", lambda: os.utime(p("soft"), ns=(1, 2), follow_symlinks=False), "soft")
        world.moved("readlink", lambda: os.readlink(p("soft")), "soft")
        with world.user((12, 13)):
            world.moved("a refused chown", lambda: os.chown(p("file"), 0, 0), "file")

    same(script)


def test_calls_on_bytes(same: Same) -> None:
    def script(world: World) -> None:
        p = world.path
        fd = os.open(p("file"), os.O_CREAT | os.O_RDWR, 0o644)
        world.moved("write", lambda: os.pwrite(fd, b"x" * 100, 0), "file")
        world.moved("the same again", lambda: os.pwrite(fd, b"x" * 100, 0), "file")
        world.moved("write of nothing", lambda: os.pwrite(fd, b"", 0), "file")
        world.moved("read", lambda: os.pread(fd, 10, 0), "file")
        world.moved("fsync", lambda: os.fsync(fd), "file")
        world.moved("ftruncate", lambda: os.ftruncate(fd, 50), "file")
        world.moved("ftruncate to the same", lambda: os.ftruncate(fd, 50), "file")
        world.moved("truncate", lambda: os.truncate(p("file"), 70), "file")
        world.moved("truncate to the same", lambda: os.truncate(p("file"), 70), "file")
        world.moved("a refused truncate", lambda: os.truncate(p("file"), -1), "file")
        world.moved("allocate", lambda: os.posix_fallocate(fd, 0, 8192), "file")
        world.moved("O_TRUNC", lambda: os.close(os.open(p("file"), os.O_WRONLY | os.O_TRUNC)), "file")
        world.moved("O_TRUNC of nothing", lambda: os.close(os.open(p("file"), os.O_WRONLY | os.O_TRUNC)), "file")
        world.moved("close", lambda: os.close(fd), "file")

    same(script)


def test_stores_through_a_mapping(same: Same) -> None:
    def script(world: World) -> None:
        fd = os.open(world.path("file"), os.O_CREAT | os.O_RDWR, 0o644)
        os.ftruncate(fd, 8192)
        mapped = mmap.mmap(fd, 8192)

        def store() -> None:
            mapped[5000:5003] = b"abc"
            mapped.flush()

        world.moved("store and msync", store, "file")
        world.moved("load", lambda: mapped[0:10], "file")
        mapped.close()
        os.close(fd)

    same(script)


def test_times_that_were_set_stay(same: Same) -> None:
    """A program's own times are kept by close and writeback, and at the edges of what a time may be."""

    def script(world: World) -> None:
        for nanoseconds in (0, 1, 999_999_999, -1, -2, -1_000_000_000, (1 << 31) * 10**9, (1 << 33) * 10**9 + 5):
            with open(world.path("file"), "wb") as file:
                file.write(b"x" * 5000)
                file.flush()
                os.utime(file.fileno(), ns=(nanoseconds, nanoseconds))
            info = os.stat(world.path("file"))
            world.note("times", (info.st_atime_ns, info.st_mtime_ns))
            os.unlink(world.path("file"))

    same(script)
