"""RamStore: a tree whose names and bytes live in RAM only, and are gone at unmount.

A file's bytes are pages of mmap-backed numpy memory; a page that was never written takes none. Nothing here is
ever accounted as dirty or written back.

The caller (FileSystem) holds its namespace lock around every method here but those of RamFile.
"""

import errno
import itertools
import os
import stat
import threading
from dataclasses import dataclass

import psutil

from fsbackend.node import Attr, Cred, Node, SetAttr, current_time_ns
from fsbackend.pages import PAGE_SIZE, PageMap, PagePool
from fsbackend.storeio import StoreIo

NAME_MAX = 255
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class RamNode(Node):
    """An inode in RAM."""

    __slots__ = ("atime_ns", "children", "gid", "mode", "nlink", "rdev", "target", "uid")

    def __init__(self, ino: int, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        super().__init__(ino, stat.S_IFMT(mode))
        self.mode, self.uid, self.gid, self.rdev = mode, uid, gid, rdev
        self.nlink = 2 if self.is_dir else 1
        self.children: dict[bytes, RamNode] = {}
        self.target = b""
        self.atime_ns = self.mtime_ns = self.ctime_ns = current_time_ns()

    def touch(self, *, modified: bool = True) -> None:
        """Set ctime, and mtime if it was modified, to now."""
        self.ctime_ns = max(current_time_ns(), self.ctime_ns)
        if modified:
            self.mtime_ns = self.ctime_ns


class RamFile:
    """A regular file's bytes in RAM; pages that were never written are holes."""

    def __init__(self, pool: PagePool, node: RamNode, io: StoreIo) -> None:
        self.node = node
        self.pages = PageMap(pool)
        self.nbytes = 0
        self.nr_open = 0
        self.err_seq = 0
        self.err_no = 0
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
            return nbytes

    def write(self, offset: int, data: memoryview, *, direct: bool) -> int:  # noqa: ARG002 - RAM is direct
        """Write; nothing becomes dirty."""
        with self.lock:
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
                raise _error(errno.EOPNOTSUPP)
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                self.pages.zero(offset, end)
                self.pages.drop(offset, end)
            if not mode & FALLOC_KEEP_SIZE:
                self.nbytes = max(self.nbytes, end)
            self.node.touch()

    def seek(self, offset: int, *, data: bool) -> int | None:
        """Find the next page that is here, or is not."""
        with self.lock:
            if offset >= self.nbytes:
                return None
            found = self.pages.next_page(offset, present=data)
            if data:
                return found if found is not None and found < self.nbytes else None
            return self.nbytes if found is None else min(found, self.nbytes)


@dataclass(frozen=True, slots=True)
class RamStatfs:
    """The figures of statfs(2) for a tree in RAM."""

    f_bsize: int
    f_frsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_flag: int
    f_namemax: int


class RamStore:
    """A tree in RAM."""

    path = ""

    def __init__(self, io: StoreIo, mode: int = 0o755) -> None:
        self.io = io
        self.pool = PagePool()
        self._inos = itertools.count(2)
        self.root = RamNode(1, stat.S_IFDIR | mode, os.geteuid(), os.getegid())
        self.by_number: dict[int, RamNode] = {1: self.root}

    def close(self) -> None:
        """Let everything go."""
        self.by_number.clear()
        self.root.children.clear()

    def _dir(self, node: Node) -> RamNode:
        assert isinstance(node, RamNode)
        if not node.is_dir:
            raise _error(errno.ENOTDIR)
        return node

    def lookup(self, parent: Node, name: bytes) -> RamNode:
        """Return the inode of a name; ENOENT, ENAMETOOLONG."""
        if len(name) > NAME_MAX:
            raise _error(errno.ENAMETOOLONG)
        node = self._dir(parent).children.get(name)
        if node is None:
            raise _error(errno.ENOENT)
        node.parent, node.name = parent, name
        return node

    def find_ino(self, ino: int) -> RamNode | None:
        """Return the inode of that number."""
        return self.by_number.get(ino)

    def getattr(self, node: Node) -> Attr:
        """Return what stat shows."""
        assert isinstance(node, RamNode)
        nbytes, blocks = len(node.target), 0
        if isinstance(node.data, RamFile):
            nbytes, blocks = node.data.nbytes, node.data.pages.nr_pages * (PAGE_SIZE // 512)
        elif node.is_dir:
            nbytes = 4096
        return Attr(
            node.ino,
            node.mode,
            node.nlink,
            node.uid,
            node.gid,
            node.rdev,
            nbytes,
            blocks,
            node.atime_ns,
            node.mtime_ns,
            node.ctime_ns,
        )

    def readdir(self, node: Node) -> list[tuple[bytes, int, int]]:
        """Return (name, inode number, type) of each entry."""
        return [(name, child.ino, child.kind) for name, child in self._dir(node).children.items()]

    def readlink(self, node: Node) -> bytes:
        """Return a symbolic link's target."""
        assert isinstance(node, RamNode)
        return node.target

    def _add(self, parent: Node, name: bytes, mode: int, cred: Cred, rdev: int = 0) -> RamNode:
        directory = self._dir(parent)
        if directory.nlink == 0:
            raise _error(errno.ENOENT)
        if len(name) > NAME_MAX:
            raise _error(errno.ENAMETOOLONG)
        if name in directory.children:
            raise _error(errno.EEXIST)
        gid = cred.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        node = RamNode(next(self._inos), mode, cred.uid, gid, rdev)
        if node.is_file:
            node.data = RamFile(self.pool, node, self.io)
        if node.is_dir:
            directory.nlink += 1
        directory.children[name] = node
        directory.touch()
        node.parent, node.name = parent, name
        self.by_number[node.ino] = node
        return node

    def create(self, parent: Node, name: bytes, mode: int, cred: Cred) -> tuple[RamNode, int]:
        """Make a regular file."""
        return self._add(parent, name, stat.S_IFREG | stat.S_IMODE(mode), cred), -1

    def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, cred: Cred) -> RamNode:
        """Make a file of any type but a directory or a symbolic link."""
        return self._add(parent, name, mode if stat.S_IFMT(mode) else mode | stat.S_IFREG, cred, rdev)

    def mkdir(self, parent: Node, name: bytes, mode: int, cred: Cred) -> RamNode:
        """Make a directory."""
        return self._add(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), cred)

    def symlink(self, parent: Node, name: bytes, target: bytes, cred: Cred) -> RamNode:
        """Make a symbolic link."""
        node = self._add(parent, name, stat.S_IFLNK | 0o777, cred)
        node.target = target
        return node

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """Give an inode one more name."""
        assert isinstance(node, RamNode)
        directory = self._dir(parent)
        if len(name) > NAME_MAX:
            raise _error(errno.ENAMETOOLONG)
        if name in directory.children:
            raise _error(errno.EEXIST)
        if node.nlink == 0 or directory.nlink == 0:
            raise _error(errno.ENOENT)
        directory.children[name] = node
        directory.touch()
        node.nlink += 1
        node.touch(modified=False)
        node.parent, node.name = parent, name

    def unlink(self, parent: Node, name: bytes) -> RamNode:
        """Take a name away."""
        node = self.lookup(parent, name)
        if node.is_dir:
            raise _error(errno.EISDIR)
        self._remove(self._dir(parent), name, node)
        return node

    def rmdir(self, parent: Node, name: bytes) -> RamNode:
        """Remove an empty directory."""
        node = self.lookup(parent, name)
        self._dir(node)
        if node.children:
            raise _error(errno.ENOTEMPTY)
        self._remove(self._dir(parent), name, node)
        return node

    def _remove(self, directory: RamNode, name: bytes, node: RamNode) -> None:
        del directory.children[name]
        directory.touch()
        node.touch(modified=False)
        if node.is_dir:
            directory.nlink -= 1
            node.nlink = 0
        else:
            node.nlink -= 1
        if not node.nlink:
            node.parent = None

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes) -> RamNode | None:
        """Move a name over another; return the inode that the other one named, if any."""
        source, target = self._dir(parent), self._dir(new_parent)
        node = self.lookup(parent, name)
        if len(new_name) > NAME_MAX:
            raise _error(errno.ENAMETOOLONG)
        if target.nlink == 0:
            raise _error(errno.ENOENT)
        above: Node | None = target
        while above is not None:
            if above is node:
                raise _error(errno.EINVAL)
            above = above.parent
        over = target.children.get(new_name)
        if over is node:
            return None
        if over is not None:
            self._check_over(node, over)
            self._remove(target, new_name, over)
        del source.children[name]
        target.children[new_name] = node
        if node.is_dir:
            source.nlink -= 1
            target.nlink += 1
        source.touch()
        target.touch()
        node.touch(modified=False)
        node.parent, node.name = new_parent, new_name
        return over

    @staticmethod
    def _check_over(node: RamNode, over: RamNode) -> None:
        if node.is_dir and not over.is_dir:
            raise _error(errno.ENOTDIR)
        if over.is_dir and not node.is_dir:
            raise _error(errno.EISDIR)
        if over.children:
            raise _error(errno.ENOTEMPTY)

    def setattr(self, node: Node, change: SetAttr) -> None:
        """Change owner, mode and times."""
        assert isinstance(node, RamNode)
        if change.uid is not None:
            node.uid = change.uid
        if change.gid is not None:
            node.gid = change.gid
        if change.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(change.mode)
        now = current_time_ns()
        if change.atime_ns is not None:
            node.atime_ns = now if change.atime_ns == -1 else change.atime_ns
        if change.mtime_ns is not None:
            node.mtime_ns = now if change.mtime_ns == -1 else change.mtime_ns
        node.touch(modified=False)

    def statfs(self) -> RamStatfs:
        """Return what the machine's memory allows."""
        memory = psutil.virtual_memory()
        total, free = memory.total // PAGE_SIZE, memory.available // PAGE_SIZE
        return RamStatfs(PAGE_SIZE, PAGE_SIZE, total, free, free, 1 << 32, 1 << 31, 1 << 31, 0, NAME_MAX)

    def open_data(self, node: Node) -> int:
        """Return no descriptor: the bytes are in RAM."""
        del node
        return -1

    def fsync_dir(self, node: Node) -> None:
        """Do nothing."""

    def forget(self, node: Node) -> None:
        """Let an inode go that has no name any more; the others live in the tree."""
        assert isinstance(node, RamNode)
        if node.nlink == 0:
            self.by_number.pop(node.ino, None)
            if isinstance(node.data, RamFile):
                node.data.discard()
