"""Every byte that goes to or comes from a store's file passes here: one seam for faults, bandwidth, power cuts.

`StoreIo` does plain system calls. `inject` wraps it.
"""

import ctypes
import ctypes.util
import errno
import os
from collections.abc import Sequence

from fsbackend.node import Node

_libc = ctypes.CDLL(ctypes.util.find_library("c") or None, use_errno=True)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

SYNC_FILE_RANGE_WRITE = 2
SYNC_FILE_RANGE_ALL = 7
"""Wait before, write, wait after."""

IOV_MAX = 1024

MAX_CALL_BYTES = 128 << 10
"""Most that one pwritev writes: ext4 makes a folio as large as the call, and a later write of 4 KiB into a large
one looks at each of its blocks: four times the system time a write, in ext4_block_write_begin() says perf."""


class PowerCutError(OSError):
    """The store does nothing any more: its power was cut, and what that leaves is being settled."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the power was cut")


class ShortWriteError(OSError):
    """The store took the first `nbytes` of a write, and refused the rest with this error."""

    def __init__(self, error: OSError, nbytes: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.nbytes = nbytes


def fallocate(fd: int, mode: int, offset: int, nbytes: int) -> None:
    """Call fallocate(2), which Python has only in its POSIX form."""
    if _fallocate(fd, mode, offset, nbytes):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class StoreIo:
    """Plain I/O on a store's files; each method raises OSError as the system call does.

    `node` is the file's inode: of no use here, but faults go by its path and pre-images by itself.
    """

    # ruff: noqa: ARG002

    def pread_into(self, node: Node, fd: int, out: memoryview, offset: int) -> int:
        """Read into `out`; return the bytes read, short only at the end of the file."""
        done = os.preadv(fd, [out], offset)
        while 0 < done < len(out):
            more = os.preadv(fd, [out[done:]], offset + done)
            if not more:
                break
            done += more
        return done

    def pwrite_all(self, node: Node, fd: int, buffers: Sequence[memoryview], offset: int) -> None:
        """Write all the buffers one after the other; ShortWriteError if some bytes are there already."""
        pending, begin = list(buffers), offset
        while pending:
            count, nbytes = 1, len(pending[0])
            while count < min(len(pending), IOV_MAX) and nbytes + len(pending[count]) <= MAX_CALL_BYTES:
                nbytes += len(pending[count])
                count += 1
            try:
                done = os.pwritev(fd, pending[:count], offset)
            except OSError as error:
                if offset > begin:
                    raise ShortWriteError(error, offset - begin) from error
                raise
            if done <= 0:
                raise OSError(errno.EIO, "the store accepts no bytes")
            offset += done
            while pending and done >= len(pending[0]):
                done -= len(pending.pop(0))
            if done:
                pending[0] = pending[0][done:]

    def sync_range(self, node: Node, fd: int, offset: int, nbytes: int, *, wait: bool) -> None:
        """Send the range to the disk without a barrier.

        With `wait` it returns when it is there, which paces the flusher at the disk's speed; without, the disk
        works while the next batch is copied.
        """
        if _sync_file_range(fd, offset, nbytes, SYNC_FILE_RANGE_ALL if wait else SYNC_FILE_RANGE_WRITE):
            number = ctypes.get_errno()
            if number not in {errno.ENOSYS, errno.ESPIPE, errno.EINVAL}:
                raise OSError(number, os.strerror(number))

    def fsync(self, node: Node, fd: int, *, datasync: bool) -> None:
        """Make the file durable."""
        if datasync:
            os.fdatasync(fd)
        else:
            os.fsync(fd)

    def sync_store(self, fd: int) -> None:
        """Make everything durable that was written to the store's filesystem, names too; `fd` is any in it."""
        if _syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def settle(self, fd: int) -> None:
        """Leave nothing behind at an orderly end; `fd` is any in the store's filesystem."""

    def truncate(self, node: Node, fd: int, nbytes: int) -> None:
        """Set the file's size."""
        os.ftruncate(fd, nbytes)

    def fallocate(self, node: Node, fd: int, mode: int, offset: int, nbytes: int) -> None:
        """Allocate or punch."""
        fallocate(fd, mode, offset, nbytes)

    def inode_changed(self, node: Node) -> None:
        """Note that a program changed a file's times: of no use here."""

    def remembers(self, node: Node) -> bool:
        """Return whether something of a file has to be remembered by its inode: not here."""
        return False

    def forget(self, node: Node) -> None:
        """Drop what is remembered of a file that is gone for good."""
