"""Threads that read a mount's requests and serve them: one as long as it keeps up, more when requests wait.

Two idle readers would be worse than one: the kernel wakes them in turns, each on a cold cache, and they hand
Python's lock to and fro. So the others are parked. A monitor looks every 2 ms, while requests come, whether one
waits in the kernel although every active worker is busy (an fsync, a slow store); then one more becomes active.
Those that nothing waited for in a while park again.
"""

import contextlib
import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator

from fsbackend.pagepool import Block, PagePool

log = logging.getLogger("fremap")

MAX_WORKERS = 48
"""Threads at most, those that sleep in an injected delay not counted."""
MAX_THREADS = 512
"""Threads at most, all counted: 128 MiB of blocks."""
TICK_S = 0.002
IDLE_TICKS = 25
"""Ticks without a request after which the monitor sleeps until the next one."""
WAITING_TICKS = 2
"""Ticks in a row in which a request waited, after which one more worker becomes active."""
CALM_TICKS = 50
"""Ticks in which no request waited, after which one worker parks."""
_AGAIN = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})


class Worker(threading.local):
    """What a worker thread owns: the block with the request it is serving, and room for an answer."""

    block: Block
    answer: Block


class _Seat:
    """One thread's place: whether it is serving a request now, how many it has served, and its alarm when parked."""

    __slots__ = ("nr_served", "serving", "wake")

    def __init__(self) -> None:
        self.serving = False
        self.nr_served = 0
        self.wake = threading.Event()


class Workers:
    """The threads of one mount. `serve(address, nbytes)` is called with each request, in the thread that read it."""

    def __init__(self, fd: int, serve: Callable[[int, int], object], pool: PagePool) -> None:
        self.local = Worker()
        self.done = threading.Event()
        self._fd = fd
        self._serve = serve
        self._pool = pool
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._seats: list[_Seat] = []
        self._active: set[_Seat] = set()
        self._parked: list[_Seat] = []
        self._wanted = 1
        self._nr_asleep = 0
        self._awake = threading.Event()
        self._monitor = threading.Thread(target=self._watch, name="worker-monitor", daemon=True)
        self._monitor_asleep = False
        self._wake_monitor = threading.Event()

    def start(self) -> None:
        """Start serving."""
        self._add()
        self._monitor.start()

    def join(self, timeout_s: float) -> None:
        """Let all threads end, after the kernel has unmounted."""
        self.keep_awake(awake=True)
        self._end()
        for thread in [*self._threads, self._monitor]:
            if thread.ident is not None:
                thread.join(timeout=timeout_s)

    def _end(self) -> None:
        self.done.set()
        self._wake_monitor.set()
        for seat in list(self._seats):
            seat.wake.set()

    def _add(self) -> None:
        seat = _Seat()
        self._seats.append(seat)
        self._active.add(seat)
        thread = threading.Thread(target=self._work, args=(seat,), name=f"worker-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, seat: _Seat) -> None:
        local, serve, fd = self.local, self._serve, self._fd
        block = local.block = self._pool.alloc()
        local.answer = self._pool.alloc()
        while True:
            try:
                nbytes = os.readv(fd, [block.request])
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno not in {errno.ENODEV, errno.EBADF}:
                    log.warning("reading requests failed: %s", error)
                break
            if not nbytes:
                break
            seat.serving = True
            if self._monitor_asleep:
                self._wake_monitor.set()
            serve(block.address, nbytes)
            if block.taken:
                block = local.block = self._pool.alloc()
            seat.nr_served += 1
            seat.serving = False
            if len(self._active) > self._wanted:
                self._park(seat)
                if self.done.is_set():
                    break
        self._end()

    def _park(self, seat: _Seat) -> None:
        """Wait until needed, if another worker is free to read the next request."""
        with self._lock:
            others = self._active - {seat}
            if len(others) < self._wanted or all(other.serving for other in others):
                return
            self._active.discard(seat)
            self._parked.append(seat)
        seat.wake.wait()
        seat.wake.clear()

    def _one_more(self) -> None:
        with self._lock:
            self._wanted = len(self._active) + 1
            if self._parked:
                seat = self._parked.pop()
                self._active.add(seat)
                seat.wake.set()
            elif len(self._threads) < min(MAX_WORKERS + self._nr_asleep, MAX_THREADS):
                self._add()

    def wait_until_answered(self, timeout_s: float) -> bool:
        """Wait until every request that is being served now has been; return whether it has."""
        until_s = time.monotonic() + timeout_s
        for seat in list(self._seats):
            nr_served = seat.nr_served
            while seat.serving and seat.nr_served == nr_served:
                if time.monotonic() > until_s:
                    return False
                time.sleep(TICK_S)
        return True

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Let a worker wait for something that another must serve: meanwhile it takes nobody's place."""
        with self._lock:
            self._nr_asleep += 1
        try:
            yield
        finally:
            with self._lock:
                self._nr_asleep -= 1

    def sleep(self, delay_s: float) -> None:
        """Sleep in a worker, as a rule says; meanwhile it takes nobody's place."""
        with self.aside():
            self._awake.wait(delay_s)

    def keep_awake(self, *, awake: bool) -> None:
        """End all sleeps, and let none begin, until it is called again."""
        if awake:
            self._awake.set()
        else:
            self._awake.clear()

    def _one_less(self) -> None:
        with self._lock:
            self._wanted = max(self._wanted - 1, 1)

    # ---- the monitor

    def _watch(self) -> None:
        requests = select.poll()
        requests.register(self._fd, select.POLLIN)
        nr_waiting = nr_calm = nr_idle = nr_served = 0
        while not self.done.wait(TICK_S):
            idle = nr_served == (nr_served := self._nr_served()) and not self._any_serving()
            nr_idle = nr_idle + 1 if idle else 0
            if nr_idle >= IDLE_TICKS:
                self._sleep_until_served(nr_served)
                nr_idle = 0
            if all(seat.serving for seat in list(self._active)) and requests.poll(0):
                nr_waiting, nr_calm = nr_waiting + 1, 0
            else:
                nr_waiting, nr_calm = 0, nr_calm + 1
            if nr_waiting >= WAITING_TICKS:
                self._one_more()
                nr_waiting = 0
            elif nr_calm >= CALM_TICKS:
                self._one_less()
                nr_calm = 0

    def _sleep_until_served(self, nr_served: int) -> None:
        self._wake_monitor.clear()
        self._monitor_asleep = True  # from here on a worker wakes us: one that came before shows below
        if not self.done.is_set() and not self._any_serving() and nr_served == self._nr_served():
            self._wake_monitor.wait()
        self._monitor_asleep = False

    def _any_serving(self) -> bool:
        return any(seat.serving for seat in list(self._seats))

    def _nr_served(self) -> int:
        return sum(seat.nr_served for seat in list(self._seats))
