"""RamStore: a tree whose names and bytes live in RAM only, and are gone at unmount.

Inodes and their bytes are `ramfile`; this is the tree of names over them. Nothing is ever accounted as dirty or
written back.

The caller (FileSystem) holds its namespace lock around every method here.
"""

import errno
import itertools
import os
import stat
from dataclasses import dataclass

import psutil

from fsbackend.node import DOTS, TIME_NOW, Attr, Cred, Node, SetAttr, current_time_ns
from fsbackend.pagepool import PagePool
from fsbackend.pages import PAGE_SIZE
from fsbackend.ramfile import RamFile, RamNode
from fsbackend.renaming import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from fsbackend.storeio import StoreIo

NAME_MAX = 255


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


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
        if name in DOTS:
            found = parent if name == b"." or parent is self.root else parent.parent
            if not isinstance(found, RamNode):
                raise _error(errno.ESTALE)
            return found
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
        node = self._make(directory, mode, cred, rdev)
        if node.is_dir:
            directory.nlink += 1
        directory.children[name] = node
        directory.touch()
        node.parent, node.name = parent, name
        return node

    def _make(self, directory: RamNode, mode: int, cred: Cred, rdev: int = 0) -> RamNode:
        gid = cred.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        node = RamNode(next(self._inos), mode, cred.uid, gid, rdev)
        if node.is_file:
            node.data = RamFile(self.pool, node, self.io)
        self.by_number[node.ino] = node
        return node

    def tmpfile(self, parent: Node, mode: int, cred: Cred, *, linkable: bool) -> tuple[RamNode, int]:
        """Make a regular file that has no name, as O_TMPFILE does."""
        node = self._make(self._dir(parent), stat.S_IFREG | stat.S_IMODE(mode), cred)
        node.nlink = 0
        node.linkable = linkable
        return node, -1

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
        if (node.nlink == 0 and not node.linkable) or directory.nlink == 0:
            raise _error(errno.ENOENT)
        node.linkable = False
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

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> RamNode | None:
        """Move a name over another, or as renameat2's flags say; return the inode that the other one named, if any."""
        source, target = self._dir(parent), self._dir(new_parent)
        node = self.lookup(parent, name)
        if len(new_name) > NAME_MAX:
            raise _error(errno.ENAMETOOLONG)
        if target.nlink == 0:
            raise _error(errno.ENOENT)
        self._check_not_inside(node, target)
        over = target.children.get(new_name)
        if over is not None and flags & RENAME_NOREPLACE:
            raise _error(errno.EEXIST)
        if flags & RENAME_EXCHANGE:
            self._exchange(node, self.lookup(target, new_name), source, target)
            return None
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
        if flags & RENAME_WHITEOUT:
            self._add(source, name, stat.S_IFCHR, Cred(node.uid, node.gid))
        return over

    def _exchange(self, node: RamNode, other: RamNode, source: RamNode, target: RamNode) -> None:
        """Let two inodes just looked up change names."""
        self._check_not_inside(other, source)
        if node is other:
            return
        source.children[node.name], target.children[other.name] = other, node
        node.parent, node.name, other.parent, other.name = target, other.name, source, node.name
        for moved, old, new in ((node, source, target), (other, target, source)):
            old.nlink -= moved.is_dir
            new.nlink += moved.is_dir
            moved.touch(modified=False)
            old.touch()

    @staticmethod
    def _check_not_inside(node: RamNode, directory: RamNode) -> None:
        above: Node | None = directory
        while above is not None:
            if above is node:
                raise _error(errno.EINVAL)
            above = above.parent

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
            node.atime_ns = now if change.atime_ns == TIME_NOW else change.atime_ns
        if change.mtime_ns is not None:
            node.mtime_ns = now if change.mtime_ns == TIME_NOW else change.mtime_ns
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

    def forget(self, node: Node) -> None:
        """Let an inode go that has no name any more; the others live in the tree."""
        assert isinstance(node, RamNode)
        if node.nlink == 0:
            self.by_number.pop(node.ino, None)
            if isinstance(node.data, RamFile):
                node.data.discard()
