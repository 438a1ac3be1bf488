"""An inode in RAM, and the bytes of a regular one: pages of mmap-backed numpy memory.

A page that was never written takes no memory. Nothing here is ever accounted as dirty or written back.
"""

import errno
import os
import stat
import threading

from fsbackend.errseq import ErrSeq
from fsbackend.node import Node, current_time_ns
from fsbackend.pagepool import Block, PagePool
from fsbackend.pages import CHUNK_SIZE, PAGE_SIZE, PageMap
from fsbackend.storeio import StoreIo

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16


class RamNode(Node):
    """An inode in RAM."""

    __slots__ = ("atime_ns", "children", "gid", "linkable", "mode", "nlink", "rdev", "target", "uid", "xattrs")

    def __init__(self, ino: int, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        super().__init__(ino, stat.S_IFMT(mode))
        self.mode, self.uid, self.gid, self.rdev = mode, uid, gid, rdev
        self.nlink = 2 if self.is_dir else 1
        self.children: dict[bytes, RamNode] = {}
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}
        self.linkable = False  # made without a name, as O_TMPFILE does
        self.atime_ns = self.mtime_ns = self.ctime_ns = current_time_ns()

    def touch(self, *, modified: bool = True) -> None:
        """Set ctime, and mtime if it was modified, to now."""
        self.ctime_ns = max(current_time_ns(), self.ctime_ns)
        if modified:
            self.mtime_ns = self.ctime_ns

    def accessed(self) -> None:
        """Set atime to now if it is older than the last change, as the mount option relatime does."""
        if self.atime_ns <= max(self.mtime_ns, self.ctime_ns):
            self.atime_ns = current_time_ns()


class RamFile:
    """A regular file's bytes in RAM; pages that were never written are holes."""

    def __init__(self, pool: PagePool, node: RamNode, io: StoreIo) -> None:
        self.node = node
        self.pages = PageMap(pool)
        self.nbytes = 0
        self.nr_open = 0
        self.errors = ErrSeq()
        self.writable = True
        self.lock = threading.RLock()
        self.io = io

    @property
    def nr_pages(self) -> int:
        """Pages that are in memory."""
        return self.pages.nr_pages

    def read(self, offset: int, out: memoryview) -> int:
        """Read; holes are zeros."""
        with self.lock:
            nbytes = min(len(out), max(self.nbytes - offset, 0))
            if nbytes:
                out = out[:nbytes]
                if not self.pages.covers(offset, nbytes):
                    out[:] = bytes(nbytes)
                self.pages.overlay(offset, out)
                self.node.accessed()
            return nbytes

    def write(self, offset: int, data: memoryview, *, direct: bool, block: Block | None = None) -> int:  # noqa: ARG002 - RAM is direct
        """Write; nothing becomes dirty."""
        with self.lock:
            if block is not None and not offset % CHUNK_SIZE:
                self.pages.adopt(offset, block)
            else:
                self.pages.write(offset, data, self._fill)
            self.nbytes = max(self.nbytes, offset + len(data))
            self.node.touch()
        return 0

    @staticmethod
    def _fill(_offset: int, page: memoryview) -> None:
        page[:] = bytes(len(page))

    def truncate(self, nbytes: int) -> None:
        """Set the size; what is cut off reads as zeros if the file grows again."""
        with self.lock:
            if nbytes < self.nbytes:
                self.pages.drop(nbytes, self.nbytes + PAGE_SIZE)
                self.pages.zero(nbytes, (nbytes | PAGE_SIZE - 1) + 1)
            self.nbytes = nbytes
            self.node.touch()

    def fsync(self, *, datasync: bool) -> None:
        """Do nothing: this is as durable as RAM gets."""

    def discard(self) -> None:
        """Give the memory back."""
        with self.lock:
            self.pages.clear()

    def close(self) -> tuple[int, int]:
        """Do nothing: the bytes live on in RAM."""
        return 0, 0

    def fallocate(self, mode: int, offset: int, nbytes: int) -> None:
        """Punch or zero a range, or grow the file."""
        end = offset + nbytes
        with self.lock:
            if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                self.pages.zero(offset, end)
                self.pages.drop(offset, end)
            if not mode & FALLOC_KEEP_SIZE:
                self.nbytes = max(self.nbytes, end)
            self.node.touch()
