"""What all handlers of requests share: the guard that makes one reply of whatever is raised, and common replies.

A handler's reply is the last thing that it does: what is raised before it becomes the reply, and nothing is
raised after it. OSError is answered with its errno; anything else is a bug of ours, logged, and answered with
EIO, SystemExit too. This is the only place where exceptions become errnos.
"""

import ctypes
import errno
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from fsbackend import lowlevel as ll
from fsbackend.control import CONTROL_NAME, ControlNode
from fsbackend.inject import CALL_OPS, Injector
from fsbackend.latency import CONTROL, Latencies
from fsbackend.node import ROOT_ID, Attr, Cred, Node

if TYPE_CHECKING:
    from fsbackend.filesystem import FileSystem
    from fsbackend.powercut import PowerCutter
    from fsbackend.session import Session

log = logging.getLogger("fremap")

_NS = 1_000_000_000
_FOREVER_S = 3600.0
"""For control files, which are there as long as the mount, and whose attributes never change."""


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


class Handlers:
    """What the handlers of one mount share."""

    def __init__(self, fs: "FileSystem", injector: Injector, timeout_s: float = 1.0) -> None:
        self.fs = fs
        self.injector = injector
        self.gate: Callable[[], AbstractContextManager[None]] = nullcontext
        self.outside: Callable[[], AbstractContextManager[None]] = nullcontext
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
            took_ns = time.monotonic_ns() - begin_ns
            add_latency(CONTROL if self._is_control(name, args) else name, took_ns)

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

    def _cred(self, req: int) -> Cred:
        ctx = ll.req_ctx(req).contents
        return Cred(ctx.uid, ctx.gid, ctx.pid)

    def _entry(self, node: Node) -> Any:
        entry = ll.EntryParam()
        entry.ino = node.id
        fill_stat(entry.attr, self.fs.attr(node))
        entry.attr_timeout = entry.entry_timeout = self._timeout_of(node)
        return entry

    def _timeout_of(self, node: Node) -> float:
        """Return how long the kernel may remember a name and its attributes; control files are read again and again."""
        if isinstance(node, ControlNode):
            return _FOREVER_S if node.keep else 0.0
        return self.timeout_s

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

    def _set_handle(self, info: Any, number: int, *, keep_cache: bool) -> None:
        info.fh = number
        if self.fs.handle(number).data is None:
            info.direct_io = 1
        elif keep_cache:
            info.keep_cache = 1


def _request_nbytes(name: str, args: tuple[Any, ...]) -> int:
    if name == "read":
        return int(args[1])
    return int(args[2]) if name == "write" else 0
