"""The inodes of a store of real files: found by name or number, reached by descriptors, never by following links.

Everything is done relative to directory descriptors and without following links, so nothing in the backing
tree leads out of it. One mount at a time has a store: the directory carries an exclusive flock.

What changes the tree is `dirstore`. The caller (FileSystem) holds its namespace lock around every method here.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from fsbackend.node import DOTS, Attr, Node

RESERVED_NAME = b".fremap-journal"
"""Where a store that can be power-cut keeps what was unlinked since the last commit; never shown."""

DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DIR_FDS = 2048
_NOT_FOR_WRITING = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY})


class DirNode(Node):
    """An inode of a real store; `dir_fd` is open on a directory in use, `hold_fd` on a nameless inode."""

    __slots__ = ("dev", "dir_fd", "hold_fd")

    def __init__(self, ino: int, kind: int, dev: int) -> None:
        super().__init__(ino, kind)
        self.dev = dev
        self.dir_fd = -1
        self.hold_fd = -1


def _lock_holder(ino: int) -> int:
    """Return the process that holds an exclusive flock on an inode of that number; 0 if the kernel does not tell.

    The device in the same line is the superblock's, which on btrfs is not what stat(2) says: it is not compared.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for words in map(str.split, Path("/proc/locks").read_text(encoding="ascii").splitlines()):
            if words[1] == "FLOCK" and words[3] == "WRITE" and words[5].rpartition(":")[2] == str(ino):
                return max(int(words[4]), 0)
    return 0


class DirInodes:
    """The inodes under a directory that are in memory, and the way to each."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.root_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self.root_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _lock_holder(os.fstat(self.root_fd).st_ino)
            os.close(self.root_fd)
            how = f"daemon pid {holder}: `fremap status` shows it, `kill {holder}` ends it" if holder else "end it"
            raise OSError(errno.EBUSY, f"the store is in use by another mount ({how})", path) from error
        with contextlib.suppress(FileNotFoundError):  # of a daemon that was killed: that is no power cut
            shutil.rmtree(RESERVED_NAME, dir_fd=self.root_fd)
        info = os.fstat(self.root_fd)
        self.root = DirNode(info.st_ino, stat.S_IFDIR, info.st_dev)
        self.root.dir_fd = self.root_fd
        self.by_ino: dict[tuple[int, int], DirNode] = {(info.st_dev, info.st_ino): self.root}
        self._nr_dir_fds = 0

    def close(self) -> None:
        """Close what is open and let the store go."""
        for node in self.by_ino.values():
            self._close_fds(node)
        os.close(self.root_fd)

    # ---- finding

    def lookup(self, parent: Node, name: bytes) -> DirNode:
        """Return the inode of a name; ENOENT."""
        if name in DOTS:
            return self._known_way(parent, name)
        if name == RESERVED_NAME and parent is self.root:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._node(parent, name, os.lstat(name, dir_fd=self.dir_fd(parent)))

    def _known_way(self, node: Node, name: bytes) -> DirNode:
        """Return an inode itself, or the directory that it is in: never one above the root, and none is renamed."""
        found = node if name == b"." or node is self.root else node.parent
        if not isinstance(found, DirNode):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self.by_ino.setdefault((found.dev, found.ino), found)

    def _node(self, parent: Node, name: bytes, info: os.stat_result) -> DirNode:
        key = (info.st_dev, info.st_ino)
        node = self.by_ino.get(key)
        if node is None or node.kind != stat.S_IFMT(info.st_mode):
            node = self.by_ino[key] = DirNode(info.st_ino, stat.S_IFMT(info.st_mode), info.st_dev)
        node.parent, node.name = parent, name
        if node.hold_fd >= 0:  # it was held for want of a name that we know
            os.close(node.hold_fd)
            node.hold_fd = -1
        return node

    def find_ino(self, ino: int) -> DirNode | None:
        """Return the inode of that number if it is in memory."""
        return self.by_ino.get((self.root.dev, ino))

    def dir_fd(self, node: Node) -> int:
        """Return a descriptor of a directory, opening the way to it from the nearest open one."""
        assert isinstance(node, DirNode)
        if node.dir_fd >= 0:
            return node.dir_fd
        way: list[DirNode] = []
        while node.dir_fd < 0:
            way.append(node)
            if node.hold_fd >= 0 or not isinstance(node.parent, DirNode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            node = node.parent
        if self._nr_dir_fds > _MAX_DIR_FDS:
            self._trim_dir_fds(keep=node)
        for step in reversed(way):
            fd = os.open(step.name, PATH_FLAGS | os.O_DIRECTORY, dir_fd=node.dir_fd)
            if os.fstat(fd).st_ino != step.ino:
                os.close(fd)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            step.dir_fd = fd
            self._nr_dir_fds += 1
            node = step
        return node.dir_fd

    def _trim_dir_fds(self, keep: DirNode) -> None:
        for node in self.by_ino.values():
            if node.dir_fd >= 0 and node is not self.root and node is not keep:
                os.close(node.dir_fd)
                node.dir_fd = -1
        self._nr_dir_fds = 0

    @contextlib.contextmanager
    def inode_path(self, node: Node) -> Iterator[str]:
        """Give a path in /proc that stands for the very inode, for calls that take no descriptor of it."""
        assert isinstance(node, DirNode)
        if node.hold_fd >= 0:
            yield f"/proc/self/fd/{node.hold_fd}"
            return
        if node is self.root:
            yield f"/proc/self/fd/{self.root_fd}"
            return
        fd = self._open_named(node, PATH_FLAGS)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def _open_named(self, node: Node, flags: int) -> int:
        if node.parent is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        fd = os.open(node.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.dir_fd(node.parent))
        if os.fstat(fd).st_ino != node.ino:
            os.close(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fd

    def stat(self, node: Node) -> os.stat_result:
        """Return the store's own view of the inode."""
        assert isinstance(node, DirNode)
        if node is self.root:
            return os.fstat(self.root_fd)
        if node.hold_fd >= 0:
            return os.fstat(node.hold_fd)
        fd = getattr(node.data, "fd", -1)
        if fd >= 0:
            return os.fstat(fd)
        if node.parent is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        info = os.lstat(node.name, dir_fd=self.dir_fd(node.parent))
        if info.st_ino != node.ino:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return info

    def getattr(self, node: Node) -> Attr:
        """Return what stat shows: the store's values, with size and times of what is not written back yet."""
        info = self.stat(node)
        attr = Attr(
            info.st_ino,
            info.st_mode,
            info.st_nlink,
            info.st_uid,
            info.st_gid,
            info.st_rdev,
            info.st_size,
            info.st_blocks,
            info.st_atime_ns,
            info.st_mtime_ns,
            info.st_ctime_ns,
        )
        if node.mtime_ns:
            attr.mtime_ns = node.mtime_ns
        if node.ctime_ns:
            attr.ctime_ns = node.ctime_ns
        data = node.data
        if data is not None:
            attr.nbytes = data.nbytes
            nr_pages = data.nr_pages
            if nr_pages:
                most = (max(info.st_size, data.nbytes) + 4095) // 4096 * 8
                attr.blocks = max(min(info.st_blocks + nr_pages * 8, most), info.st_blocks)
        return attr

    def readdir(self, node: Node) -> list[tuple[bytes, int, int]]:
        """Return (name, inode number, type) of each entry, without ``.`` and ``..``."""
        fd = os.open(b".", DIR_FLAGS, dir_fd=self.dir_fd(node))
        try:
            with os.scandir(fd) as entries:
                return [
                    (os.fsencode(entry.name), entry.inode(), _entry_type(entry))
                    for entry in entries
                    if not (node is self.root and os.fsencode(entry.name) == RESERVED_NAME)
                ]
        finally:
            os.close(fd)

    def readlink(self, node: Node) -> bytes:
        """Return a symbolic link's target, as it is."""
        assert isinstance(node, DirNode)
        if node.hold_fd >= 0:
            return os.readlink(b"", dir_fd=node.hold_fd)
        if node.parent is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.readlink(node.name, dir_fd=self.dir_fd(node.parent))

    # ---- what is in them

    def statfs(self) -> os.statvfs_result:
        """Return the store's filesystem's figures."""
        return os.fstatvfs(self.root_fd)

    def max_file_nbytes(self) -> int:
        """Return how large a file may grow here: found by trying, on a file without a name."""
        least, most = 1 << 30, (1 << 63) - 1
        try:
            fd = os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self.root_fd)
        except OSError:
            return most
        try:
            while least < most:
                middle = (least + most + 1) // 2
                try:
                    os.ftruncate(fd, middle)
                    least = middle
                except OSError:
                    most = middle - 1
        finally:
            os.close(fd)
        return least

    def open_data(self, node: Node) -> int:
        """Return a descriptor of a regular file, for reading and, if the store permits, writing."""
        assert isinstance(node, DirNode)
        try:
            return self._open(node, os.O_RDWR)
        except OSError as error:
            if error.errno not in _NOT_FOR_WRITING:
                raise
            return self._open(node, os.O_RDONLY)

    def _open(self, node: "DirNode", flags: int) -> int:
        if node.hold_fd >= 0:
            return os.open(f"/proc/self/fd/{node.hold_fd}", flags | os.O_CLOEXEC)
        return self._open_named(node, flags)

    def open_dir(self, node: Node) -> int:
        """Return a descriptor of a directory that is the caller's to close."""
        return os.open(b".", DIR_FLAGS, dir_fd=self.dir_fd(node))

    def fsync_dir(self, node: Node, fd: int) -> None:  # noqa: ARG002 - a journal goes by the inode
        """Make the names of a directory durable, which is open as `fd`; the namespace need not be locked."""
        os.fsync(fd)

    def forget(self, node: Node) -> None:
        """Close what an inode holds that the kernel knows no more; all in memory of it goes."""
        assert isinstance(node, DirNode)
        self._close_fds(node)
        if self.by_ino.get((node.dev, node.ino)) is node:
            del self.by_ino[node.dev, node.ino]

    def _close_fds(self, node: DirNode) -> None:
        if node is self.root:
            return
        if node.dir_fd >= 0:
            os.close(node.dir_fd)
            node.dir_fd = -1
            self._nr_dir_fds -= 1
        if node.hold_fd >= 0:
            os.close(node.hold_fd)
            node.hold_fd = -1


def _entry_type(entry: "os.DirEntry[str]") -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
