"""DirStore: a tree of real files under one directory, names and all, readable without us.

What makes, names, removes and changes; how an inode is found is `dirinodes`. An inode that loses its last name
is held by a descriptor until the kernel forgets it.

The caller (FileSystem) holds its namespace lock around every method here.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

from fsbackend.dirinodes import PATH_FLAGS, RESERVED_NAME, DirInodes, DirNode
from fsbackend.node import TIME_NOW, Cred, Node, SetAttr, current_time_ns
from fsbackend.renaming import RENAME_EXCHANGE, renameat2

__all__ = ["RESERVED_NAME", "DirNode", "DirStore"]


class DirStore(DirInodes):
    """Real files under a directory."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._uid, self._gid = os.geteuid(), os.getegid()

    # ---- making

    def create(self, parent: Node, name: bytes, mode: int, cred: Cred) -> tuple[DirNode, int]:
        """Make a regular file; return it with a descriptor open for reading and writing."""
        dir_fd = self.dir_fd(parent)
        self._refuse_reserved(parent, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, mode & 0o7777, dir_fd=dir_fd)
        try:
            self._own(f"/proc/self/fd/{fd}", cred, mode, os.fstat(fd), parent)
            return self._node(parent, name, os.fstat(fd)), fd
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=dir_fd)
            raise

    def tmpfile(self, parent: Node, mode: int, cred: Cred, *, linkable: bool) -> tuple[DirNode, int]:
        """Make a regular file that has no name, as O_TMPFILE does; return it with a descriptor."""
        flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC | (0 if linkable else os.O_EXCL)
        fd = os.open(b".", flags, mode & 0o7777, dir_fd=self.dir_fd(parent))
        try:
            path = f"/proc/self/fd/{fd}"
            self._own(path, cred, mode, os.fstat(fd), parent)
            info = os.fstat(fd)
            node = DirNode(info.st_ino, stat.S_IFREG, info.st_dev)
            node.hold_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except BaseException:
            os.close(fd)
            raise
        self.by_ino[node.dev, node.ino] = node
        return node, fd

    def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, cred: Cred) -> DirNode:
        """Make a file of any type but a directory or a symbolic link."""
        dir_fd = self.dir_fd(parent)
        self._refuse_reserved(parent, name)
        if stat.S_ISREG(mode) or not stat.S_IFMT(mode):
            node, fd = self.create(parent, name, mode, cred)
            os.close(fd)
            return node
        os.mknod(name, mode, rdev, dir_fd=dir_fd)
        return self._made(parent, name, mode, cred)

    def mkdir(self, parent: Node, name: bytes, mode: int, cred: Cred) -> DirNode:
        """Make a directory."""
        dir_fd = self.dir_fd(parent)
        self._refuse_reserved(parent, name)
        os.mkdir(name, mode & 0o7777, dir_fd=dir_fd)
        return self._made(parent, name, mode, cred)

    def symlink(self, parent: Node, name: bytes, target: bytes, cred: Cred) -> DirNode:
        """Make a symbolic link."""
        dir_fd = self.dir_fd(parent)
        self._refuse_reserved(parent, name)
        os.symlink(target, name, dir_fd=dir_fd)
        return self._made(parent, name, 0, cred)

    def _refuse_reserved(self, parent: Node, name: bytes) -> None:
        if name == RESERVED_NAME and parent is self.root:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _made(self, parent: Node, name: bytes, mode: int, cred: Cred) -> DirNode:
        """Return the inode just made, its creator's; one that may not be given away is gone again."""
        dir_fd = self.dir_fd(parent)
        info = os.lstat(name, dir_fd=dir_fd)
        node = self._node(parent, name, info)
        if cred.uid == self._uid and cred.gid == self._gid:
            return node
        try:
            if stat.S_ISLNK(info.st_mode):
                gid = -1 if self._inherits_group(parent) else cred.gid
                os.chown(name, cred.uid, gid, dir_fd=dir_fd, follow_symlinks=False)
            else:
                with self.inode_path(node) as path:
                    self._own(path, cred, mode, info, parent)
        except BaseException:
            (os.rmdir if node.is_dir else os.unlink)(name, dir_fd=dir_fd)
            self.forget(node)
            raise
        return node

    def _inherits_group(self, parent: Node) -> bool:
        return bool(os.fstat(self.dir_fd(parent)).st_mode & stat.S_ISGID)

    def _own(self, path: str, cred: Cred, mode: int, info: os.stat_result, parent: Node) -> None:
        """Give a new inode to its creator; a set-group-id directory passes its group on."""
        gid = info.st_gid if self._inherits_group(parent) else cred.gid
        if (cred.uid, gid) == (info.st_uid, info.st_gid):
            return
        os.chown(path, cred.uid, gid)
        if mode & 0o6000 and not stat.S_ISDIR(info.st_mode):
            Path(path).chmod(stat.S_IMODE(info.st_mode))

    # ---- naming

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """Give an inode one more name."""
        self._refuse_reserved(parent, name)
        with self.inode_path(node) as path:
            os.link(path, name, dst_dir_fd=self.dir_fd(parent), follow_symlinks=True)
        node.inode_changed()
        self.lookup(parent, name)

    def unlink(self, parent: Node, name: bytes) -> DirNode:
        """Take a name away; an inode that loses its last is held by a descriptor until the kernel forgets it."""
        node, held = self._hold_last(parent, name)
        try:
            os.unlink(name, dir_fd=self.dir_fd(parent))
        except BaseException:
            self._unhold(held)
            raise
        self._unnamed(node, held)
        return node

    def rmdir(self, parent: Node, name: bytes) -> DirNode:
        """Remove an empty directory."""
        node, held = self._hold_last(parent, name)
        try:
            os.rmdir(name, dir_fd=self.dir_fd(parent))
        except BaseException:
            self._unhold(held)
            raise
        self._unnamed(node, held)
        return node

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> DirNode | None:
        """Move a name over another, or as renameat2's flags say; return the inode that the other one named, if any."""
        self._refuse_reserved(new_parent, new_name)
        node = self.lookup(parent, name)
        if flags & RENAME_EXCHANGE:
            self._exchange(node, self.lookup(new_parent, new_name), flags)
            return None
        over: tuple[DirNode, int] | None = None
        with contextlib.suppress(FileNotFoundError):
            over = self._hold_last(new_parent, new_name)
        try:
            renameat2(self.dir_fd(parent), name, self.dir_fd(new_parent), new_name, flags)
        except BaseException:
            if over is not None:
                self._unhold(over[1])
            raise
        if over is not None and over[0] is node:
            self._unhold(over[1])  # two names of one inode: rename(2) does nothing
            return None
        if over is not None:
            self._unnamed(*over)
        node.parent, node.name = new_parent, new_name
        node.inode_changed()
        return None if over is None else over[0]

    def _exchange(self, node: DirNode, other: DirNode, flags: int) -> None:
        """Let two inodes just looked up change names."""
        if node is other:
            return
        parent, name, new_parent, new_name = node.parent, node.name, other.parent, other.name
        assert parent is not None
        assert new_parent is not None
        renameat2(self.dir_fd(parent), name, self.dir_fd(new_parent), new_name, flags)
        node.parent, node.name, other.parent, other.name = new_parent, new_name, parent, name
        node.inode_changed()
        other.inode_changed()

    def _hold_last(self, parent: Node, name: bytes) -> tuple[DirNode, int]:
        """Return a name's inode and a descriptor that keeps it, now that the only name we know may go."""
        info = os.lstat(name, dir_fd=self.dir_fd(parent))
        node = self.by_ino.get((info.st_dev, info.st_ino))
        if node is None:
            node = self.lookup(parent, name)
        if node.hold_fd >= 0 or (info.st_nlink > 1 and not node.is_dir and (node.parent, node.name) != (parent, name)):
            return node, -1
        return node, os.open(name, PATH_FLAGS, dir_fd=self.dir_fd(parent))

    @staticmethod
    def _unhold(fd: int) -> None:
        if fd >= 0:
            os.close(fd)

    def _unnamed(self, node: DirNode, held: int) -> None:
        """Keep an inode by the descriptor; without any name it can be found by none."""
        node.inode_changed()
        if held >= 0:
            node.hold_fd = held
            node.parent = None
        if node.hold_fd >= 0 and (node.is_dir or os.fstat(node.hold_fd).st_nlink == 0):
            self.by_ino.pop((node.dev, node.ino), None)

    # ---- changing

    def setattr(self, node: Node, change: SetAttr) -> None:
        """Change owner, mode and times in the store; the size is the file data's business."""
        if change.uid is not None or change.gid is not None or change == SetAttr():  # chown(-1, -1) moves ctime
            uid = -1 if change.uid is None else change.uid
            gid = -1 if change.gid is None else change.gid
            with self.inode_path(node) as path:
                os.chown(path, uid, gid)
        if change.mode is not None and node.kind != stat.S_IFLNK:
            with self.inode_path(node) as path:
                Path(path).chmod(change.mode & 0o7777)
        if change.atime_ns is not None or change.mtime_ns is not None:
            info = self.stat(node)
            now = current_time_ns()
            old_mtime_ns = node.mtime_ns or info.st_mtime_ns
            atime_ns = info.st_atime_ns if change.atime_ns is None else change.atime_ns
            mtime_ns = old_mtime_ns if change.mtime_ns is None else change.mtime_ns
            times = (now if atime_ns == TIME_NOW else atime_ns, now if mtime_ns == TIME_NOW else mtime_ns)
            with self.inode_path(node) as path:
                os.utime(path, ns=times)
            if node.mtime_ns:
                node.mtime_ns = times[1]
        node.inode_changed()
