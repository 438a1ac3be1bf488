"""One script of system calls, run under any directory by a process of its own; what each call said is its record.

A test runs a script on the mount and on a plain directory beside it, and compares the records: the machine's own
filesystem is the judge of what POSIX means here. A script is a function that takes a `World`.
"""

import contextlib
import errno
import os
import pickle
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OTHERS = ((0, 0), (1000, 1000), (1001, 1000), (1002, 1002))
"""Users a script may be: root, the owner of most things, one of its group, a stranger."""
OWNER, MEMBER, STRANGER = OTHERS[1:]

TICK_S = 0.012
"""Longer than the kernel's coarse clock takes to move on."""


class World:
    """A directory to play in, and the record of what was said."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.record: list[str] = []

    def path(self, name: str | bytes) -> bytes:
        """Return the full path of a name; bytes and empty names as they are."""
        name = os.fsencode(name)
        return self.root + b"/" + name if name else b""

    def note(self, what: str, value: object) -> None:
        """Add a line to the record."""
        self.record.append(f"{what}: {value!r}")

    def do(self, what: str, call: Callable[[], Any]) -> Any:
        """Make a call, note its result or its errno, and return the result."""
        try:
            result = call()
        except OSError as error:
            self.note(what, errno.errorcode.get(error.errno or 0, str(error)))
            return None
        self.note(what, result)
        return result

    def open(self, name: str | bytes, flags: int, mode: int = 0o644) -> int | None:
        """Open and note whether it went well; return the descriptor."""
        try:
            fd = os.open(self.path(name), flags, mode)
        except OSError as error:
            self.note(f"open {name!r:.40} {flags:o}", errno.errorcode.get(error.errno or 0))
            return None
        self.note(f"open {name!r:.40} {flags:o}", "opened")
        return fd

    def try_open(self, name: str | bytes, flags: int, mode: int = 0o644) -> None:
        """Open, note, close."""
        fd = self.open(name, flags | os.O_NONBLOCK, mode)
        if fd is not None:
            os.close(fd)

    def show(self, *names: str) -> None:
        """Note type, mode, links, owner, and size if it is no directory."""
        for name in names:
            try:
                info = os.lstat(self.path(name))
            except OSError as error:
                self.note(f"stat {name}", errno.errorcode.get(error.errno or 0))
                continue
            size = -1 if stat.S_ISDIR(info.st_mode) else info.st_size
            self.note(
                f"stat {name}",
                (stat.filemode(info.st_mode), info.st_nlink, info.st_uid, info.st_gid, size, info.st_rdev),
            )

    def moved(self, what: str, call: Callable[[], Any], *names: str) -> None:
        """Note which times of the names a call moves."""
        before = [os.lstat(self.path(name)) for name in names]
        time.sleep(TICK_S)
        self.do(what, call)
        for name, old in zip(names, before, strict=True):
            try:
                new = os.lstat(self.path(name))
            except FileNotFoundError:
                self.note(f"{what}: {name}", "gone")
                continue
            changed = [
                word
                for word, one, other in (
                    ("mtime", old.st_mtime_ns, new.st_mtime_ns),
                    ("ctime", old.st_ctime_ns, new.st_ctime_ns),
                )
                if one != other
            ]
            self.note(f"{what}: {name}", changed)
            if old.st_ctime_ns > new.st_ctime_ns:
                self.note(f"{what}: {name}", "ctime went back")

    @contextlib.contextmanager
    def user(self, who: tuple[int, int]) -> Iterator[None]:
        """Be somebody else for a while."""
        os.setgroups([])
        os.setegid(who[1])
        os.seteuid(who[0])
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    def make(self, name: str, kind: str, mode: int = 0o644, who: tuple[int, int] = (0, 0)) -> None:
        """Make something of a kind: file, dir, full (a directory with something in it), fifo, sock, link, dangling."""
        path = self.path(name)
        if kind == "file":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        elif kind in {"dir", "full"}:
            os.mkdir(path)
        elif kind == "fifo":
            os.mkfifo(path, mode)
        elif kind == "sock":
            os.mknod(path, stat.S_IFSOCK | mode)
        elif kind in {"link", "dangling"}:
            os.symlink(b"target" if kind == "link" else b"nowhere", path)
            os.lchown(path, *who)
            return
        os.chmod(path, mode)
        os.chown(path, *who)
        if kind == "full":
            os.close(os.open(path + b"/inside", os.O_CREAT | os.O_WRONLY, 0o644))


def contents(world: World, name: str) -> None:
    """Note a file's size and bytes, as runs."""
    with open(world.path(name), "rb") as file:
        data = file.read()
    runs: list[tuple[int, int]] = []
    for byte in data:
        if runs and runs[-1][0] == byte:
            runs[-1] = byte, runs[-1][1] + 1
        else:
            runs.append((byte, 1))
    world.note(name, (os.stat(world.path(name)).st_size, runs[:50]))


KINDS = ("file", "dir", "full", "fifo", "sock", "link", "dangling")

Script = Callable[[World], None]


def run_script(root: Path, script: Script) -> list[str]:
    """Run a script under a new directory in a process of its own; return its record."""
    root.mkdir()
    root.chmod(0o777)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(read_fd)
            os.umask(0)
            world = World(root)
            try:
                script(world)
                status = 0
            except BaseException as error:  # noqa: BLE001 - told to the parent
                world.note("the script failed", f"{type(error).__name__}: {error}")
            with os.fdopen(write_fd, "wb") as pipe:
                pickle.dump(world.record, pipe)
        finally:
            os._exit(status)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        record: list[str] = pickle.load(pipe)
    assert os.waitpid(child, 0)[1] == 0, record[-3:]
    return record


def differences(ours: list[str], theirs: list[str]) -> list[str]:
    """Return the lines that differ, ours and the judge's."""
    found = [f"{one}   [the host: {other}]" for one, other in zip(ours, theirs, strict=False) if one != other]
    return found if len(ours) == len(theirs) else [*found, f"{len(ours)} lines, the host has {len(theirs)}"]
