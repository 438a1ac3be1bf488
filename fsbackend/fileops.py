"""Handlers of requests about a file's bytes: open, read, write, fsync and what belongs to them."""

import ctypes
import signal
from pathlib import Path
from typing import Any

from fsbackend import lowlevel as ll
from fsbackend.handlers import Handlers
from fsbackend.latency import THROTTLED_WRITE
from fsbackend.pagepool import BLOCK_NBYTES, HEADER_NBYTES
from fsbackend.storeio import ShortWriteError

_BIG_REPLY = 32 << 10
_NS = 1_000_000_000
_KILL_BIT = 1 << signal.SIGKILL - 1


def fatal_signal_pending(tid: int) -> bool:
    """Return whether a thread has been killed, whatever it waits for.

    The kernel marks each thread of a group that dies with SIGKILL (Linux kernel/signal.c: complete_signal()).
    FUSE's own interrupt would not tell it from a signal that has a handler, which must not end a pause.
    """
    try:
        status = Path(f"/proc/{tid}/status").read_bytes()
    except OSError:  # not a thread that we can see
        return False
    return bool(int(status.partition(b"\nSigPnd:\t")[2][:16] or b"0", 16) & _KILL_BIT)


class FileHandlers(Handlers):
    """The handlers of open files, one for each request of the kernel."""

    def on_open(self, req: int, node_id: int, fi: Any) -> None:
        """Open a file."""
        info = fi.contents
        number = self.fs.open(node_id, info.flags)
        self._set_handle(info, number, keep_cache=self.fs.keep_cache(node_id))
        if ll.reply_open(req, fi):
            self._quietly(self.fs.release, number)

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
            self.fs.lost(fi.contents.fh)
            ll.reply_write(req, nbytes)  # it was in the kernel's RAM only when the power went
            return
        block = self.session.worker.block
        start = buf - block.address
        whole = block if start == HEADER_NBYTES and nbytes == BLOCK_NBYTES else None
        data = block.request[start : start + nbytes]
        try:
            nr_dirtied = self.fs.write(fi.contents.fh, offset, data, whole)
        except ShortWriteError as short:
            if fi.contents.writepage:  # pages of a mapping: nobody would write the rest again
                raise
            ll.reply_write(req, short.nbytes)
            return
        if nr_dirtied:
            pid = ll.req_ctx(req).contents.pid
            pause_s = self.fs.cache.balance(nr_dirtied, pid)
            if pause_s > 0 and not fatal_signal_pending(pid):
                self._hold_write(req, nbytes, pause_s, pid)
                return
        ll.reply_write(req, nbytes)

    def _hold_write(self, req: int, nbytes: int, pause_s: float, pid: int) -> None:
        """Hold the reply back until the pause is over, or the writer is killed, as balance_dirty_pages() sleeps.

        A pause is 200 ms at most, and then another if it is still needed: so late a kill may be noticed.
        """
        cache = self.fs.cache
        asked_s = began_s = cache.clock()
        self.throttled[req] = (pid, asked_s)

        def due() -> float:
            nonlocal began_s
            now_s = cache.clock()
            cache.record_pause(now_s - began_s)
            cache.events.add_pause(pid, began_s, now_s)
            began_s = now_s
            again_s = cache.balance(0, pid)
            if again_s > 0 and fatal_signal_pending(pid):
                again_s = 0.0
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
