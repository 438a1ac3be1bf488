"""One real file's bytes: the store's, with the dirty pages over them; and their writeback.

A failed writeback leaves the pages dirty and raises `err_seq`, which each descriptor reports once. Locks, in
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
from fsbackend.node import Node, current_time_ns
from fsbackend.pagepool import Block
from fsbackend.pages import CHUNK_SHIFT, CHUNK_SIZE, PAGE_SHIFT, PAGE_SIZE, PageMap

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


class CachedFile:
    """The bytes of a real file, with what was written and is not in it yet."""

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
        self.err_seq = 0
        self.err_no = 0
        self.lock = threading.RLock()
        self.io_lock = threading.Lock()
        self.settled = threading.Condition(self.lock)
        self._nr_waiting = 0
        self._flusher_sweep = Sweep(0.0, -1)

    @property
    def nr_pages(self) -> int:
        """Pages that are in memory."""
        return self.pages.nr_pages

    # ---- the file's bytes

    def read(self, offset: int, out: memoryview) -> int:
        """Read what was written, whether it is in the store yet or not."""
        if not self.pages.chunks:
            return self.cache.io.pread_into(self.node, self.fd, out, offset) if offset < self.nbytes else 0
        with self.lock:
            nbytes = min(len(out), max(self.nbytes - offset, 0))
            out = out[:nbytes]
            if nbytes and not self.pages.covers(offset, nbytes):
                self._read_store(offset, out)
            if nbytes:
                self.pages.overlay(offset, out)
            return nbytes

    def write(self, offset: int, data: memoryview, *, direct: bool, block: Block | None = None) -> int:
        """Put bytes into the cache (or, `direct`, into the store); return the pages newly dirty."""
        end = offset + len(data)
        if end > self.cache.max_file_nbytes:  # now: the store would say so when nobody can be told any more
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if direct and self.caps.writeback:
            self._write_through(offset, data)
            return 0
        with self.lock:
            if self.caps.stable_writes:
                self._wait_stable(offset, end)
            if block is not None and not offset % CHUNK_SIZE and not self.pages.any_writeback(offset, end):
                nr_new = self.pages.adopt(offset, block)
            else:
                nr_new = self.pages.write(offset, data, self._read_store)
            self.nbytes = max(self.nbytes, end)
            self.touch()
        if nr_new and self.caps.account_dirty:
            self.cache.account_dirtied(self, nr_new)
            return nr_new
        if nr_new and self.caps.writeback:
            self._list_unaccounted()
        return 0

    def _list_unaccounted(self) -> None:
        with self.cache.lock:
            self.cache.dirty_files.setdefault(self, self.cache.clock())

    def touch(self, *, modified: bool = True) -> None:
        """Set mtime (and ctime) to now; they are the file's as long as it is in memory."""
        self.node.ctime_ns = max(current_time_ns(), self.node.ctime_ns)
        if modified:
            self.node.mtime_ns = self.node.ctime_ns

    def _read_store(self, offset: int, out: memoryview) -> None:
        """Read the store's bytes, with zeros behind their end."""
        done = self.cache.io.pread_into(self.node, self.fd, out, offset) if offset < self.nbytes else 0
        if done < len(out):
            out[done:] = bytes(len(out) - done)

    def _write_through(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        with self.lock:
            self._wait_stable(offset, end)
            self.cache.io.pwrite_all(self.node, self.fd, [data], offset)
            self.pages.patch(offset, data)
            self.nbytes = max(self.nbytes, end)
            self.touch()

    def _wait_stable(self, offset: int, end: int) -> None:
        while self.pages.any_writeback(offset, end):
            self._nr_waiting += 1
            try:
                self.settled.wait()
            finally:
                self._nr_waiting -= 1

    def truncate(self, nbytes: int) -> None:
        """Set the size in the store at once; cached pages beyond it go, the last one's tail becomes zeros.

        If the store refuses, the file is as it was.
        """
        with self.lock:
            old = self.nbytes
            if nbytes < old:
                self._wait_stable(nbytes, max(old, nbytes + 1))
            self.cache.io.truncate(self.node, self.fd, nbytes)
            if nbytes < old:
                dropped = self.pages.drop(nbytes, old + PAGE_SIZE)
                self.pages.zero(nbytes, (nbytes | PAGE_SIZE - 1) + 1)
                if dropped and self.caps.account_dirty:
                    self.cache.account_cleaned(dropped)
            self.nbytes = nbytes
            self.touch()

    def discard(self) -> None:
        """Forget the dirty bytes of a file that has no name and no opener any more."""
        with self.io_lock, self.lock:
            dropped = self.pages.clear()
            if self.caps.account_dirty:
                self.cache.account_cleaned(dropped)
        self.cache.requeue(self, all_clean=True)

    def fallocate(self, mode: int, offset: int, nbytes: int) -> None:
        """Write back what is cached, then let the store's filesystem do it."""
        self.write_back_all()
        with self.io_lock, self.lock:
            self.cache.io.fallocate(self.node, self.fd, mode, offset, nbytes)
            self.nbytes = max(self.nbytes, os.fstat(self.fd).st_size)
            self.touch()

    def close(self) -> tuple[int, int]:
        """Close the descriptor of a clean file that nobody has open; return its mtime and size in the store."""
        if self.fd < 0:
            return 0, 0
        info = os.fstat(self.fd)
        if self.node.mtime_ns and info.st_mtime_ns != self.node.mtime_ns and self.writable:
            # Writeback moved the store's times to now; put back when the program wrote.
            with contextlib.suppress(PermissionError):  # another owner's file: the store keeps its own times
                os.utime(self.fd, ns=(info.st_atime_ns, self.node.mtime_ns))
            info = os.fstat(self.fd)
        if self.direct_fd >= 0:
            os.close(self.direct_fd)
        fd, self.fd, self.direct_fd = self.fd, -1, -1
        os.close(fd)
        return info.st_mtime_ns, info.st_size

    # ---- writeback

    def fsync(self, *, datasync: bool) -> None:
        """Write everything back and make it durable; raises the store's error, pages stay dirty then."""
        if not self.caps.writeback:
            return
        self.write_back_all()
        try:
            self.cache.io.fsync(self.node, self.fd, datasync=datasync)
        except OSError as error:
            self.record_error(error)
            raise

    def write_back_all(self) -> int:
        """Write back every page that is dirty now; return how many."""
        nr_pages = 0
        with self.io_lock:
            if not self.pages.nr_pages:
                return 0
            sweep = self._begin_sweep()
            while nr_done := self._write_batch(sweep):
                nr_pages += nr_done
                if not self.pages.nr_pages or sweep.next_index > sweep.last_index:
                    break
        self._after_writeback(sweep)
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
                self.cache.bdi.start_writeback(nr_pages)
        failure: OSError | None = None
        try:
            for offset, buffers in submissions:
                self._put(offset, buffers, pace=pace)
        except OSError as error:
            failure = error
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
        """Remember a failed writeback for every open descriptor."""
        with self.lock:
            self.err_seq += 1
            self.err_no = error.errno or 5
        self.cache.nr_errors += 1
        log.info("writeback of %r failed: %s", self.node.path(), error.strerror)
