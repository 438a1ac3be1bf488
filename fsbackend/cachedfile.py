"""One real file's bytes: the store's, with the dirty pages over them.

What gets those to the store, and the locks, are `dirtyfile`.
"""

import errno
import os

from fsbackend.dirtyfile import DirtyFile
from fsbackend.node import current_time_ns
from fsbackend.pagepool import Block
from fsbackend.pages import CHUNK_SIZE, PAGE_SIZE
from fsbackend.storeio import ShortWriteError


class CachedFile(DirtyFile):
    """The bytes of a real file, with what was written and is not in it yet."""

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
        """Put bytes into the cache (or, `direct`, into the store); return the pages newly dirty.

        ShortWriteError: the store took a part of a direct write, and that is in the file.
        """
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
        self.cache.io.inode_changed(self.node)

    def _read_store(self, offset: int, out: memoryview) -> None:
        """Read the store's bytes, with zeros behind their end."""
        done = self.cache.io.pread_into(self.node, self.fd, out, offset) if offset < self.nbytes else 0
        if done < len(out):
            out[done:] = bytes(len(out) - done)

    def _write_through(self, offset: int, data: memoryview) -> None:
        with self.lock:
            self._wait_stable(offset, offset + len(data))
            short: ShortWriteError | None = None
            try:
                self.cache.io.pwrite_all(self.node, self.fd, [data], offset)
            except ShortWriteError as error:
                short, data = error, data[: error.nbytes]
            except OSError:
                if os.fstat(self.fd).st_size > self.nbytes:  # a part got through beyond the end
                    os.ftruncate(self.fd, self.nbytes)
                raise
            self.pages.patch(offset, data)
            self.nbytes = max(self.nbytes, offset + len(data))
            self.touch()
        if short is not None:
            raise short

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
        self.set_store_times()
        info = os.fstat(self.fd)
        if self.direct_fd >= 0:
            os.close(self.direct_fd)
        fd, self.fd, self.direct_fd = self.fd, -1, -1
        os.close(fd)
        return info.st_mtime_ns, info.st_size
