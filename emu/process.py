"""Process: the system calls and memory accesses of one emulated process.

System calls raise OSError with the errno that Linux gives; accesses raise SegmentationFault, BusError or OutOfMemory.
"""

import contextlib
import errno
import mmap as host_mmap
import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emu.accesses import Accesses
from emu.errors import BusError, OutOfMemory
from emu.mapargs import apply_access, check_signs, length_within
from emu.mapping import Mapping
from emu.mm import mmap as mm_mmap
from emu.mm import syscalls
from emu.mm.brk import do_brk
from emu.mm.file import File, open_file
from emu.mm.fork import dup_mmap, exit_mmap
from emu.mm.fremap import remap_file_pages, remap_file_pages_bulk
from emu.mm.inode import Inode
from emu.mm.madvise import do_madvise
from emu.mm.mincore import do_mincore, do_mlockall, do_munlockall
from emu.mm.mprotect import do_mprotect
from emu.mm.mremap import MREMAP_MAYMOVE, do_mremap
from emu.mm.rlimit import getrlimit, setrlimit
from emu.mm.sched import boundary, throttle
from emu.mm.trace import traced
from emu.mm.truncate import ftruncate
from emu.mm_types.vma import VM_LOCKED

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.mm_types.vma import VmArea


class Process(Accesses):
    """One process: an address space and whoever runs in it.

    Addresses (`vaddr`) and lengths (`nbytes`) are in bytes, page offsets (`pgoff`) in pages of the machine's format.
    """

    @property
    def page_size(self) -> int:
        """Bytes in a page, from the machine's format."""
        return self.kernel.page_size

    @property
    def vmas(self) -> "list[VmArea]":
        """The mappings, in order of address."""
        return list(self.mm.vmas)

    def _leave_kernel(self) -> None:
        """Do what the end of a system call does: kernel threads get their turn, a throttled caller its pause."""
        k = self.kernel
        boundary(k)
        if k.pause_s:
            throttle(k, self.mm)

    # Mapping files

    @traced(9)
    def mmap(
        self,
        fileno: int | str | os.PathLike[str],
        length: int,
        flags: int = host_mmap.MAP_SHARED,
        prot: int = host_mmap.PROT_READ | host_mmap.PROT_WRITE,
        access: int = host_mmap.ACCESS_DEFAULT,
        offset: int = 0,
        *,
        vaddr: int = 0,
    ) -> Mapping:
        """Map a host file, or anonymous memory (-1), with the arguments and errors of Python's mmap.mmap.

        `fileno` may be a path, too. Length 0 maps to the end of the file; beyond it is a ValueError (sys_mmap takes
        it, as the system call does).
        """
        self._alive()
        flags, prot = apply_access(flags, prot, access)
        check_signs(length, offset)
        file: File | None = None
        inode: Inode | None = None
        if fileno == -1:
            flags |= mm_mmap.MAP_ANONYMOUS
        elif not flags & mm_mmap.MAP_ANONYMOUS:
            file = self._open(fileno, prot, flags)
            inode = file.inode
            if inode is not None:
                length = length_within(inode, length, offset)
        if offset & (self.page_size - 1):
            raise OSError(errno.EINVAL, f"the offset {offset} is not a multiple of the page size {self.page_size}")
        if not length:
            raise OSError(errno.EINVAL, "cannot map nothing")
        where = self._do_mmap(vaddr, length, prot, flags, file, offset)
        return Mapping(self, where, length, prot=prot, flags=flags, offset=offset, file=inode, access=access)

    @traced(9)
    def sys_mmap(
        self, vaddr: int, nbytes: int, prot: int, flags: int, fileno: int | str | os.PathLike[str], offset: int
    ) -> int:
        """mmap(2) itself: returns the address; a file may be mapped beyond its end."""
        self._alive()
        if offset & (self.page_size - 1):
            raise OSError(errno.EINVAL, f"the offset {offset} is not a multiple of the page size {self.page_size}")
        file = None if flags & mm_mmap.MAP_ANONYMOUS else self._open(fileno, prot, flags)
        return self._do_mmap(vaddr, nbytes, prot, flags, file, offset)

    def _do_mmap(self, vaddr: int, nbytes: int, prot: int, flags: int, file: File | None, offset: int) -> int:
        k = self.kernel
        pgoff = offset % mm_mmap.WORD >> k.page_shift
        self.mm.mmap_sem.down_write()
        try:
            where = mm_mmap.do_mmap(k, self.mm, vaddr, nbytes, prot, flags, file, pgoff)
        finally:
            self.mm.mmap_sem.up_write()
        locked = flags & mm_mmap.MAP_LOCKED or self.mm.def_flags & VM_LOCKED
        if locked or flags & (mm_mmap.MAP_POPULATE | mm_mmap.MAP_NONBLOCK) == mm_mmap.MAP_POPULATE:
            # The mapping stands, whether it could be populated or not (mm_populate).
            with contextlib.suppress(BusError, OutOfMemory):
                syscalls.make_pages_present(k, self.mm, where, where + mm_mmap.page_align(k, nbytes))
        self._leave_kernel()
        return where

    def _open(self, fileno: int | str | os.PathLike[str], prot: int, flags: int) -> File:
        return open_file(self.kernel, fileno, writable=bool(prot & host_mmap.PROT_WRITE and flags & mm_mmap.MAP_SHARED))

    @traced(11)
    def munmap(self, vaddr: int, nbytes: int) -> None:
        """munmap(2)."""
        self._alive()
        self._write_locked(lambda: mm_mmap.do_munmap(self.kernel, self.mm, vaddr, nbytes))

    @traced(25)
    def mremap(
        self, old_vaddr: int, old_nbytes: int, new_nbytes: int, flags: int = MREMAP_MAYMOVE, new_vaddr: int = 0
    ) -> int:
        """mremap(2); returns where the mapping is now."""
        self._alive()
        moved: list[int] = []
        self._write_locked(
            lambda: moved.append(
                do_mremap(self.kernel, self.mm, old_vaddr, old_nbytes, new_nbytes, flags, new_vaddr)
            )
        )
        return moved[0]

    @traced(12)
    def brk(self, vaddr: int = 0) -> int:
        """brk(2), the system call itself: move the end of the heap if that can be; return where it is now."""
        self._alive()
        ends: list[int] = []
        self._write_locked(lambda: ends.append(do_brk(self.kernel, self.mm, vaddr)))
        return ends[0]

    def getrlimit(self, resource: int) -> tuple[int, int]:
        """getrlimit(2): the soft and the hard limit in bytes, of RLIMIT_AS, DATA, STACK or MEMLOCK."""
        return getrlimit(self.mm, resource)

    @traced(160)
    def setrlimit(self, resource: int, soft: int, hard: int = -1) -> None:
        """setrlimit(2): limits in bytes, -1 for none; children inherit them."""
        self._alive()
        setrlimit(self.mm, resource, soft, hard)

    @traced(10)
    def mprotect(self, vaddr: int, nbytes: int, prot: int) -> None:
        """mprotect(2)."""
        self._alive()
        self._write_locked(lambda: do_mprotect(self.kernel, self.mm, vaddr, nbytes, prot))

    @traced(149)
    def mlock(self, vaddr: int, nbytes: int) -> None:
        """mlock(2)."""
        self._alive()
        self._write_locked(lambda: syscalls.do_mlock(self.kernel, self.mm, vaddr, nbytes, lock=True))

    @traced(325)
    def mlock2(self, vaddr: int, nbytes: int, flags: int) -> None:
        """mlock2(2): with MLOCK_ONFAULT, pages are locked when they come in."""
        self._alive()
        onfault = syscalls.mlock2_onfault(flags)
        self._write_locked(
            lambda: syscalls.do_mlock(self.kernel, self.mm, vaddr, nbytes, lock=True, onfault=onfault)
        )

    @traced(150)
    def munlock(self, vaddr: int, nbytes: int) -> None:
        """munlock(2)."""
        self._alive()
        self._write_locked(lambda: syscalls.do_mlock(self.kernel, self.mm, vaddr, nbytes, lock=False))

    @traced(151)
    def mlockall(self, flags: int) -> None:
        """mlockall(2): MCL_CURRENT, MCL_FUTURE or both."""
        self._alive()
        self._write_locked(lambda: do_mlockall(self.kernel, self.mm, flags))

    @traced(152)
    def munlockall(self) -> None:
        """munlockall(2)."""
        self._alive()
        self._write_locked(lambda: do_munlockall(self.kernel, self.mm))

    @traced(27)
    def mincore(self, vaddr: int, nbytes: int) -> bytes:
        """mincore(2): a byte a page, 1 if the page is in memory."""
        self._alive()
        self.mm.mmap_sem.down_read()
        try:
            return do_mincore(self.kernel, self.mm, vaddr, nbytes)
        finally:
            self.mm.mmap_sem.up_read()

    @traced(28)
    def madvise(self, vaddr: int, nbytes: int, advice: int) -> None:
        """madvise(2)."""
        self._alive()
        self._write_locked(lambda: do_madvise(self.kernel, self.mm, vaddr, nbytes, advice))

    def _write_locked(self, call: "Callable[[], None]") -> None:
        self.mm.mmap_sem.down_write()
        try:
            call()
        finally:
            self.mm.mmap_sem.up_write()
        self._leave_kernel()

    @traced(26)
    def msync(self, vaddr: int, nbytes: int, flags: int = syscalls.MS_SYNC) -> None:
        """msync(2)."""
        self._alive()
        self.mm.mmap_sem.down_read()
        try:
            syscalls.do_msync(self.kernel, self.mm, vaddr, nbytes, flags)
        finally:
            self.mm.mmap_sem.up_read()
        self._leave_kernel()

    def remap_file_pages(self, vaddr: int, nbytes: int, prot: int, pgoff: int, flags: int = 0) -> None:
        """remap_file_pages(2)."""
        k = self.kernel
        if self.mm.dead:
            self._alive()
        remap_file_pages(k, self.mm, vaddr, nbytes, prot, pgoff, flags)
        boundary(k)
        if k.pause_s:
            throttle(k, self.mm)

    def remap_file_pages_bulk(self, vaddrs: npt.ArrayLike, pgoffs: npt.ArrayLike) -> None:
        """Remap many single pages of one mapping at once, without prefault (fremap's own call)."""
        self._alive()
        remap_file_pages_bulk(
            self.kernel, self.mm, np.asarray(vaddrs, dtype=np.uint64), np.asarray(pgoffs, dtype=np.uint64)
        )
        self._leave_kernel()

    @traced(77)
    def ftruncate(self, file: "int | Mapping", nbytes: int) -> None:
        """ftruncate(2) of a host descriptor, or of the file behind a mapping."""
        self._alive()
        if nbytes < 0:
            raise OSError(errno.EINVAL, "a length is not negative")
        if isinstance(file, Mapping):
            inode = file.file
            if not isinstance(inode, Inode):
                raise OSError(errno.EINVAL, "anonymous memory has no length to change")
        else:
            opened = open_file(self.kernel, file, writable=False)
            inode = opened.inode
            if inode is None or not opened.writable:
                raise OSError(errno.EINVAL, "the descriptor is no regular file that is open for writing")
        ftruncate(self.kernel, inode, nbytes)
        self._leave_kernel()

    @traced(57)
    def fork(self) -> "Process":
        """fork(2): a process with a copy of this address space. ENOMEM without frames for it."""
        self._alive()
        try:
            child = dup_mmap(self.kernel, self.mm)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, str(error)) from None
        self._leave_kernel()
        return Process(self.kernel, child)

    @traced(231)
    def exit(self) -> None:
        """Unmap everything; the process is no more."""
        if not self.mm.dead:
            exit_mmap(self.kernel, self.mm)
            self._leave_kernel()
