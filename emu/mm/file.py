"""File: what an open descriptor, or a path, lets a mapping do.

Source: Linux v6.12 mm/mmap.c: ksys_mmap_pgoff(), do_mmap(); fs/open.c: do_sys_ftruncate(); mm/shmem.c: shmem_mmap();
include/linux/mm.h: seal_check_write().
"""

import errno
import fcntl
import os
import stat
from dataclasses import dataclass

from emu.mm.inode import Inode, open_inode
from emu.mm.kernel import Kernel

_F_GET_SEALS = 1034
_SEALS_AGAINST_WRITING = 0x8 | 0x10
"""F_SEAL_WRITE, F_SEAL_FUTURE_WRITE."""


@dataclass(frozen=True, slots=True)
class File:
    """An inode, or None for what cannot be mapped here (a directory, a pipe, a device), and what it was opened for.

    `sealed`: a memfd that may not be written through new mappings.
    """

    inode: Inode | None
    readable: bool = True
    writable: bool = True
    sealed: bool = False

    @property
    def name(self) -> str:
        """The path, for messages."""
        return "the file" if self.inode is None else self.inode.name


def open_file(k: Kernel, fileno: int | str | os.PathLike[str], *, writable: bool) -> File:
    """Return what is behind a path or a host descriptor.

    A path is opened for writing where that is allowed; a descriptor gives what it was opened with, EBADF if it is
    closed or only a place (O_PATH).
    """
    if not isinstance(fileno, int):
        may = writable or os.access(fileno, os.W_OK)
        return File(open_inode(k, os.fspath(fileno), writable=may), writable=may)
    status = os.fstat(fileno)
    flags = fcntl.fcntl(fileno, fcntl.F_GETFL)
    if flags & os.O_PATH:
        raise OSError(errno.EBADF, "a descriptor that was opened with O_PATH is no open file")
    mode = flags & os.O_ACCMODE
    readable, can_write = mode != os.O_WRONLY, mode != os.O_RDONLY
    if not stat.S_ISREG(status.st_mode):
        return File(None, readable, can_write)
    inode = open_inode(k, f"/proc/self/fd/{fileno}", writable=can_write)
    if not inode.mapping.is_mapped() and not inode.mapping.pages.nr_pages:
        inode.refresh_size()
    return File(inode, readable, can_write, sealed=_is_sealed(fileno))


def _is_sealed(fileno: int) -> bool:
    try:
        return bool(fcntl.fcntl(fileno, _F_GET_SEALS) & _SEALS_AGAINST_WRITING)
    except OSError:
        # Files on disk have no seals.
        return False
