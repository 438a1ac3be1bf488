"""Inodes in memory: what the kernel knows by number, and what every kind of store keeps about them."""

import stat
import time
from dataclasses import dataclass
from typing import Protocol

from fsbackend.errseq import ErrSeq
from fsbackend.pagepool import Block

ROOT_ID = 1

DOTS = frozenset({b".", b".."})
"""What the kernel looks up only on the way from a file handle to a name.

Source: Linux fs/fuse/inode.c: fuse_get_dentry(), fuse_get_parent().
"""

TIME_NOW = 1 << 80
"""In a SetAttr, the time of the change itself; farther than any timespec reaches."""


def current_time_ns() -> int:
    """Return the time that file times are taken from."""
    return time.time_ns()


@dataclass(slots=True)
class Attr:
    """What stat(2) shows; times in nanoseconds."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    nbytes: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


@dataclass(slots=True)
class SetAttr:
    """What a setattr request changes; None leaves as it is. A time may be TIME_NOW."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    nbytes: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Cred:
    """Who asks: the creator's ids."""

    uid: int
    gid: int
    pid: int = 0


class FileData(Protocol):
    """The bytes of one regular file, shared by all of its open handles."""

    nr_open: int
    nbytes: int
    errors: ErrSeq
    writable: bool

    @property
    def nr_pages(self) -> int:
        """Pages that are in memory."""

    def read(self, offset: int, out: memoryview) -> int:
        """Read into `out`; return the bytes read, short at the end of the file."""

    def write(self, offset: int, data: memoryview, *, direct: bool, block: Block | None = None) -> int:
        """Write; return how many pages became dirty and are accounted.

        With `block`, `data` is the whole of that block's memory, and the file may keep it.
        """

    def truncate(self, nbytes: int) -> None:
        """Set the size; what is cut off reads as zeros if the file grows again."""

    def fsync(self, *, datasync: bool) -> None:
        """Return when all bytes are durable."""

    def fallocate(self, mode: int, offset: int, nbytes: int) -> None:
        """Allocate or punch, as fallocate(2)."""

    def discard(self) -> None:
        """Forget the bytes of a file without name and opener."""

    def close(self) -> tuple[int, int]:
        """Close what the last opener left; return mtime and size in the store."""


class Node:
    """An inode that the kernel knows, or that has data in memory.

    `nlookup` counts the kernel's references; `parent` and `name` are one of its names, None once it has none.
    `mtime_ns`, `ctime_ns`: when a program changed it, once that may differ from when the store's file was written (0:
    it does not). `errors`: what went wrong with its writeback, known as long as it is in memory, open or not.
    """

    __slots__ = (
        "ctime_ns",
        "data",
        "errors",
        "id",
        "ino",
        "kind",
        "mtime_ns",
        "name",
        "nlookup",
        "parent",
        "seen",
    )

    def __init__(self, ino: int, kind: int) -> None:
        self.id = 0
        self.ino = ino
        self.kind = kind
        self.nlookup = 0
        self.mtime_ns = 0
        self.ctime_ns = 0
        self.parent: Node | None = None
        self.name = b""
        self.seen: tuple[int, ...] = ()  # mtime and size at the last close
        self.data: FileData | None = None
        self.errors: ErrSeq | None = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.kind == stat.S_IFDIR

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind == stat.S_IFREG

    def inode_changed(self) -> None:
        """Set ctime to now where it is kept here, since the store's own may be that of a writeback."""
        if self.ctime_ns:
            self.ctime_ns = max(current_time_ns(), self.ctime_ns)

    def path(self) -> bytes:
        """Return its path from the mount's root, without a leading slash; for people and for globs."""
        words = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            words.append(node.name)
            node = node.parent
        return b"/".join(reversed(words))
