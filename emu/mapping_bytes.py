"""MappedBytes: a Mapping as a row of bytes with a position, as mmap.mmap is: indexes, slices, read, write, find.

Every byte goes through the MMU of the process's CPU.
"""

import operator
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, SupportsIndex, overload

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from emu.mapping_owner import MappingOwner

_SEARCH_NBYTES = 1 << 20
"""How much find and rfind load at a time: they stop faulting pages in once they have found."""


class MappedBytes:
    """What of mmap.mmap concerns bytes only; `process`, `vaddr`, `nbytes` and `_readonly` are Mapping's."""

    __slots__ = ("_closed", "_load_byte", "_pos", "_readonly", "_store_byte", "nbytes", "process", "vaddr")

    def __init__(self, process: "MappingOwner", vaddr: int, nbytes: int, *, readonly: bool) -> None:
        self.process = process
        self.vaddr = vaddr
        self.nbytes = nbytes
        self._readonly = readonly
        self._pos = 0
        self._closed = False
        # Bound once: one access is meant to cost little more than the MMU itself.
        self._load_byte: Callable[[int], int] = process.load_byte
        self._store_byte: Callable[[int, int], None] = process.store_byte

    # -- indexing -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        self._check_open()
        return self.nbytes

    @overload
    def __getitem__(self, key: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: SupportsIndex | slice) -> int | bytes:
        """Load one byte as an int, or a slice as bytes. A slice with a step touches its own bytes only."""
        # The usual case first, without a call: this line is what "one access" costs.
        if type(key) is int and 0 <= key < self.nbytes and not self._closed:
            return self._load_byte(self.vaddr + key)
        self._check_open()
        if isinstance(key, slice):
            start, stop, step = key.indices(self.nbytes)
            if step == 1:
                return self.process.load(self.vaddr + start, stop - start) if stop > start else b""
            return bytes(self._load_byte(self.vaddr + at) for at in range(start, stop, step))
        return self._load_byte(self.vaddr + self._index(key))

    @overload
    def __setitem__(self, key: SupportsIndex, value: SupportsIndex) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: "Buffer") -> None: ...
    def __setitem__(self, key: SupportsIndex | slice, value: "SupportsIndex | Buffer") -> None:
        """Store one byte (0 to 255), or exactly as many bytes as the slice has."""
        self._check_open()
        self._check_writable()
        if isinstance(key, slice):
            start, stop, step = key.indices(self.nbytes)
            data = memoryview(value).cast("B")  # type: ignore[arg-type]
            where = range(start, stop, step)
            if len(data) != len(where):
                raise IndexError("mmap slice assignment is wrong size")
            if step == 1:
                if data.nbytes:
                    self.process.store(self.vaddr + start, data)
            else:
                for at, byte in zip(where, data, strict=True):
                    self._store_byte(self.vaddr + at, byte)
            return
        at = self._index(key)
        try:
            byte = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError("mmap item value must be an int") from None
        if not 0 <= byte <= 255:
            raise ValueError("mmap item value must be in range(0, 256)")
        self._store_byte(self.vaddr + at, byte)

    def __delitem__(self, key: object) -> None:
        self._check_open()
        raise TypeError("mmap object doesn't support item deletion")

    def __iter__(self) -> Iterator[bytes]:
        """Yield bytes objects of length one, as iteration over mmap.mmap does."""
        at = 0
        while at < len(self):
            yield self.process.load(self.vaddr + at, 1)
            at += 1

    def __bytes__(self) -> bytes:
        self._check_open()
        return self.process.load(self.vaddr, self.nbytes)

    # -- reading and writing at the position ---------------------------------------------------------------

    def read(self, nbytes: int | None = None, /) -> bytes:
        """Load up to `nbytes` bytes at the position (if None or negative: all) and move on."""
        self._check_open()
        left = max(self.nbytes - self._pos, 0)
        count = left if nbytes is None or nbytes < 0 else min(nbytes, left)
        data = self.process.load(self.vaddr + self._pos, count) if count else b""
        self._pos += count
        return data

    def read_byte(self) -> int:
        """Load the byte at the position and move on; ValueError at the end."""
        self._check_open()
        if self._pos >= self.nbytes:
            raise ValueError("read byte out of range")
        byte = self._load_byte(self.vaddr + self._pos)
        self._pos += 1
        return byte

    def readline(self) -> bytes:
        """Load up to and with the next newline, or to the end."""
        self._check_open()
        newline = self._find(b"\n", self._pos, self.nbytes, backward=False)
        return self.read(None if newline < 0 else newline + 1 - self._pos)

    def write(self, data: "Buffer", /) -> int:
        """Store `data` at the position, all of it or (ValueError) nothing; return how many bytes."""
        self._check_open()
        view = memoryview(data).cast("B")
        self._check_writable()
        if self._pos > self.nbytes or self.nbytes - self._pos < view.nbytes:
            raise ValueError("data out of range")
        if view.nbytes:
            self.process.store(self.vaddr + self._pos, view)
        self._pos += view.nbytes
        return view.nbytes

    def write_byte(self, byte: int, /) -> None:
        """Store one byte at the position and move on; ValueError at the end."""
        self._check_open()
        value = operator.index(byte)
        if not 0 <= value <= 255:
            raise OverflowError("unsigned byte integer is out of range 0 to 255")
        self._check_writable()
        if self._pos >= self.nbytes:
            raise ValueError("write byte out of range")
        self._store_byte(self.vaddr + self._pos, value)
        self._pos += 1

    def seek(self, pos: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position (SEEK_SET, SEEK_CUR, SEEK_END) within the mapping and return it."""
        self._check_open()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._pos, os.SEEK_END: self.nbytes}
        if whence not in bases:
            raise ValueError("unknown seek type")
        target = bases[whence] + operator.index(pos)
        if not 0 <= target <= self.nbytes:
            raise ValueError("seek out of range")
        self._pos = target
        return target

    def seekable(self) -> bool:
        """Return True: a mapping has a position that moves."""
        return True

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._pos

    # -- searching and moving -------------------------------------------------------------------------------

    def find(self, sub: "Buffer", start: int | None = None, end: int | None = None, /) -> int:
        """Return the lowest index of `sub` in [start, end), or -1. `start` is the position if not given."""
        return self._search(sub, start, end, backward=False)

    def rfind(self, sub: "Buffer", start: int | None = None, end: int | None = None, /) -> int:
        """Return the highest index of `sub` in [start, end), or -1. `start` is the position if not given."""
        return self._search(sub, start, end, backward=True)

    def move(self, dest: int, src: int, count: int, /) -> None:
        """Copy `count` bytes from `src` to `dest`; the two may overlap."""
        self._check_open()
        self._check_writable()
        if min(dest, src, count) < 0 or self.nbytes - dest < count or self.nbytes - src < count:
            raise ValueError("source, destination, or count out of range")
        if count:
            self.process.store(self.vaddr + dest, self.process.load(self.vaddr + src, count))

    # -- inside ---------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("mmap closed or invalid")

    def _check_writable(self) -> None:
        if self._readonly:
            raise TypeError("mmap can't modify a readonly memory map.")

    def _index(self, key: SupportsIndex) -> int:
        try:
            at = operator.index(key)
        except TypeError:
            raise TypeError("mmap indices must be integers") from None
        at += self.nbytes if at < 0 else 0
        if not 0 <= at < self.nbytes:
            raise IndexError("mmap index out of range")
        return at

    def _search(self, sub: "Buffer", start: int | None, end: int | None, *, backward: bool) -> int:
        self._check_open()
        first, last, _step = slice(self._pos if start is None else start, end).indices(self.nbytes)
        return self._find(bytes(sub), first, last, backward=backward)

    def _find(self, needle: bytes, first: int, last: int, *, backward: bool) -> int:
        """Search [first, last) chunk by chunk; chunks overlap by all but one byte of the needle."""
        if last - first < len(needle):
            return -1
        overlap = max(len(needle) - 1, 0)
        starts: Iterator[int] = iter(range(first, max(last - overlap, first + 1), _SEARCH_NBYTES))
        for start in reversed(list(starts)) if backward else starts:
            chunk = self.process.load(self.vaddr + start, min(_SEARCH_NBYTES + overlap, last - start))
            at = chunk.rfind(needle) if backward else chunk.find(needle)
            if at >= 0:
                return start + at
        return -1
