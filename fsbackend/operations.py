"""The FUSE adapter: libfuse's calls to the FileSystem's, and the only place where exceptions become errnos.

A handler's reply is the last thing that it does: what is raised before it becomes the reply, and nothing is
raised after it. OSError is answered with its errno; anything else is a bug of ours, logged, and answered with
EIO, SystemExit too.
"""

import ctypes
import errno
import logging
import os
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from fsbackend import lowlevel as ll
from fsbackend.control import CONTROL_NAME, ControlNode
from fsbackend.inject import CALL_OPS, Injector
from fsbackend.latency import THROTTLED_WRITE, Latencies
from fsbackend.node import ROOT_ID, Attr, Cred, Node, SetAttr
from fsbackend.pagepool import BLOCK_NBYTES, HEADER_NBYTES

if TYPE_CHECKING:
    from fsbackend.filesystem import FileSystem
    from fsbackend.powercut import PowerCutter
    from fsbackend.session import Session

log = logging.getLogger("fremap")

_DIRENT = struct.Struct("=QQII")
_BIG_REPLY = 32 << 10
_NS = 1_000_000_000


def fill_stat(st: Any, attr: Attr) -> None:
    """Put an Attr into a struct stat."""
    st.st_ino = attr.ino
    st.st_mode = attr.mode
    st.st_nlink = attr.nlink
    st.st_uid = attr.uid
    st.st_gid = attr.gid
    st.st_rdev = attr.rdev
    st.st_size = attr.nbytes
    st.st_blksize = 4096
    st.st_blocks = attr.blocks
    times = st.st_atimespec
    times.tv_sec, times.tv_nsec = divmod(attr.atime_ns, _NS)
    times = st.st_mtimespec
    times.tv_sec, times.tv_nsec = divmod(attr.mtime_ns, _NS)
    times = st.st_ctimespec
    times.tv_sec, times.tv_nsec = divmod(attr.ctime_ns, _NS)


class Operations:
    """The handlers, one for each request of the kernel."""

    def __init__(self, fs: "FileSystem", injector: Injector, timeout_s: float = 1.0) -> None:
        self.fs = fs
        self.injector = injector
        self.gate: Callable[[], AbstractContextManager[None]] = nullcontext
        self.cutter: PowerCutter | None = None
        self.timeout_s = timeout_s
        self.latencies = Latencies()
        self.throttled: dict[int, tuple[int, float]] = {}
        self.session: Session

    def guarded(self, name: str, method: Callable[..., None]) -> Callable[..., None]:
        """Wrap a handler so that whatever it raises becomes one reply."""
        if name in {"init", "destroy"}:
            return method
        faulty = name in CALL_OPS
        injector, add_latency = self.injector, self.latencies.add

        def call(req: int, *args: Any) -> None:
            begin_ns = time.monotonic_ns()
            try:
                with self.gate():
                    if faulty and injector.has_calls and not self._is_control(name, args):
                        injector.fire(name, self._path(args), _request_nbytes(name, args))
                    method(req, *args)
            except OSError as error:
                ll.reply_err(req, error.errno if error.errno and error.errno > 0 else errno.EIO)
            except BaseException:
                log.exception("bug: %s failed", name)
                ll.reply_err(req, errno.EIO)
            add_latency(name, time.monotonic_ns() - begin_ns)

        return call

    def _is_control(self, op: str, args: tuple[Any, ...]) -> bool:
        """Return whether an operation is about control files or the way to them: rules must never lock them up."""
        number = next((arg for arg in args if isinstance(arg, int)), 0)
        if isinstance(self.fs.nodes.get(number), ControlNode):
            return True
        return number == ROOT_ID and (op == "getattr" or CONTROL_NAME in args)

    def _path(self, args: tuple[Any, ...]) -> str:
        """Return the path that an operation is about, for rules: its inode's, or its directory's and the name."""
        number = next((arg for arg in args if isinstance(arg, int)), 0)
        name = next((arg for arg in args if isinstance(arg, bytes)), b"")
        node = self.fs.nodes.get(number)
        path = node.path() if node is not None else b""
        return os.fsdecode(path + b"/" + name if path and name else path or name)

    def on_init(self, _userdata: int, conn: Any) -> None:
        """Ask for what we need of what the kernel offers."""
        info = conn.contents
        info.want |= info.capable & (ll.CAP_BIG_WRITES | ll.CAP_EXPORT_SUPPORT | ll.CAP_ASYNC_READ)
        info.max_background = 64
        info.congestion_threshold = 48

    # ---- names and attributes

    def _cred(self, req: int) -> Cred:
        ctx = ll.req_ctx(req).contents
        return Cred(ctx.uid, ctx.gid, ctx.pid)

    def _entry(self, node: Node) -> Any:
        entry = ll.EntryParam()
        entry.ino = node.id
        fill_stat(entry.attr, self.fs.attr(node))
        if not isinstance(node, ControlNode):
            entry.attr_timeout = entry.entry_timeout = self.timeout_s
        return entry

    def _reply_entry(self, req: int, node: Node) -> None:
        try:
            entry = self._entry(node)
        except BaseException:
            self.fs.forget(node.id, 1)
            raise
        node_id = node.id
        if ll.reply_entry(req, ctypes.byref(entry)):
            self._quietly(self.fs.forget, node_id, 1)

    @staticmethod
    def _quietly(call: Callable[..., object], *args: object) -> None:
        """Undo what a reply that did not arrive had promised; the request is answered, so nothing may escape."""
        try:
            call(*args)
        except Exception:
            log.exception("bug: undo failed")

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
        timeout_s = 0.0 if isinstance(node, ControlNode) else self.timeout_s
        ll.reply_attr(req, ctypes.byref(st), timeout_s)

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
            change.atime_ns = -1 if to_set & ll.SET_ATIME_NOW else _ns(st.st_atimespec)
        if to_set & ll.SET_MTIME:
            change.mtime_ns = -1 if to_set & ll.SET_MTIME_NOW else _ns(st.st_mtimespec)
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
        """Move a name."""
        self.fs.rename(parent, name, new_parent, new_name)
        ll.reply_err(req, 0)

    def on_statfs(self, req: int, _node_id: int) -> None:
        """Return the filesystem's figures."""
        figures = self.fs.statfs()
        out = ll.Statvfs()
        for field in _STATFS_FIELDS:
            setattr(out, field, getattr(figures, field))
        ll.reply_statfs(req, ctypes.byref(out))

    # ---- files

    def on_open(self, req: int, node_id: int, fi: Any) -> None:
        """Open a file."""
        info = fi.contents
        number = self.fs.open(node_id, info.flags)
        self._set_handle(info, number, keep_cache=self.fs.keep_cache(node_id))
        if ll.reply_open(req, fi):
            self._quietly(self.fs.release, number)

    def _set_handle(self, info: Any, number: int, *, keep_cache: bool) -> None:
        info.fh = number
        if self.fs.handle(number).data is None:
            info.direct_io = 1
        elif keep_cache:
            info.keep_cache = 1

    def on_create(self, req: int, parent: int, name: bytes, mode: int, fi: Any) -> None:
        """Make and open a file."""
        info = fi.contents
        node, number = self.fs.create(parent, name, mode, info.flags, self._cred(req))
        try:
            entry = self._entry(node)
            self._set_handle(info, number, keep_cache=True)
        except BaseException:
            self.fs.release(number)
            self.fs.forget(node.id, 1)
            raise
        node_id = node.id
        if ll.reply_create(req, ctypes.byref(entry), fi):
            self._quietly(self.fs.release, number)
            self._quietly(self.fs.forget, node_id, 1)

    def on_read(self, req: int, _node_id: int, nbytes: int, offset: int, fi: Any) -> None:
        """Read, straight into the memory that libfuse sends."""
        answer = self.session.worker.answer
        done = self.fs.read(fi.contents.fh, offset, answer.memory[:nbytes])
        if done > _BIG_REPLY:
            ll.reply_big_buf(req, answer.address + HEADER_NBYTES, done)
        else:
            ll.reply_buf(req, answer.address + HEADER_NBYTES, done)

    def on_write(self, req: int, _node_id: int, buf: int, nbytes: int, offset: int, fi: Any) -> None:
        """Write, from the request's memory or with it; the reply waits while the writer is throttled."""
        if self.cutter is not None and self.cutter.discarding and fi.contents.writepage:
            ll.reply_write(req, nbytes)  # it was in the kernel's RAM only when the power went
            return
        block = self.session.worker.block
        start = buf - block.address
        whole = block if start == HEADER_NBYTES and nbytes == BLOCK_NBYTES else None
        data = block.request[start : start + nbytes]
        nr_dirtied = self.fs.write(fi.contents.fh, offset, data, whole)
        if nr_dirtied:
            pause_s = self.fs.cache.balance(nr_dirtied)
            if pause_s > 0:
                self._hold_write(req, nbytes, pause_s)
                return
        ll.reply_write(req, nbytes)

    def _hold_write(self, req: int, nbytes: int, pause_s: float) -> None:
        cache = self.fs.cache
        asked_s = began_s = cache.clock()
        self.throttled[req] = (self._cred(req).pid, asked_s)

        def due() -> float:
            nonlocal began_s
            now_s = cache.clock()
            cache.record_pause(now_s - began_s)
            began_s = now_s
            again_s = cache.balance(0)
            if again_s <= 0:
                self.throttled.pop(req, None)
                ll.reply_write(req, nbytes)
                self.latencies.add(THROTTLED_WRITE, int((now_s - asked_s) * _NS))
            return again_s

        self.session.held.hold(pause_s, due)

    def on_flush(self, req: int, _node_id: int, fi: Any) -> None:
        """Answer a close(2)."""
        self.fs.flush(fi.contents.fh)
        ll.reply_err(req, 0)

    def on_release(self, req: int, _node_id: int, fi: Any) -> None:
        """Drop a handle."""
        self.fs.release(fi.contents.fh)
        ll.reply_err(req, 0)

    def on_fsync(self, req: int, _node_id: int, datasync: int, fi: Any) -> None:
        """Make a file durable."""
        self.fs.fsync(fi.contents.fh, datasync=bool(datasync))
        ll.reply_err(req, 0)

    def on_fallocate(self, req: int, _node_id: int, mode: int, offset: int, nbytes: int, fi: Any) -> None:
        """Allocate or punch."""
        self.fs.fallocate(fi.contents.fh, mode, offset, nbytes)
        ll.reply_err(req, 0)

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


def _request_nbytes(name: str, args: tuple[Any, ...]) -> int:
    if name == "read":
        return int(args[1])
    return int(args[2]) if name == "write" else 0


def _ns(timespec: Any) -> int:
    return int(timespec.tv_sec) * _NS + int(timespec.tv_nsec)
