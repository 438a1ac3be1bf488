"""Invalidation: what a CPU drops from its TLBs when the kernel asks, by address, by ASID, or all of it."""

import numpy as np

from emu.hw import state as s
from emu.hw.jit import NOTHING, WORD, WORDS, Word, Words, kernel
from emu.hw.tlb import NOWHERE, find, front_clear, front_drop
from emu.hw.walk import U0, U1

EVERYTHING = np.uint64(2**64 - 1)


@kernel(NOTHING, WORDS)
def clear_page_walk_cache(state: Words) -> None:
    """Drop all entries of the page-walk cache, as INVLPG does for the address space."""
    if state[s.G_PWC_ON]:
        words = (state[s.G_PWC_MASK] + U1) << U1
        for level in range(U1, state[s.F_NR_LEVELS]):
            row = state[s.L_PWC_BASE + level]
            for i in range(U0, words):
                state[row + i] = U0


@kernel(NOTHING, WORDS, WORD, WORD, WORD, WORD, WORD, WORD, WORD)
def sweep(
    state: Words, base: Word, mask: Word, ways: Word, care: Word, tag: Word, page_shift: Word, needs_large: Word
) -> None:
    """Drop from one TLB level every entry whose tag equals `tag` in the bits `care`.

    With `needs_large`, only fragments of large pages, whose page numbers are compared at the large page's
    own granularity: one address names the whole large page.
    """
    for number in range(U0, mask + U1):
        row = base + (number * ways << U1)
        for way in range(U0, ways):
            held = state[row + way]
            if held == U0:
                continue
            ignore = U0
            if needs_large:
                above = (state[row + way + ways] & s.DATA_LARGE) >> s.DATA_LEVEL_SHIFT
                if above == U0:
                    continue
                level = state[s.F_NR_LEVELS] - U1 - above
                ignore = (U1 << (state[s.L_SHIFT + level] - page_shift)) - U1
                if held & s.TAG_GLOBAL:
                    ignore |= s.TAG_GLOBAL | s.TAG_ASID
            if (held ^ tag) & care & ~ignore == U0:
                state[row + way] = U0


@kernel(NOTHING, WORDS, WORD, WORD)
def sweep_both(state: Words, care: Word, tag: Word) -> None:
    """Drop from both levels every entry whose tag equals `tag` in the bits `care`."""
    zero = state[s.F_PAGE_SHIFT]
    sweep(state, state[s.G_L1_BASE], state[s.G_L1_MASK], state[s.G_L1_WAYS], care, tag, zero, U0)
    sweep(state, state[s.G_L2_BASE], state[s.G_L2_MASK], state[s.G_L2_WAYS], care, tag, zero, U0)
    front_clear(state)
    clear_page_walk_cache(state)


@kernel(NOTHING, WORDS, WORD, WORD)
def invalidate_page(state: Words, vaddr: Word, asid: Word) -> None:
    """Drop the translation of one page, global or of `asid`; of a large page, all its fragments."""
    page_number = vaddr >> state[s.F_PAGE_SHIFT] & s.TAG_PAGE
    tag = s.TAG_VALID | asid << s.ASID_SHIFT | page_number
    l1_base, l1_mask, l1_ways = state[s.G_L1_BASE], state[s.G_L1_MASK], state[s.G_L1_WAYS]
    l2_base, l2_mask, l2_ways = state[s.G_L2_BASE], state[s.G_L2_MASK], state[s.G_L2_WAYS]
    if state[s.G_LARGE_SEEN]:
        shift = state[s.F_PAGE_SHIFT]
        sweep(state, l1_base, l1_mask, l1_ways, EVERYTHING, tag, shift, U1)
        sweep(state, l2_base, l2_mask, l2_ways, EVERYTHING, tag, shift, U1)
        front_clear(state)
    where = find(state, l1_base, l1_mask, l1_ways, tag)
    if where != NOWHERE:
        state[where] = U0
    where = find(state, l2_base, l2_mask, l2_ways, tag)
    if where != NOWHERE:
        state[where] = U0
    front_drop(state, page_number)
    clear_page_walk_cache(state)


@kernel(NOTHING, WORDS, WORD)
def invalidate_asid(state: Words, asid: Word) -> None:
    """Drop what belongs to one address space; global entries stay."""
    care = s.TAG_VALID | s.TAG_GLOBAL | s.TAG_ASID
    sweep_both(state, care, s.TAG_VALID | asid << s.ASID_SHIFT)


@kernel(NOTHING, WORDS)
def invalidate_all(state: Words) -> None:
    """Drop everything, global entries too."""
    sweep_both(state, U0, U0)
    state[s.G_LARGE_SEEN] = U0
    state[s.G_GLOBAL_SEEN] = U0
