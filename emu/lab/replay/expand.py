"""A trace's accesses as the MMU takes them: 1, 2, 4 or 8 bytes each.

Instructions and loads bring no value along that could be checked, so each becomes a load or fetch of the aligned word
that it begins in, and another one if it ends in another page: the same translations, and the MMU's fast path. Stores
keep their exact bytes: they are cut into pieces of 8, 4, 2 and 1, and each piece stores a value of its own.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.lab.memtrace.words import U64Array
from emu.lab.replay.kernels import EMPTY, RECENT_SLOTS, count_pieces, fill_pieces

U8Array = npt.NDArray[np.uint8]

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Batch:
    """Accesses for the MMU, shapes (n,): `vaddrs`, `kinds` (emu.hw.mmu.kind_of), `values` of the stores.

    `pages`, sorted: all that are touched.
    """

    vaddrs: U64Array
    kinds: U8Array
    values: U64Array
    pages: U64Array


def values_of(first: int, count: int) -> U64Array:
    """Return what the pieces `first` and following store: all different, and by their number alone."""
    mixed = np.arange(first, first + count, dtype=np.uint64) * _MIX
    values: U64Array = mixed ^ mixed >> np.uint64(29)
    return values


def writable_words(words: U64Array) -> U64Array:
    """Return words as the compiled passes take them, which want arrays that could be written."""
    return np.require(words, np.uint64, ["C", "W"])


def no_recent_pages(kinds: int = 1) -> U64Array:
    """Return the slots of pages seen before any was seen."""
    return np.full(kinds * RECENT_SLOTS, EMPTY, np.uint64)


def expand(vaddrs: U64Array, words: U64Array, page_shift: int, first: int) -> Batch:
    """Return the batch for accesses at `vaddrs` whose sizes and kinds stand in `words`; `first` decides the values."""
    words, vaddrs = writable_words(words), writable_words(vaddrs)
    total = int(count_pieces(words, vaddrs, np.uint64(1 << page_shift)))
    out_vaddrs, out_values = np.empty(total, np.uint64), np.empty(total, np.uint64)
    out_kinds = np.empty(total, np.uint8)
    pages = np.empty(2 * len(words), np.uint64)
    found = fill_pieces(
        words, vaddrs, np.uint64(page_shift), np.uint64(first), out_vaddrs, out_kinds, out_values, pages,
        no_recent_pages(),
    )  # fmt: skip
    return Batch(out_vaddrs, out_kinds, out_values, np.unique(pages[: int(found)]))
