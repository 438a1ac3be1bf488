"""Copies in the kernel, maps and the end of the file, locks, programs: as on the host's filesystem."""

import fcntl
import mmap
import os
import resource
import signal
import struct
from collections.abc import Callable

import pytest

from tests.fuse.posix import Script, World, contents

pytestmark = pytest.mark.fuse

Same = Callable[[Script], None]


def test_copies_in_the_kernel(same: Same) -> None:
    def script(world: World) -> None:
        data = os.urandom(300_000)
        with open(world.path("one"), "wb") as file:
            file.write(data)
        one = os.open(world.path("one"), os.O_RDONLY)
        two = os.open(world.path("two"), os.O_CREAT | os.O_RDWR, 0o644)
        copied = 0
        while copied < len(data):
            copied += os.copy_file_range(one, two, 100_000, copied, copied)
        world.note("copy_file_range", os.pread(two, len(data) + 1, 0) == data)
        os.ftruncate(two, 0)
        copied = 0
        while copied < len(data):
            copied += os.sendfile(two, one, copied, len(data) - copied)
        world.note("sendfile", os.pread(two, len(data) + 1, 0) == data)
        world.do("overlapping", lambda: os.copy_file_range(two, two, 1000, 0, 500))
        read_end, write_end = os.pipe()
        world.do("splice in", lambda: os.splice(one, write_end, 5000, offset_src=7))
        world.do("splice out", lambda: os.splice(read_end, two, 5000, offset_dst=11))
        world.note("spliced", os.pread(two, 5000, 11) == data[7:5007])
        for fd in (one, two, read_end, write_end):
            os.close(fd)

    same(script)


def test_maps_and_the_end_of_the_file(same: Same) -> None:
    def script(world: World) -> None:
        fd = os.open(world.path("file"), os.O_CREAT | os.O_RDWR, 0o644)
        os.write(fd, b"x" * 5000)
        with mmap.mmap(fd, 5000) as mapped:
            mapped[4990:5000] = b"y" * 10
            world.note("the rest of the last page", mapped[:] == b"x" * 4990 + b"y" * 10)
        os.ftruncate(fd, 9000)
        contents(world, "file")
        with mmap.mmap(fd, 9000) as mapped:
            os.ftruncate(fd, 100)
            world.note("after truncation", mapped[:200] == b"x" * 100 + bytes(100))
            os.ftruncate(fd, 9000)
            world.note("grown again", mapped[:] == b"x" * 100 + bytes(8900))
            mapped[8999:9000] = b"z"
            os.pwrite(fd, b"w", 50)
            world.note("write seen", mapped[50:51])
            world.note("store seen", os.pread(fd, 1, 8999))
        with mmap.mmap(fd, 9000, flags=mmap.MAP_PRIVATE) as private:
            private[0:3] = b"no!"
        contents(world, "file")
        world.note("store past the end", stores_past_end(world))
        os.close(fd)

    same(script)


def stores_past_end(world: World) -> int:
    """Return the signal that a child dies of who stores beyond the last page of the file."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        fd = os.open(world.path("file"), os.O_RDWR)
        os.ftruncate(fd, 20_000)
        mapped = mmap.mmap(fd, 20_000)
        os.ftruncate(fd, 100)
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        mapped[8192] = 1
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_locks_between_processes(same: Same) -> None:
    def try_in_child(call: Callable[[], object]) -> int:
        child = os.fork()
        if not child:
            try:
                call()
                os._exit(0)
            except OSError as error:
                os._exit(error.errno or 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def script(world: World) -> None:
        world.make("file", "file")
        file = open(world.path("file"), "r+b")  # noqa: SIM115 - closed below: closing drops the locks

        def again(call: Callable[[int], object]) -> object:
            with open(world.path("file"), "r+b") as other:
                return call(other.fileno())

        fcntl.flock(file, fcntl.LOCK_EX)
        world.note("flock", try_in_child(lambda: again(lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))))
        fcntl.flock(file, fcntl.LOCK_UN)
        world.note("free", try_in_child(lambda: again(lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))))
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
        for start in (0, 5, 14, 15):
            world.note(
                f"record {start}",
                try_in_child(
                    lambda s=start: again(lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, s))  # type: ignore[misc]
                ),
            )
        query = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
        world.note("none of ours in the way", struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, query))[0])
        file.close()
        world.note("gone", try_in_child(lambda: again(lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))))

    same(script)


def test_programs_run_from_it(same: Same) -> None:
    def script(world: World) -> None:
        with open("/bin/true", "rb") as source, open(world.path("true"), "wb") as target:
            target.write(source.read())
        os.chmod(world.path("true"), 0o755)
        child = os.fork()
        if not child:
            os.execv(world.path("true"), [b"true"])
        world.note("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with open("/bin/sleep", "rb") as source, open(world.path("sleep"), "wb") as target:
            target.write(source.read())
        os.chmod(world.path("sleep"), 0o755)
        ready, told = os.pipe()
        child = os.fork()
        if not child:
            os.set_inheritable(told, False)
            os.execv(world.path("sleep"), [b"sleep", b"20"])
        os.close(told)
        os.read(ready, 1)  # ends when exec has closed the other end
        world.try_open("sleep", os.O_WRONLY)
        world.do("unlink", lambda: os.unlink(world.path("sleep")))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    same(script)
