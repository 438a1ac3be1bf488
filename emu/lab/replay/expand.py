"""A trace's accesses as the MMU takes them: 1, 2, 4 or 8 bytes each.

Instructions and loads bring no value along that could be checked, so each becomes a load or fetch of the aligned word
that it begins in, and another one if it ends in another page: the same translations, and the MMU's fast path. Stores
keep their exact bytes: they are cut into pieces of 8, 4, 2 and 1, and each piece stores a value of its own.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.hw.mmu import AccessKind, kind_of
from emu.lab.memtrace.words import MAX_NBYTES, Kind, U64Array

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]

_SHAPES = MAX_NBYTES + 1 << 2
_ALIGNED, _AS_IS = ~np.uint64(7), ~np.uint64(0)
_FETCH, _LOAD = (kind_of(kind, 8) for kind in (AccessKind.FETCH, AccessKind.LOAD))
_STORES = {nbytes: kind_of(AccessKind.STORE, nbytes) for nbytes in (8, 4, 2, 1)}
_MIX = np.uint64(0x9E3779B97F4A7C15)

# By the low 16 bits of a word, which are size and kind: how many accesses it becomes, and what the first one is.
_NBYTES = np.arange(_SHAPES, dtype=np.uint64) >> np.uint64(2)
_KINDS = np.arange(_SHAPES) & 3
_IS_LOAD, _IS_STORE = _KINDS != Kind.STORE, _KINDS >= Kind.STORE
_NR_PIECES = np.bitwise_count(_NBYTES & np.uint64(7)).astype(np.int64) + (_NBYTES >> np.uint64(3)).astype(np.int64)
_COUNT = _IS_LOAD + np.where(_IS_STORE, _NR_PIECES, 0)
_MASK = np.where(_IS_LOAD, _ALIGNED, _AS_IS)


def _first_codes() -> U8Array:
    codes = np.full(_SHAPES, _LOAD, np.uint8)
    codes[_KINDS == Kind.INSTR] = _FETCH
    for nbytes, code in reversed(_STORES.items()):
        codes[(_KINDS == Kind.STORE) & (np.uint64(nbytes) <= _NBYTES)] = code
    return codes


def _tail_tables() -> tuple[U64Array, U8Array]:
    """Return, for each rest of 0 to 7 bytes and each of its pieces, where the piece begins and its code."""
    begins, codes = np.zeros((8, 3), np.uint64), np.zeros((8, 3), np.uint8)
    for rest in range(8):
        place = 0
        for number, nbytes in enumerate(size for size in (4, 2, 1) if rest & size):
            begins[rest, number], codes[rest, number] = place, _STORES[nbytes]
            place += nbytes
    return begins, codes


_FIRST = _first_codes()
_TAIL_BEGINS, _TAIL_CODES = _tail_tables()


@dataclass(frozen=True, slots=True)
class Batch:
    """Accesses for the MMU, shapes (n,): `vaddrs`, `kinds` (emu.hw.mmu.kind_of), `values` of the stores."""

    vaddrs: U64Array
    kinds: U8Array
    values: U64Array


def values_of(first: int, count: int) -> U64Array:
    """Return what the pieces `first` and following store: all different, and by their number alone."""
    mixed = np.arange(first, first + count, dtype=np.uint64) * _MIX
    values: U64Array = mixed ^ mixed >> np.uint64(29)
    return values


def expand(vaddrs: U64Array, words: U64Array, page_size: int, first: int) -> Batch:
    """Return the batch for accesses at `vaddrs` whose sizes and kinds stand in `words`; `first` decides the values."""
    shapes = words.astype(np.uint16)
    counts = _COUNT[shapes]
    crossing = (vaddrs & np.uint64(page_size - 1)) + _NBYTES[shapes] > np.uint64(page_size)
    crossing &= _IS_LOAD[shapes]
    counts += crossing
    total = int(counts.sum())
    begins, codes = vaddrs & _MASK[shapes], _FIRST[shapes]
    if total == len(words) and int(counts.min(initial=1)) == 1:
        return Batch(begins, codes, values_of(first, total))
    at: I64Array = np.cumsum(counts) - counts
    out_vaddrs, out_kinds = np.empty(total, np.uint64), np.empty(total, np.uint8)
    something = counts > 0
    out_vaddrs[at[something]], out_kinds[at[something]] = begins[something], codes[something]
    more = np.flatnonzero(counts > 1)
    source = np.repeat(more, counts[more] - 1)
    number = np.arange(len(source)) - np.repeat(np.cumsum(counts[more] - 1) - counts[more] + 1, counts[more] - 1) + 1
    places = at[source] + number
    out_vaddrs[places], out_kinds[places] = _further(
        vaddrs[source], shapes[source], number, _IS_LOAD[shapes[source]].astype(np.int64) + crossing[source]
    )
    return Batch(out_vaddrs, out_kinds, values_of(first, total))


def _further(
    vaddrs: U64Array, shapes: npt.NDArray[np.uint16], number: I64Array, nr_loads: I64Array
) -> tuple[U64Array, U8Array]:
    """Return address and code of each access that is not its word's first but number `number`."""
    nbytes = _NBYTES[shapes]
    load = number < nr_loads
    piece = np.where(load, 0, number - nr_loads)
    nr_words = (nbytes >> np.uint64(3)).astype(np.int64)
    in_tail = piece >= nr_words
    rest = (nbytes & np.uint64(7)).astype(np.int64)
    tail = np.where(in_tail, piece - nr_words, 0)
    begin = np.where(in_tail, nr_words << 3, piece << 3).astype(np.uint64) + np.where(
        in_tail, _TAIL_BEGINS[rest, tail], np.uint64(0)
    )
    store_codes = np.where(in_tail, _TAIL_CODES[rest, tail], np.uint8(_STORES[8]))
    load_codes = np.where(shapes & np.uint16(3) == Kind.INSTR, np.uint8(_FETCH), np.uint8(_LOAD))
    # The second load of a word is the one that ends in another page.
    last = vaddrs + nbytes - np.uint64(1) & _ALIGNED
    return np.where(load, last, vaddrs + begin), np.where(load, load_codes, store_codes)
