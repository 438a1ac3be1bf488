"""Handlers of requests about names, attributes and directories."""

import ctypes
import struct
from typing import Any

from fsbackend import lowlevel as ll
from fsbackend.handlers import Handlers, fill_stat
from fsbackend.node import TIME_NOW, Attr, Node, SetAttr

_DIRENT = struct.Struct("=QQII")
_NS = 1_000_000_000


class NameHandlers(Handlers):
    """The handlers of names, attributes and directories, one for each request of the kernel."""

    def on_lookup(self, req: int, parent: int, name: bytes) -> None:
        """Find a name."""
        self._reply_entry(req, self.fs.lookup(parent, name))

    def on_forget(self, req: int, node_id: int, nlookup: int) -> None:
        """Drop references; the kernel waits for no answer, and an error would be one."""
        self._quietly(self.fs.forget, node_id, nlookup)
        ll.reply_none(req)

    def on_forget_multi(self, req: int, count: int, forgets: Any) -> None:
        """Drop references of many."""
        for index in range(count):
            self._quietly(self.fs.forget, forgets[index].ino, forgets[index].nlookup)
        ll.reply_none(req)

    def _reply_attr(self, req: int, node: Node, attr: Attr) -> None:
        st = ll.Stat()
        fill_stat(st, attr)
        ll.reply_attr(req, ctypes.byref(st), self._timeout_of(node))

    def on_getattr(self, req: int, node_id: int, _fi: Any) -> None:
        """Return attributes."""
        node = self.fs.node(node_id)
        self._reply_attr(req, node, self.fs.attr(node))

    def on_setattr(self, req: int, node_id: int, st: Any, to_set: int, _fi: Any) -> None:
        """Change attributes."""
        st = st.contents
        change = SetAttr()
        if to_set & ll.SET_MODE:
            change.mode = st.st_mode
        if to_set & ll.SET_UID:
            change.uid = st.st_uid
        if to_set & ll.SET_GID:
            change.gid = st.st_gid
        if to_set & ll.SET_SIZE:
            change.nbytes = st.st_size
        if to_set & ll.SET_ATIME:
            change.atime_ns = TIME_NOW if to_set & ll.SET_ATIME_NOW else _ns(st.st_atimespec)
        if to_set & ll.SET_MTIME:
            change.mtime_ns = TIME_NOW if to_set & ll.SET_MTIME_NOW else _ns(st.st_mtimespec)
        node = self.fs.node(node_id)
        self._reply_attr(req, node, self.fs.setattr(node_id, change))

    def on_readlink(self, req: int, node_id: int) -> None:
        """Return a link's target."""
        ll.reply_readlink(req, self.fs.readlink(node_id))

    def on_mknod(self, req: int, parent: int, name: bytes, mode: int, rdev: int) -> None:
        """Make a file of any type."""
        self._reply_entry(req, self.fs.mknod(parent, name, mode, rdev, self._cred(req)))

    def on_mkdir(self, req: int, parent: int, name: bytes, mode: int) -> None:
        """Make a directory."""
        self._reply_entry(req, self.fs.mkdir(parent, name, mode, self._cred(req)))

    def on_symlink(self, req: int, target: bytes, parent: int, name: bytes) -> None:
        """Make a symbolic link."""
        self._reply_entry(req, self.fs.symlink(parent, name, target, self._cred(req)))

    def on_link(self, req: int, node_id: int, parent: int, name: bytes) -> None:
        """Make a hard link."""
        self._reply_entry(req, self.fs.link(node_id, parent, name))

    def on_unlink(self, req: int, parent: int, name: bytes) -> None:
        """Take a name away."""
        self.fs.unlink(parent, name)
        ll.reply_err(req, 0)

    def on_rmdir(self, req: int, parent: int, name: bytes) -> None:
        """Remove a directory."""
        self.fs.rmdir(parent, name)
        ll.reply_err(req, 0)

    def on_rename(self, req: int, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """Move a name, or exchange two."""
        self.fs.rename(parent, name, new_parent, new_name, self.session.rename_flags)
        ll.reply_err(req, 0)

    def on_statfs(self, req: int, _node_id: int) -> None:
        """Return the filesystem's figures."""
        figures = self.fs.statfs()
        out = ll.Statvfs()
        for field in _STATFS_FIELDS:
            setattr(out, field, getattr(figures, field))
        ll.reply_statfs(req, ctypes.byref(out))

    # ---- directories

    def on_opendir(self, req: int, node_id: int, fi: Any) -> None:
        """Open a directory."""
        number = fi.contents.fh = self.fs.opendir(node_id)
        if ll.reply_open(req, fi):
            self._quietly(self.fs.release, number)

    def on_readdir(self, req: int, _node_id: int, nbytes: int, offset: int, fi: Any) -> None:
        """Return entries from a position on, as many as fit."""
        entries = self.fs.entries(fi.contents.fh, rewind=offset == 0)
        out = bytearray()
        for position in range(offset, len(entries)):
            name, ino, kind = entries[position]
            used = _DIRENT.size + len(name)
            padding = -used % 8
            if len(out) + used + padding > nbytes:
                break
            out += _DIRENT.pack(ino, position + 1, len(name), kind >> 12)
            out += name
            out += bytes(padding)
        ll.reply_bytes(req, bytes(out), len(out))

    def on_releasedir(self, req: int, _node_id: int, fi: Any) -> None:
        """Drop a directory handle."""
        self.fs.release(fi.contents.fh)
        ll.reply_err(req, 0)

    def on_fsyncdir(self, req: int, node_id: int, _datasync: int, _fi: Any) -> None:
        """Make a directory's names durable."""
        self.fs.fsyncdir(node_id)
        ll.reply_err(req, 0)


_STATFS_FIELDS = (
    "f_bsize",
    "f_frsize",
    "f_blocks",
    "f_bfree",
    "f_bavail",
    "f_files",
    "f_ffree",
    "f_favail",
    "f_flag",
    "f_namemax",
)


def _ns(timespec: Any) -> int:
    return int(timespec.tv_sec) * _NS + int(timespec.tv_nsec)
