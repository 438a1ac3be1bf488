"""What of a real file is dirty, and how it gets to the store: in batches, each page of a sweep once.

A failed writeback leaves the pages dirty and is noted in `errors`, of which each descriptor hears once. Locks, in
order: `io_lock` (one writeback at a time), `lock` (pages, size, times), then the cache's.
"""

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterable

from fsbackend.bdi import Caps
from fsbackend.cache import Cache
from fsbackend.errseq import ErrSeq
from fsbackend.node import Node
from fsbackend.pages import CHUNK_SHIFT, PAGE_SHIFT, PAGE_SIZE, PageMap
from fsbackend.storeio import PowerCutError

log = logging.getLogger("fremap")

MAX_BATCH_BYTES = 4 << 20
"""One writeback submission ends with the chunk that reaches this (Linux: MAX_WRITEBACK_PAGES, 4 MiB)."""

START_EARLY_BYTES = 1 << 20
"""A stretch so long goes to the disk at once, while the next is copied, rather than at the barrier."""


class Sweep:
    """One way forward through the chunks that a file had when it began: a page dirty then is met once.

    What is dirtied behind `next_index`, or beyond `last_index`, is for the next one: no writer can hold a sweep
    up. Source: Linux v4.9 mm/page-writeback.c: write_cache_pages(), where tags and `writeback_index` do this.
    """

    __slots__ = ("began_s", "failed", "last_index", "next_index")

    def __init__(self, began_s: float, last_index: int) -> None:
        self.began_s = began_s
        self.last_index = last_index
        self.next_index = 0
        self.failed = False


class DirtyFile:
    """A real file and the pages of it that the store does not have yet."""

    def __init__(self, cache: Cache, node: Node, fd: int, caps: Caps) -> None:
        self.cache = cache
        self.node = node
        self.fd = fd
        self.direct_fd = -1
        self.writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        self.caps = caps
        self.pages = PageMap(cache.pool)
        self.nbytes = os.fstat(fd).st_size
        self.nr_open = 0
        self.errors = node.errors = node.errors or ErrSeq()
        self.lock = threading.RLock()
        self.io_lock = threading.Lock()
        self.settled = threading.Condition(self.lock)
        self._nr_waiting = 0
        self._flusher_sweep = Sweep(0.0, -1)

    @property
    def nr_pages(self) -> int:
        """Pages that are in memory."""
        return self.pages.nr_pages

    def _wait_stable(self, offset: int, end: int) -> None:
        while self.pages.any_writeback(offset, end):
            self._nr_waiting += 1
            try:
                self.settled.wait()
            finally:
                self._nr_waiting -= 1

    def fsync(self, *, datasync: bool) -> None:
        """Write everything back and make it durable; raises the store's error, pages stay dirty then."""
        if not self.caps.writeback:
            return
        begin_s = self.cache.clock()
        self.write_back_all()
        if not datasync:
            self.set_store_times()
        try:
            self.cache.io.fsync(self.node, self.fd, datasync=datasync)
        except OSError as error:
            self.record_error(error)
            raise
        path = self.node.path().decode("utf-8", "surrogateescape")
        self.cache.events.add("fdatasync" if datasync else "fsync", begin_s, self.cache.clock(), path=path)

    def set_store_times(self) -> None:
        """Put the store's mtime, which writeback moved to now, back to when the program wrote, or to what it set."""
        with self.lock:
            if self.fd < 0 or not self.node.mtime_ns or not self.writable:
                return
            info = os.fstat(self.fd)
            if info.st_mtime_ns != self.node.mtime_ns:
                with contextlib.suppress(OSError):  # another's file, or a store that died: it keeps its own times
                    os.utime(self.fd, ns=(info.st_atime_ns, self.node.mtime_ns))

    def write_back_all(self) -> int:
        """Write back every page that is dirty now; return how many. Raises the first error, having tried all.

        Source: Linux v4.20 mm/page-writeback.c: write_cache_pages(), which goes on for an integrity sync.
        """
        nr_pages = 0
        failure: OSError | None = None
        with self.io_lock:
            if not self.pages.nr_pages:
                return 0
            sweep = self._begin_sweep()
            while self.pages.nr_pages and sweep.next_index <= sweep.last_index:
                try:
                    nr_pages += self._write_batch(sweep)
                except PowerCutError:
                    raise
                except OSError as error:
                    failure = failure or error
        self._after_writeback(sweep)
        if failure is not None:
            raise failure
        return nr_pages

    def write_back_some(self, *, pace: bool) -> int:
        """Write back one batch for the flusher, where it left off, at the disk's own pace; return how many pages."""
        with self.io_lock:
            nr_pages = self._write_batch(self._flusher_sweep, pace=pace)
            if not nr_pages:
                self._flusher_sweep = self._begin_sweep()
                nr_pages = self._write_batch(self._flusher_sweep, pace=pace)
            sweep = self._flusher_sweep
        self._after_writeback(sweep)
        return nr_pages

    def _begin_sweep(self) -> Sweep:
        with self.lock:
            chunks = self.pages.chunks
            return Sweep(self.cache.clock(), max(chunks) if chunks else -1)

    def _after_writeback(self, sweep: Sweep) -> None:
        with self.lock:
            if not self.pages.nr_pages:
                self.cache.requeue(self, all_clean=True)
                return
            done = sweep.next_index > sweep.last_index and not sweep.failed
            self.cache.requeue(self, all_clean=False, since_s=sweep.began_s if done else None)

    def _write_batch(self, sweep: Sweep, *, pace: bool = False) -> int:
        """Write a sweep's next dirty pages, up to a batch; the caller holds `io_lock`."""
        with self.lock:
            runs = self._collect(sweep)
            if not runs:
                return 0
            submissions = self._submissions(runs)
        nr_pages = sum([run[2] for run in runs])
        if self.caps.account_dirty:
            with self.cache.lock:
                bdi = self.cache.bdi
                if not bdi.nr_writeback:
                    bdi.throttle.begin_writeback(self.cache.clock())
                bdi.start_writeback(nr_pages)
        failure: OSError | None = None
        begin_s = self.cache.clock()
        try:
            for offset, buffers in submissions:
                self._put(offset, buffers, pace=pace)
        except OSError as error:
            failure = error
        ranges = [(offset, sum(map(len, buffers))) for offset, buffers in submissions]
        errno_ = 0 if failure is None else failure.errno or errno.EIO
        self.cache.events.add_writeback(self.node.path(), begin_s, self.cache.clock(), ranges, nr_pages, errno_)
        self._end_batch(runs, nr_pages, failure)
        if failure is not None:
            sweep.failed = True
            self.record_error(failure)
            raise failure
        return nr_pages

    def _put(self, offset: int, buffers: list[memoryview], *, pace: bool) -> None:
        """Write one contiguous stretch to the store, past its page cache if the mount is `direct`."""
        io, nbytes = self.cache.io, sum(map(len, buffers))
        if self.cache.direct:
            tail_nbytes = nbytes % PAGE_SIZE
            if tail_nbytes:  # which O_DIRECT cannot take: only the last page of a file is cut short
                whole = len(buffers[-1]) - tail_nbytes
                tail = buffers[-1][whole:]
                io.pwrite_all(self.node, self.fd, [tail], offset + nbytes - tail_nbytes)
                buffers = [*buffers[:-1], buffers[-1][:whole]] if whole else buffers[:-1]
            if buffers:
                io.pwrite_all(self.node, self._open_direct(), buffers, offset)
            return
        io.pwrite_all(self.node, self.fd, buffers, offset)
        if pace or nbytes >= START_EARLY_BYTES:
            io.sync_range(self.node, self.fd, offset, nbytes, wait=pace)

    def _open_direct(self) -> int:
        if self.direct_fd < 0:
            self.direct_fd = os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        return self.direct_fd

    def _collect(self, sweep: Sweep) -> list[tuple[int, int, int]]:
        """Return the next dirty runs of a sweep, whole chunks, and move it on behind them."""
        runs: list[tuple[int, int, int]] = []
        nbytes = 0
        for run in self.pages.dirty_runs(sweep.next_index):
            index = run[0]
            if index > sweep.last_index:
                break
            if nbytes >= MAX_BATCH_BYTES and index != runs[-1][0]:
                sweep.next_index = index
                return runs
            runs.append(run)
            nbytes += run[2] << PAGE_SHIFT
        sweep.next_index = sweep.last_index + 1
        return runs

    def _submissions(self, runs: Iterable[tuple[int, int, int]]) -> list[tuple[int, list[memoryview]]]:
        """Turn runs into (offset, buffers), adjacent ones joined, none past the end of the file."""
        joined: list[tuple[int, list[memoryview]]] = []
        next_offset = -1
        for index, first, count in runs:
            memory = self.pages.start_writeback(index, first, count)
            offset = (index << CHUNK_SHIFT) + (first << PAGE_SHIFT)
            memory = memory[: max(self.nbytes - offset, 0)]
            if not memory:
                continue
            if offset == next_offset:
                joined[-1][1].append(memory)
            else:
                joined.append((offset, [memory]))
            next_offset = offset + len(memory)
        return joined

    def _end_batch(self, runs: list[tuple[int, int, int]], nr_pages: int, failure: OSError | None) -> None:
        with self.lock:
            nr_again = sum([self.pages.end_writeback(*run, failed=failure is not None) for run in runs])
            if self._nr_waiting:  # nearly always nobody does, and a notify of nobody is not free
                self.settled.notify_all()
        if self.caps.account_dirty:
            with self.cache.lock:
                bdi = self.cache.bdi
                bdi.end_writeback(nr_pages)
                if failure is not None:
                    bdi.throttle.nr_written -= nr_pages
                    bdi.nr_dirty += nr_again
                bdi.throttle.update(self.cache.clock())

    def record_error(self, error: OSError) -> None:
        """Remember a failed writeback for every open descriptor; what a power cut loses, the cut itself tells."""
        if isinstance(error, PowerCutError):
            return
        with self.lock:
            self.errors.failed(error.errno or errno.EIO)
        self.cache.nr_errors += 1
        log.info("writeback of %r failed: %s", self.node.path(), error.strerror)

    def discard(self) -> None:
        """Forget the dirty bytes of a file that nobody writes to."""
        with self.io_lock:
            self._discard()

    def try_discard(self) -> bool:
        """Forget them, unless a writeback is under way, for which the caller may not wait."""
        if not self.io_lock.acquire(blocking=False):
            return False
        try:
            self._discard()
        finally:
            self.io_lock.release()
        return True

    def _discard(self) -> None:
        with self.lock:
            dropped = self.pages.clear()
            if self.caps.account_dirty:
                self.cache.account_cleaned(dropped)
        self.cache.requeue(self, all_clean=True)
