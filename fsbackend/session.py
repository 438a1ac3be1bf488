"""A FUSE session: the channel to the kernel, worker threads that serve it, replies that are held back.

Requests are read here, by Python's own threads, and decoded by libfuse, which calls the operations back in the
same thread. A worker that may wait (fsync, a slow store) does not starve the others: when none is idle one more
is started. A throttle pause takes no worker at all: the reply is queued until it is due.
"""

import contextlib
import ctypes
import errno
import heapq
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fsbackend import lowlevel
from fsbackend.newerrequests import INIT, NEWER, RENAME2, InitReply, NewerRequests, opcode_of
from fsbackend.pagepool import BLOCK_NBYTES, PagePool
from fsbackend.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("fremap")

MAX_READ = BLOCK_NBYTES


class HeldReplies:
    """Calls that are due later; one thread makes them. Each says after how long to try again, or 0: done."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], float]]] = []
        self._count = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="held-replies", daemon=True)
        self._thread.start()

    def hold(self, delay_s: float, call: Callable[[], float]) -> None:
        """Make the call after the delay."""
        with self._changed:
            self._count += 1
            heapq.heappush(self._heap, (time.monotonic() + delay_s, self._count, call))
            self._changed.notify()

    def close(self) -> None:
        """Make every call that is left at once, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> Callable[[], float] | None:
        with self._changed:
            while True:
                if self._heap:
                    wait_s = self._heap[0][0] - time.monotonic()
                    if wait_s <= 0 or self._closing:
                        return heapq.heappop(self._heap)[2]
                    self._changed.wait(wait_s)
                elif self._closing:
                    return None
                else:
                    self._changed.wait()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                again_s = call()
            except Exception:
                log.exception("a held reply failed")
                continue
            if again_s > 0 and not self._closing:
                self.hold(again_s, call)


class Session:
    """One mount's conversation with the kernel."""

    def __init__(
        self, mountpoint: str, options: "Mapping[str, str | bool]", operations: object, pool: PagePool
    ) -> None:
        """Mount. Callbacks are the methods ``on_NAME`` of `operations`, wrapped by its ``guarded``.

        Requests are read into blocks of the pool, which a file may keep.
        """
        words = [name if value is True else f"{name}={_escape(str(value))}" for name, value in options.items()]
        mount_args = lowlevel.make_args(b"fremap", b"-o", os.fsencode(",".join(words)))
        tuning = f"big_writes,max_write={MAX_READ},max_readahead={MAX_READ},max_background=64"
        session_args = lowlevel.make_args(b"fremap", b"-o", tuning.encode())
        self.mountpoint = os.fsencode(mountpoint)
        self.held = HeldReplies()
        self._ops = lowlevel.LowlevelOps()
        for name, args in lowlevel.OPERATIONS:
            method = getattr(operations, f"on_{name}", None)
            if args is not None and method is not None:
                setattr(self._ops, name, lowlevel.PROTOTYPES[name](operations.guarded(name, method)))  # type: ignore[attr-defined]
        self._channel = lowlevel.mount_channel(self.mountpoint, ctypes.byref(mount_args))
        if not self._channel:
            self.held.close()
            raise OSError(errno.EIO, "libfuse could not mount")
        self._session = lowlevel.session_new(
            ctypes.byref(session_args), ctypes.byref(self._ops), ctypes.sizeof(self._ops), None
        )
        if not self._session:
            lowlevel.unmount_channel(self.mountpoint, self._channel)
            self.held.close()
            raise OSError(errno.EIO, "libfuse did not accept the session's options")
        lowlevel.session_add_channel(self._session, self._channel)
        self._newer = NewerRequests()
        self._init_reply = InitReply(getattr(operations, "init_flags", 0))
        self._workers = Workers(lowlevel.channel_fd(self._channel), self._serve, pool)
        self.worker = self._workers.local
        self.done = self._workers.done
        self.sleep = self._workers.sleep
        self.keep_awake = self._workers.keep_awake
        self.wait_until_answered = self._workers.wait_until_answered

    def _serve(self, address: int, nbytes: int) -> None:
        request = self.worker.block.request
        opcode = opcode_of(request)
        if opcode in NEWER:
            nbytes = self._newer.translate(request, nbytes)
        elif opcode == INIT:
            self._init_reply.note_request(request)
            self._process_init(address, nbytes)
            return
        lowlevel.session_process(self._session, address, nbytes, self._channel)
        if opcode == RENAME2:
            self._newer.rename_flags = 0

    def _process_init(self, address: int, nbytes: int) -> None:
        """Have libfuse answer INIT through a channel of our own, which amends the reply on its way to the kernel."""
        fd = lowlevel.channel_fd(self._channel)

        def send(_channel: int, parts: Any, nr_parts: int) -> int:
            reply = bytearray().join([ctypes.string_at(part.base, part.nbytes) for part in parts[:nr_parts]])
            self._init_reply.amend(reply)
            try:
                os.write(fd, reply)
            except OSError as error:
                return -(error.errno or errno.EIO)
            return 0

        operations = lowlevel.ChannelOps(None, lowlevel.ChannelSend(send), None)
        nbytes_room = lowlevel.channel_bufsize(self._channel)
        channel = lowlevel.channel_new(ctypes.byref(operations), fd, nbytes_room, None)
        try:
            lowlevel.session_process(self._session, address, nbytes, channel)
        finally:
            lowlevel.channel_destroy(channel)

    @property
    def rename_flags(self) -> int:
        """The flags of the rename that this worker is serving."""
        return self._newer.rename_flags

    def start(self) -> None:
        """Start serving."""
        self._workers.start()

    def close(self) -> None:
        """End after the kernel has unmounted: let workers finish, free what libfuse holds."""
        self.held.close()
        self._workers.join(timeout_s=10.0)
        lowlevel.session_remove_channel(self._channel)
        lowlevel.session_destroy(self._session)
        lowlevel.unmount_channel(None, self._channel)

    def inval_inode(self, node_id: int) -> None:
        """Have the kernel drop an inode's cached pages and attributes."""
        with contextlib.suppress(OSError):
            lowlevel.notify_inval_inode(self._channel, node_id, 0, 0)

    def inval_range(self, node_id: int, offset: int, nbytes: int) -> None:
        """Have the kernel write back what a mapping made dirty in a part of a file, and drop those pages.

        It sends WRITE requests and waits: the caller takes nobody's place meanwhile.
        """
        with contextlib.suppress(OSError), self._workers.aside():
            lowlevel.notify_inval_inode(self._channel, node_id, offset, nbytes)

    def inval_entry(self, parent_id: int, name: bytes) -> None:
        """Have the kernel look a name up anew."""
        with contextlib.suppress(OSError):
            lowlevel.notify_inval_entry(self._channel, parent_id, name, len(name))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")
