"""Writing many page-table entries in one pass over RAM, and reading what they were."""

import numpy as np

from emu.hw.jit import WORD, WORDS, Word, Words, kernel
from emu.hw.walk import U0, U1

_HALF_MASK = np.uint64(0xFFFFFFFF)
_HALF_BITS = np.uint64(32)


@kernel(WORD, WORDS, WORDS, WORD, WORD, WORD, WORD, WORD, WORDS, WORDS, WORDS)
def exchange(
    ram: Words,
    bases: Words,
    first_key: Word,
    leaf_shift: Word,
    page_shift: Word,
    leaf_mask: Word,
    halves: Word,
    vaddrs: Words,
    news: Words,
    olds: Words,
) -> Word:
    """Put `news` where the entries of `vaddrs` lie, one after the other, and what was there into `olds`.

    `bases[key - first_key]`, key = vaddr >> leaf_shift, is where in RAM a leaf table begins, counted in entries; it
    must exist. With `halves` entries are 4 bytes, two in a word, the lower one first. An address that occurs twice is
    written twice, and its second old entry is its first new one. Returns all old entries or-ed together.
    """
    seen = U0
    for i in range(len(vaddrs)):
        vaddr = vaddrs[i]
        place = bases[(vaddr >> leaf_shift) - first_key] + (vaddr >> page_shift & leaf_mask)
        if halves:
            shift = _HALF_BITS * (place & U1)
            word = ram[place >> U1]
            old = word >> shift & _HALF_MASK
            ram[place >> U1] = word & ~(_HALF_MASK << shift) | news[i] << shift
        else:
            old = ram[place]
            ram[place] = news[i]
        olds[i] = old
        seen |= old
    return seen
