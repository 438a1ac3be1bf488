"""The TLB: look-up and refill in a CPU's state array, for any model's geometry.

Two set-associative levels, tagged with ASIDs, each set replaced first in, first out: a hit changes nothing,
so it costs nothing. An entry stays until it is replaced or invalidated, whatever happens to the page table.

Two arrays only make the host faster and are never seen by the guest. The *front* mirrors entries of the
first level in a form that one comparison checks; what leaves the first level leaves the front. The *hints*
say in which way of the second level a page was last put; a hint is believed only if the tag there matches.

Where hardware may choose, this one walks again when an entry does not allow the access or is not cached as
dirty, and drops the entries of an address that faulted (Intel SDM volume 3A, 4.10.4.1).
"""

import numpy as np

from emu.hw import state as s
from emu.hw.jit import NOTHING, WORD, WORDS, Word, Words, kernel
from emu.hw.tlb_models import DEFAULT, PRESETS, TlbModel, get_model
from emu.hw.walk import U0, U1, U2, U3, fault, walk

__all__ = [
    "DEFAULT",
    "NOWHERE",
    "PRESETS",
    "TlbModel",
    "drop_tag",
    "find",
    "front_clear",
    "front_drop",
    "get_model",
    "translate",
]

NOWHERE = np.uint64(2**64 - 1)
KIND_STORE_BIT = np.uint64(1)


@kernel(WORD, WORDS, WORD, WORD, WORD, WORD, inline=True)
def find(state: Words, base: Word, mask: Word, ways: Word, tag: Word) -> Word:
    """Return the state index of the row's tag that matches `tag`, or NOWHERE."""
    row = base + ((tag & mask) * ways << U1)
    found = U0
    for way in range(ways):     # without a way out, so that the host compares many at once
        found |= way + U1 if state[row + way] == tag else U0
    if found:
        return row + found - U1
    if state[s.G_GLOBAL_SEEN]:
        for way in range(ways):
            if (state[row + way] ^ tag) & ~s.TAG_ASID == s.TAG_GLOBAL:
                return row + way
    return NOWHERE


@kernel(WORD, WORDS, WORD, WORD, WORD, WORD, WORD, inline=True)
def victim(state: Words, base: Word, mask: Word, ways: Word, fifo: Word, tag: Word) -> Word:
    """Return the state index of the way of the set that is to be replaced, and move the set's pointer on."""
    number = tag & mask
    turn = state[fifo + number]
    state[fifo + number] = U0 if turn + U1 == ways else turn + U1
    return base + (number * ways << U1) + turn


@kernel(NOTHING, WORDS, WORD, WORD, inline=True)
def front_fill(state: Words, vaddr: Word, data: Word) -> None:
    """Let the front serve what the first-level entry `data` allows in the current mode without a walk."""
    page = vaddr & ~state[s.F_PAGE_MASK]
    where = vaddr >> state[s.F_PAGE_SHIFT] & s.FRONT_MASK
    rights = data >> state[s.R_MODE]
    dirty = data & s.DATA_DIRTY
    state[s.FRONT_TAGS + where] = page if rights & U1 else s.EMPTY
    where_store = s.FRONT_TAGS + (U1 << s.FRONT_KIND_SHIFT) + where
    state[where_store] = page if rights & U2 and dirty else s.EMPTY
    state[s.FRONT_TAGS + (U2 << s.FRONT_KIND_SHIFT) + where] = page if rights >> U2 & U1 else s.EMPTY
    state[s.FRONT_XOR + where] = page ^ (data & s.DATA_PHYS)


@kernel(NOTHING, WORDS, WORD, inline=True)
def front_drop(state: Words, page_number: Word) -> None:
    """Forget whatever page stands where this one would."""
    where = s.FRONT_TAGS + (page_number & s.FRONT_MASK)
    state[where] = s.EMPTY
    state[where + (U1 << s.FRONT_KIND_SHIFT)] = s.EMPTY
    state[where + (U2 << s.FRONT_KIND_SHIFT)] = s.EMPTY


@kernel(NOTHING, WORDS)
def front_clear(state: Words) -> None:
    """Forget all."""
    for i in range(U3 << s.FRONT_KIND_SHIFT):
        state[s.FRONT_TAGS + i] = s.EMPTY


@kernel(NOTHING, WORDS, WORD, WORD, WORD, WORD, inline=True)
def put(state: Words, where: Word, ways: Word, tag: Word, data: Word) -> None:
    """Write an entry; a global one is tagged so."""
    state[where] = tag | (s.TAG_GLOBAL if data & s.DATA_GLOBAL else U0)
    state[where + ways] = data


@kernel(WORD, WORDS, WORD, WORD)
def drop_tag(state: Words, tag: Word, every_level: Word) -> Word:
    """Invalidate the entries that match `tag` in the first level and, if asked, the second."""
    where = find(state, state[s.G_L1_BASE], state[s.G_L1_MASK], state[s.G_L1_WAYS], tag)
    if where != NOWHERE:
        state[where] = U0
    front_drop(state, tag)
    if every_level:
        where = find(state, state[s.G_L2_BASE], state[s.G_L2_MASK], state[s.G_L2_WAYS], tag)
        if where != NOWHERE:
            state[where] = U0
    return U0


@kernel(WORD, WORDS, WORDS, WORD, WORD, inline=True)
def translate(state: Words, ram: Words, vaddr: Word, kind: Word) -> Word:
    """Return the TLB data for an access of `kind` to `vaddr`, or 0 with the fault in the registers."""
    top = vaddr >> state[s.F_VA_SHIFT]
    if top != U0 and top != state[s.F_VA_TOP]:
        return fault(state, s.NOT_CANONICAL, vaddr, kind, U0)
    page_number = vaddr >> state[s.F_PAGE_SHIFT] & s.TAG_PAGE
    tag = state[s.R_CONTEXT] | page_number
    need = U1 << (state[s.R_MODE] + kind) | (s.DATA_DIRTY if kind == KIND_STORE_BIT else U0)
    l1_base, l1_mask, l1_ways = state[s.G_L1_BASE], state[s.G_L1_MASK], state[s.G_L1_WAYS]
    l1_at = find(state, l1_base, l1_mask, l1_ways, tag)
    if l1_at != NOWHERE:
        data = state[l1_at + l1_ways]
        if data & need == need:
            front_fill(state, vaddr, data)
            return data
    state[s.C_L1_MISSES] += U1
    l2_base, l2_mask, l2_ways = state[s.G_L2_BASE], state[s.G_L2_MASK], state[s.G_L2_WAYS]
    hint = s.HINTS + (page_number & s.HINT_MASK)
    l2_at = state[hint]
    if state[l2_at] != tag:
        l2_at = find(state, l2_base, l2_mask, l2_ways, tag)
    data = state[l2_at + l2_ways] if l2_at != NOWHERE else U0
    if data & need == need:
        state[s.C_L2_HITS] += U1
    else:
        data = walk(state, ram, vaddr, kind)
        if data == U0:
            drop_tag(state, tag, U1)
            return data
        if l2_at == NOWHERE:
            l2_at = victim(state, l2_base, l2_mask, l2_ways, state[s.G_L2_FIFO], tag)
        put(state, l2_at, l2_ways, tag, data)
        state[s.G_LARGE_SEEN] |= data & s.DATA_LARGE
        state[s.G_GLOBAL_SEEN] |= data & s.DATA_GLOBAL
        state[hint] = l2_at
    if l1_at == NOWHERE:
        l1_at = victim(state, l1_base, l1_mask, l1_ways, state[s.G_L1_FIFO], tag)
        front_drop(state, state[l1_at])
    put(state, l1_at, l1_ways, tag, data)
    front_fill(state, vaddr, data)
    return data
