"""The compiled passes over a trace's words: what the MMU is given, and which pages are touched.

A page goes out when it is not the last one seen in its slot of `recent` (256 slots, direct-mapped), so what is left for
numpy to sort are some pages in a thousand. All constants are local: numba's cache looks at this file only.
"""

import numpy as np

from emu.hw.jit import BYTES, WORD, WORDS, Bytes, Word, Words, kernel

U0, U1, U2, U3, U4, U8 = (np.uint64(value) for value in (0, 1, 2, 3, 4, 8))
NBYTES_MASK = np.uint64((1 << 14) - 1)
INSTR, STORE = np.uint64(0), np.uint64(2)
ALIGNED = np.uint64(2**64 - 8)
MIX, MIX_SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
RECENT_MASK = np.uint64(255)
RECENT_SLOTS = 256
EMPTY = 2**64 - 1

# emu.hw.mmu.kind_of: bits 0 and 1 what it does, bits 2 and 3 log2 of 8 / nbytes.
FETCH_8, LOAD_8, STORE_8, STORE_4, STORE_2, STORE_1 = (np.uint64(code) for code in (2, 0, 1, 5, 9, 13))


@kernel(WORD, WORDS, WORDS, WORD)
def count_pieces(words: Words, vaddrs: Words, page_size: Word) -> Word:
    """Return how many accesses of the MMU the words become."""
    total = U0
    in_page = page_size - U1
    for i in range(words.size):
        word = words[i]
        kind = word & U3
        nbytes = word >> U2 & NBYTES_MASK
        if kind != STORE:
            total += U1
            if (vaddrs[i] & in_page) + nbytes > page_size:
                total += U1
        if kind >= STORE:
            total += (nbytes >> U3) + (nbytes >> U2 & U1) + (nbytes >> U1 & U1) + (nbytes & U1)
    return total


@kernel(WORD, WORD, WORD, WORDS, WORDS, WORD, inline=True)
def note_page(vaddr: Word, page_shift: Word, pages: Words, recent: Words, nr_pages: Word) -> Word:
    """Put the page of an address out, if it is not the last one of its slot; return how many are out."""
    page = vaddr >> page_shift
    slot = page & RECENT_MASK
    if recent[slot] == page:
        return nr_pages
    recent[slot] = page
    pages[nr_pages] = page
    return nr_pages + U1


@kernel(WORD, WORD, inline=True)
def piece_size(nbytes: Word) -> Word:
    """Return the size of the first piece of a store."""
    if nbytes >= U8:
        return U8
    if nbytes >= U4:
        return U4
    return U2 if nbytes >= U2 else U1


@kernel(WORD, WORDS, WORDS, WORD, WORD, WORDS, BYTES, WORDS, WORDS, WORDS)
def fill_pieces(
    words: Words,
    vaddrs: Words,
    page_shift: Word,
    first: Word,
    out_vaddrs: Words,
    out_kinds: Bytes,
    out_values: Words,
    pages: Words,
    recent: Words,
) -> Word:
    """Fill in the accesses, what they store (piece `first` on), and the pages; return how many pages are out.

    An instruction or load becomes the aligned word that it begins in, and another if it ends in another page. A store
    becomes words and then 4, 2 and 1 bytes, as far as its size has them.
    """
    page_size = U1 << page_shift
    in_page = page_size - U1
    at = U0
    nr_pages = U0
    for i in range(words.size):
        word, vaddr = words[i], vaddrs[i]
        kind = word & U3
        nbytes = word >> U2 & NBYTES_MASK
        nr_pages = note_page(vaddr, page_shift, pages, recent, nr_pages)
        crossing = (vaddr & in_page) + nbytes > page_size
        if crossing:
            nr_pages = note_page(vaddr + nbytes - U1, page_shift, pages, recent, nr_pages)
        if kind != STORE:
            code = FETCH_8 if kind == INSTR else LOAD_8
            out_vaddrs[at] = vaddr & ALIGNED
            out_kinds[at] = code
            at += U1
            if crossing:
                out_vaddrs[at] = vaddr + nbytes - U1 & ALIGNED
                out_kinds[at] = code
                at += U1
        if kind >= STORE:
            while nbytes:
                size = piece_size(nbytes)
                out_vaddrs[at] = vaddr
                out_kinds[at] = STORE_8 if size == U8 else STORE_4 if size == U4 else STORE_2 if size == U2 else STORE_1
                at += U1
                vaddr += size
                nbytes -= size
    for i in range(at):
        mixed = (first + i) * MIX
        out_values[i] = mixed ^ mixed >> MIX_SHIFT
    return nr_pages


@kernel(WORD, WORDS, WORDS, WORD, WORDS, WORDS, WORDS, WORDS, WORDS)
def touched_pages(
    words: Words,
    vaddrs: Words,
    page_shift: Word,
    code: Words,
    data: Words,
    stored: Words,
    recent: Words,
    counts: Words,
) -> Word:
    """Put out the pages of instructions, of other accesses, and of stores.

    `recent` has three times 256 slots, for the three of them. `counts` takes how many pages are out of each (0 to 2)
    and is added how many words there are of each kind (3 to 6).
    """
    in_page = (U1 << page_shift) - U1
    recent_code, recent_data, recent_stored = recent[:256], recent[256:512], recent[512:]
    nr_code, nr_data, nr_stored = U0, U0, U0
    for i in range(words.size):
        word, vaddr = words[i], vaddrs[i]
        kind = word & U3
        nbytes = word >> U2 & NBYTES_MASK
        counts[U3 + kind] += U1
        last = vaddr + nbytes - U1 if (vaddr & in_page) + nbytes > in_page + U1 else vaddr
        if kind == INSTR:
            nr_code = note_page(vaddr, page_shift, code, recent_code, nr_code)
            nr_code = note_page(last, page_shift, code, recent_code, nr_code)
        else:
            nr_data = note_page(vaddr, page_shift, data, recent_data, nr_data)
            nr_data = note_page(last, page_shift, data, recent_data, nr_data)
            if kind >= STORE:
                nr_stored = note_page(vaddr, page_shift, stored, recent_stored, nr_stored)
                nr_stored = note_page(last, page_shift, stored, recent_stored, nr_stored)
    counts[0], counts[1], counts[2] = nr_code, nr_data, nr_stored
    return nr_code + nr_data + nr_stored
