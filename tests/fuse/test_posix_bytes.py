"""What reads, writes, maps and allocations give back, and refuse: as on the host's filesystem."""

import errno
import fcntl
import mmap
import os
import resource
import signal
from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.storeio import fallocate
from tests.fuse.posix import Script, World, contents

pytestmark = pytest.mark.fuse

Same = Callable[[Script], None]

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32


CALLS: dict[str, Callable[[int], object]] = {
    "read": lambda fd: os.read(fd, 10),
    "write": lambda fd: os.write(fd, b"ab"),
    "pread negative": lambda fd: os.pread(fd, 10, -1),
    "pwrite negative": lambda fd: os.pwrite(fd, b"x", -1),
    "ftruncate": lambda fd: os.ftruncate(fd, 7),
    "ftruncate negative": lambda fd: os.ftruncate(fd, -1),
    "fsync": os.fsync,
    "fdatasync": os.fdatasync,
    "lseek negative": lambda fd: os.lseek(fd, -1, os.SEEK_SET),
    "lseek": lambda fd: os.lseek(fd, 5, os.SEEK_SET),
    "fallocate": lambda fd: fallocate(fd, 0, 0, 100),
    "fallocate nothing": lambda fd: fallocate(fd, 0, 0, 0),
    "fchmod": lambda fd: os.fchmod(fd, 0o600),
    "mmap": lambda fd: mmap.mmap(fd, 1).close(),
    "ioctl": lambda fd: fcntl.ioctl(fd, 0x5401, bytes(64)),
}


def test_descriptors_refuse(same: Same) -> None:
    def script(world: World) -> None:
        world.make("file", "file")
        os.truncate(world.path("file"), 20)
        world.make("dir", "dir", 0o755)
        opened = {"file": (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_PATH), "dir": (os.O_RDONLY,)}
        for name, ways in opened.items():
            for flags in ways:
                fd = os.open(world.path(name), flags)
                for what, call in CALLS.items():
                    world.do(f"{what} {name} {flags:o}", lambda call=call, fd=fd: call(fd))  # type: ignore[misc]
                os.close(fd)
                contents(world, "file")

    same(script)


def test_append(same: Same) -> None:
    """Writers that append, from two processes and beside a truncation, never overwrite each other."""

    def script(world: World) -> None:
        children = []
        for letter in (b"a", b"b"):
            child = os.fork()
            if not child:
                fd = os.open(world.path("log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
                for _ in range(200):
                    os.write(fd, letter * 37)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        with open(world.path("log"), "rb") as file:
            data = file.read()
        records = [data[start : start + 37] for start in range(0, len(data), 37)]
        world.note("whole records", sorted(records) == [b"a" * 37] * 200 + [b"b" * 37] * 200)
        fd = os.open(world.path("log"), os.O_RDWR | os.O_APPEND)
        os.ftruncate(fd, 10)
        world.do("append after truncation", lambda: os.write(fd, b"end"))
        world.do("pwrite appends", lambda: os.pwrite(fd, b"!", 0))
        world.note("position", os.lseek(fd, 0, os.SEEK_CUR))
        os.close(fd)
        contents(world, "log")

    same(script)


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, PUNCH_HOLE, ZERO, ZERO | KEEP_SIZE])
def test_fallocate(same: Same, mode: int) -> None:
    def script(world: World) -> None:
        for start, nbytes in ((0, 4096), (100, 5000), (4096, 8192), (19_990, 9), (19_000, 5000), (50_000, 70_000)):
            fd = os.open(world.path("file"), os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644)
            os.write(fd, b"x" * 20_000)
            world.do(f"fallocate {mode} {start} {nbytes}", lambda s=start, n=nbytes, fd=fd: fallocate(fd, mode, s, n))  # type: ignore[misc]
            contents(world, "file")
            os.pwrite(fd, b"y" * 100, start + 50)
            contents(world, "file")
            os.close(fd)

    same(script)


def test_what_fuse_cannot_carry(shared_mount: TemporaryMount) -> None:
    """It is refused with the errno that programs fall back on."""
    path = shared_mount.path / "refused"
    with path.open("w+b") as file:
        file.write(b"x" * 20_000)
        file.flush()
        for mode in (COLLAPSE, INSERT):
            with pytest.raises(OSError, check=lambda error: error.errno == errno.EOPNOTSUPP):
                fallocate(file.fileno(), mode, 4096, 4096)
    path.unlink()


def test_holes(same: Same) -> None:
    def script(world: World) -> None:
        fd = os.open(world.path("file"), os.O_CREAT | os.O_RDWR, 0o644)
        os.pwrite(fd, b"x" * 8192, 1 << 20)
        os.ftruncate(fd, 3 << 20)
        world.do("data at the data", lambda: os.lseek(fd, (1 << 20) + 5, os.SEEK_DATA))
        world.do("hole at the end", lambda: os.lseek(fd, (3 << 20) - 1, os.SEEK_HOLE) <= 3 << 20)
        world.do("data beyond", lambda: os.lseek(fd, 3 << 20, os.SEEK_DATA))
        world.do("hole beyond", lambda: os.lseek(fd, 3 << 20, os.SEEK_HOLE))
        found, at = b"", 0
        while at < 3 << 20:  # what a copying program does: it must find all that is data
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(fd, at, os.SEEK_HOLE)
            found += os.pread(fd, end - at, at).replace(b"\0", b"")
            at = end
        world.note("all data found", found == b"x" * 8192)
        world.note("sparse", os.fstat(fd).st_blocks * 512 < 1 << 20)
        os.close(fd)

    same(script)


def test_limits_of_size(same: Same) -> None:
    def script(world: World) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        fd = os.open(world.path("file"), os.O_CREAT | os.O_RDWR, 0o644)
        world.do("sparse and large", lambda: os.pwrite(fd, b"end", 1 << 40))
        world.do("its end", lambda: os.pread(fd, 10, 1 << 40))
        world.do("its middle", lambda: os.pread(fd, 3, 1 << 39))
        world.do("size", lambda: os.fstat(fd).st_size)
        os.ftruncate(fd, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        world.do("up to the limit", lambda: os.pwrite(fd, b"x" * 20_000, 0))
        world.do("at the limit", lambda: os.pwrite(fd, b"x", 10_000))
        world.do("truncate over it", lambda: os.ftruncate(fd, 10_001))
        os.close(fd)
        contents(world, "file")

    same(script)


def test_a_file_grows_as_far_as_its_store(make_mount: Callable[..., TemporaryMount]) -> None:
    """Beyond, the write is refused at once: at writeback nobody could be told."""
    mounted = make_mount("disk")
    refused: list[bool] = []
    with (
        (mounted.path / "ours").open("wb", buffering=0) as ours,
        (mounted.base / "host").open("wb", buffering=0) as host,
    ):
        for end in (1 << 32, 1 << 40, (1 << 44) - 4096, 1 << 44, (1 << 44) + 1, 1 << 62, (1 << 63) - 1):
            for file in (ours, host):
                try:
                    os.pwrite(file.fileno(), b"x", end - 1)
                    refused.append(False)
                except OSError as error:
                    assert error.errno == errno.EFBIG  # noqa: PT017 - both ways are right, if they are the same
                    refused.append(True)
            assert refused[-1] == refused[-2], f"at {end}"
        os.ftruncate(ours.fileno(), 0)
        os.ftruncate(host.fileno(), 0)


def test_vectors_and_flags(same: Same) -> None:
    def script(world: World) -> None:
        fd = os.open(world.path("file"), os.O_CREAT | os.O_RDWR, 0o644)
        world.do("writev", lambda: os.writev(fd, [b"one", b"", b"two" * 3000]))
        buffers = [bytearray(2), bytearray(5000), bytearray(9000)]
        world.do("preadv", lambda: os.preadv(fd, buffers, 1))
        world.note("read", [bytes(buffer[:4]) for buffer in buffers])
        world.do("pwritev at once durable", lambda: os.pwritev(fd, [b"sync"], 100, os.RWF_DSYNC))
        world.do("pwritev appends", lambda: os.pwritev(fd, [b"tail"], 0, os.RWF_APPEND))
        os.close(fd)
        for flags in (os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_NONBLOCK):
            fd = os.open(world.path("file"), os.O_RDWR | flags)
            world.do(f"write {flags:o}", lambda fd=fd: os.pwrite(fd, b"flag", 200))  # type: ignore[misc]
            os.close(fd)
        contents(world, "file")
        world.do("posix_fadvise", lambda: os.posix_fadvise(os.open(world.path("file"), 0), 0, 0, 4))

    same(script)


def test_a_removed_file_lives_while_it_is_open(same: Same) -> None:
    def script(world: World) -> None:
        fd = os.open(world.path("file"), os.O_CREAT | os.O_RDWR, 0o644)
        os.write(fd, b"x" * 9000)
        os.unlink(world.path("file"))
        world.note("links", os.fstat(fd).st_nlink)
        world.do("write", lambda: os.pwrite(fd, b"y", 8999))
        world.do("grow", lambda: os.ftruncate(fd, 20_000))
        world.do("fsync", lambda: os.fsync(fd))
        world.do("fchmod", lambda: os.fchmod(fd, 0o600))
        world.do("fchown", lambda: os.fchown(fd, 12, 13))
        world.do("futime", lambda: os.utime(fd, ns=(1, 2)))
        info = os.fstat(fd)
        world.note("attributes", (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns))
        world.do("again by number", lambda: os.pread(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 2, 8998))
        world.do("a new name", lambda: os.link(f"/proc/self/fd/{fd}", world.path("new"), follow_symlinks=True))
        world.make("file", "file")
        world.note("another", os.stat(world.path("file")).st_size)
        with mmap.mmap(fd, 20_000) as mapped:
            mapped[0:1] = b"z"
        world.do("read", lambda: os.pread(fd, 2, 0))
        os.close(fd)

    same(script)
