"""Mapping: what Process.mmap() returns, with the interface of Python's own mmap.mmap.

Code written for mmap.mmap runs on a Mapping: same methods, same defaults, same exception types (CPython 3.11
to 3.13, Modules/mmapmodule.c, is the model that the tests compare with). Two things differ:

- no byte is reachable except through the emulated MMU, so there is no buffer protocol: `memoryview(mapping)`
  and `re` need `bytes(mapping)` first;
- `seek` returns the new position on every version of Python, as mmap does since 3.13.

`remap_file_pages` and `vaddr` are what mmap.mmap lacks. A Mapping keeps no state of the kernel's: only where
it lies and the position of `read` and `write`.
"""

import mmap as _mmap
from types import TracebackType
from typing import Self

from emu.mapping_bytes import MappedBytes
from emu.mapping_owner import MappedFile, MappingOwner

MS_SYNC = 4
"""msync: wait until the bytes are on the disk (Linux include/uapi/asm-generic/mman-common.h)."""


class Mapping(MappedBytes):
    """A range of a process's addresses with the interface of mmap.mmap.

    Parameters
    ----------
    process, vaddr, nbytes
        Whose, where, how long: the fields ``.vaddr`` and ``.nbytes`` follow ``resize``.
    prot, flags
        PROT_* and MAP_* as given to Process.mmap.
    offset
        Where in the file the mapping was made, in bytes. remap_file_pages does not change it.
    file
        What is mapped; None for anonymous memory.
    access
        ACCESS_READ, ACCESS_WRITE, ACCESS_COPY or 0 (ACCESS_DEFAULT: from `prot`, as mmap.mmap does).

    """

    __slots__ = ("__weakref__", "access", "file", "flags", "offset", "prot")

    def __init__(
        self,
        process: MappingOwner,
        vaddr: int,
        nbytes: int,
        *,
        prot: int = _mmap.PROT_READ | _mmap.PROT_WRITE,
        flags: int = _mmap.MAP_SHARED,
        offset: int = 0,
        file: MappedFile | None = None,
        access: int = 0,
    ) -> None:
        if access == _mmap.ACCESS_DEFAULT and not (prot & _mmap.PROT_READ and prot & _mmap.PROT_WRITE):
            access = _mmap.ACCESS_WRITE if prot & _mmap.PROT_WRITE else _mmap.ACCESS_READ
        super().__init__(process, vaddr, nbytes, readonly=access == _mmap.ACCESS_READ)
        self.prot = prot
        self.flags = flags
        self.offset = offset
        self.file = file
        self.access = access

    # -- life ---------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """Unmap. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self.process.munmap(self.vaddr, self.nbytes)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return "<Mapping closed=True>"
        access = {1: "ACCESS_READ", 2: "ACCESS_WRITE", 3: "ACCESS_COPY"}.get(self.access, "ACCESS_DEFAULT")
        return (
            f"<Mapping closed=False, access={access}, length={self.nbytes}, pos={self._pos}, "
            f"offset={self.offset}, vaddr={self.vaddr:#x}>"
        )

    def __reduce__(self) -> str:
        raise TypeError("cannot pickle a Mapping: it is a place in a machine's memory")

    # -- the system calls -----------------------------------------------------------------------------------

    def flush(self, offset: int = 0, nbytes: int | None = None, /, *, flags: int = MS_SYNC) -> None:
        """msync(2) of the range, as mmap.flush; on a read-only or copy-on-write mapping nothing.

        Raises
        ------
        ValueError
            If the range leaves the mapping. As with mmap.flush, an offset alone means a length of the whole
            mapping, so it leaves it.
        OSError
            EINVAL if the offset is not a multiple of the page size; EIO if the writeback failed.

        """
        self._check_open()
        count = self.nbytes if nbytes is None else nbytes
        if count < 0 or offset < 0 or self.nbytes - offset < count:
            raise ValueError("flush values out of range")
        if self.access not in (_mmap.ACCESS_READ, _mmap.ACCESS_COPY):
            self.process.msync(self.vaddr + offset, count, flags)

    def madvise(self, option: int, start: int = 0, length: int | None = None, /) -> None:
        """madvise(2) on [start, start + length) of the mapping; the length is cut at the end."""
        self._check_open()
        count = self.nbytes if length is None else length
        if not 0 <= start < self.nbytes:
            raise ValueError("madvise start out of bounds")
        if count < 0:
            raise ValueError("madvise length invalid")
        self.process.madvise(self.vaddr + start, min(count, self.nbytes - start), option)

    def resize(self, newsize: int, /) -> None:
        """Make the file and the mapping `newsize` bytes long, as mmap.resize; the mapping may move.

        Raises
        ------
        TypeError
            On a read-only or copy-on-write mapping.
        OSError
            EINVAL where the mapping cannot change, such as a nonlinear one that would have to grow.

        """
        self._check_open()
        if self.access in (_mmap.ACCESS_READ, _mmap.ACCESS_COPY):
            raise TypeError("mmap can't resize a readonly or copy-on-write memory map.")
        if newsize < 0:
            raise ValueError("new size out of range")
        if self.file is not None:
            self.process.ftruncate(self, self.offset + newsize)
        self.vaddr = self.process.mremap(self.vaddr, self.nbytes, newsize)
        self.nbytes = newsize

    def size(self) -> int:
        """Return the length of the file in bytes, which may be more than len(). Anonymous memory: len()."""
        self._check_open()
        return self.nbytes if self.file is None else self.file.i_size

    def remap_file_pages(self, offset: int, nbytes: int, pgoff: int, prot: int = 0, flags: int = 0) -> None:
        """Show `nbytes` of the file from page `pgoff` on at `offset` bytes into the mapping.

        remap_file_pages(2): the mapping must be MAP_SHARED, `prot` must be 0, and `offset` and `nbytes` are
        rounded down to pages. `pgoff` counts pages of the machine's format.

        Raises
        ------
        ValueError
            If the range leaves the mapping.
        OSError
            EINVAL or EPERM, as the system call.

        """
        self._check_open()
        if offset < 0 or nbytes < 0 or self.nbytes - offset < nbytes:
            raise ValueError("remap_file_pages range out of the mapping")
        self.process.remap_file_pages(self.vaddr + offset, nbytes, prot, pgoff, flags)
