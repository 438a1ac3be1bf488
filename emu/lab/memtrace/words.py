"""One memory access as one 64-bit word, and what else a trace tells: calls and files.

An access is `vaddr << 16 | nbytes << 2 | kind`: addresses are canonical (48 bits, sign-extended), sizes are below
16384, and the kinds are those of valgrind's lackey: an instruction, a load, a store, and a modify, which is a load
and a store of the same bytes.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

U64Array = npt.NDArray[np.uint64]

MAX_NBYTES = (1 << 14) - 1
VADDR_BITS = 48
_MAX_RW_COUNT = 0x7FFF_F000
"""Most bytes that one read(2) or write(2) moves."""

_KIND_MASK, _NBYTES_MASK = np.uint64(3), np.uint64(MAX_NBYTES)
_NBYTES_SHIFT, _VADDR_SHIFT = np.uint64(2), np.uint64(16)


class Kind(IntEnum):
    """Kinds of accesses; their letters in lackey's text are I, L, S and M."""

    INSTR = 0
    LOAD = 1
    STORE = 2
    MODIFY = 3


LETTERS = "ILSM"


class Op(IntEnum):
    """What a call does. COPY_IN and COPY_OUT are the kernel's own accesses: read(2) stores, write(2) loads."""

    MMAP = 1  # vaddr, nbytes, prot, flags, file (-1: anonymous), offset in bytes
    MUNMAP = 2  # vaddr, nbytes
    MPROTECT = 3  # vaddr, nbytes, prot
    MREMAP = 4  # vaddr, nbytes (old); new_nbytes, new_vaddr
    MADVISE = 5  # vaddr, nbytes; flags: the advice
    MSYNC = 6  # vaddr, nbytes, flags
    REMAP_FILE_PAGES = 7  # vaddr, nbytes, prot, flags; offset: pgoff
    COPY_IN = 8  # vaddr, nbytes
    COPY_OUT = 9  # vaddr, nbytes


class Label(IntEnum):
    """What a mapping is, where its arguments do not tell."""

    NONE = 0
    STACK = 1
    HEAP = 2
    PROGRAM = 3


CALL_DTYPE = np.dtype(
    [
        ("op", "<u2"),
        ("label", "<u2"),
        ("prot", "<u4"),
        ("flags", "<u4"),
        ("file", "<i4"),
        ("vaddr", "<u8"),
        ("nbytes", "<u8"),
        ("new_vaddr", "<u8"),
        ("new_nbytes", "<u8"),
        ("offset", "<u8"),
    ]
)
"""A call as it stands in a file: 56 bytes."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the program that changes or names memory; addresses and lengths in bytes."""

    op: Op
    vaddr: int
    nbytes: int
    label: Label = Label.NONE
    prot: int = 0
    flags: int = 0
    file: int = -1
    new_vaddr: int = 0
    new_nbytes: int = 0
    offset: int = 0

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.vaddr + self.nbytes


@dataclass(frozen=True, slots=True)
class File:
    """A file that the program maps: where it was, and how long when it was mapped (0: not known)."""

    path: str
    nbytes: int = 0


def pack(vaddrs: U64Array, nbytes: npt.ArrayLike, kinds: npt.ArrayLike) -> U64Array:
    """Return words of accesses; shapes (n,). Addresses must be canonical, sizes at most MAX_NBYTES."""
    sizes, what = np.asarray(nbytes, np.uint64), np.asarray(kinds, np.uint64)
    packed: U64Array = vaddrs << _VADDR_SHIFT | sizes << _NBYTES_SHIFT | what
    return packed


def vaddrs_of(words: U64Array) -> U64Array:
    """Return the addresses, sign-extended."""
    vaddrs: U64Array = (words.view(np.int64) >> np.int64(16)).view(np.uint64)
    return vaddrs


def nbytes_of(words: U64Array) -> U64Array:
    """Return the sizes in bytes."""
    sizes: U64Array = words >> _NBYTES_SHIFT & _NBYTES_MASK
    return sizes


def kinds_of(words: U64Array) -> U64Array:
    """Return the kinds (Kind)."""
    kinds: U64Array = words & _KIND_MASK
    return kinds


def is_canonical(vaddrs: U64Array) -> npt.NDArray[np.bool_]:
    """Tell which addresses a word can hold."""
    fits: npt.NDArray[np.bool_] = vaddrs_of(vaddrs << _VADDR_SHIFT) == vaddrs
    return fits


def call_to_record(call: Call) -> npt.NDArray[Any]:
    """Return a call as an array of one CALL_DTYPE record."""
    record = np.zeros(1, CALL_DTYPE)
    for name in CALL_DTYPE.names or ():
        record[name] = getattr(call, name)
    return record


def call_from_record(record: Any) -> Call:
    """Return the call of a CALL_DTYPE record; ValueError for an unknown op or label."""
    values = {name: int(record[name]) for name in CALL_DTYPE.names or ()}
    return Call(op=Op(values.pop("op")), label=Label(values.pop("label")), **values)


def checked(call: Call, nr_files: int) -> Call:
    """Return the call; ValueError if no program can have made it, or it names a file that was not named before."""
    if not -1 <= call.file < nr_files:
        raise ValueError(f"it names file {call.file}")
    if max(call.end, call.new_vaddr + call.new_nbytes) > 1 << 64:
        raise ValueError("its range ends beyond the last address")
    if call.op == Op.MREMAP and not call.new_nbytes:
        raise ValueError("a mapping of no length is left")
    if call.op in {Op.COPY_IN, Op.COPY_OUT} and call.nbytes > _MAX_RW_COUNT:
        raise ValueError(f"no system call copies {call.nbytes} bytes")
    return call
