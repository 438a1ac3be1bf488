"""A real file whose changes stay in RAM, by an override: the store's bytes as they were, with pages over them.

It is never written to, so what a truncation cut off is still there: `kept_nbytes` is how much of the store's
file is this one's yet, and behind it are zeros.
"""

import errno
import os

from fsbackend.bdi import Caps
from fsbackend.cache import Cache
from fsbackend.cachedfile import CachedFile
from fsbackend.node import Node
from fsbackend.pages import CHUNK_SIZE, PAGE_SIZE
from fsbackend.ramfile import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE

_ZEROS = memoryview(bytes(CHUNK_SIZE))


class RamOverride(CachedFile):
    """The bytes of a real file, with what was written, which is never in it."""

    def __init__(self, cache: Cache, node: Node, fd: int, caps: Caps) -> None:
        super().__init__(cache, node, fd, caps)
        self.kept_nbytes = self.nbytes

    def is_store_file(self) -> bool:
        """Return whether it holds nothing that the store's file does not."""
        return not self.pages.chunks and self.nbytes == self.kept_nbytes == os.fstat(self.fd).st_size

    def read(self, offset: int, out: memoryview) -> int:
        """Read what was written, else what the store has of it."""
        with self.lock:
            return super().read(offset, out) if self.pages.chunks else self._read_unchanged(offset, out)

    def _read_unchanged(self, offset: int, out: memoryview) -> int:
        nbytes = min(len(out), max(self.nbytes - offset, 0))
        self._read_store(offset, out[:nbytes])
        return nbytes

    def _read_store(self, offset: int, out: memoryview) -> None:
        nr_kept = min(len(out), max(self.kept_nbytes - offset, 0))
        if nr_kept:
            super()._read_store(offset, out[:nr_kept])
        out[nr_kept:] = bytes(len(out) - nr_kept)

    def truncate(self, nbytes: int) -> None:
        """Set the size; what is cut off reads as zeros if the file grows again."""
        with self.lock:
            if nbytes < self.nbytes:
                self.pages.drop(nbytes, self.nbytes + PAGE_SIZE)
                self.pages.zero(nbytes, (nbytes | PAGE_SIZE - 1) + 1)
            self.kept_nbytes = min(self.kept_nbytes, nbytes)
            self.nbytes = nbytes
            self.touch()

    def fallocate(self, mode: int, offset: int, nbytes: int) -> None:
        """Punch or zero a range, or grow the file; over the store's bytes that takes pages of zeros."""
        end = offset + nbytes
        with self.lock:
            if mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                self.pages.zero(offset, end)
                kept_end = min(end, self.kept_nbytes)
                for start in range(offset, kept_end, CHUNK_SIZE):
                    self.pages.write(start, _ZEROS[: kept_end - start], self._read_store)
                self.pages.drop(max(offset, self.kept_nbytes), end)
            if not mode & FALLOC_KEEP_SIZE:
                self.nbytes = max(self.nbytes, end)
            self.touch()

    def write_back_all(self) -> int:
        """Do nothing: it is as durable as RAM gets."""
        return 0

    def lose(self) -> None:
        """Be the store's file again, as after a power cut."""
        self.discard()
        with self.lock:
            self.nbytes = self.kept_nbytes = os.fstat(self.fd).st_size
