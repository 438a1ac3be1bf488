"""The page walk: one walker for all formats, which are numbers in the CPU's state.

`walk` reads entries from RAM as the CPU does, root first, checks them as the architecture's manual says,
and sets accessed and dirty bits: of a table entry when it is used, of the leaf when the access is allowed.
It knows nothing of TLBs except the page-walk cache, which remembers where tables stand.
"""

import numpy as np

from emu.hw import state as s
from emu.hw.jit import NOTHING, WORD, WORDS, Word, Words, kernel

U0, U1, U2, U3, U4, U5, U6, U7 = (np.uint64(n) for n in range(8))
LOW32 = np.uint64(0xFFFF_FFFF)
STORE = U1
USER_STORE = U2
RESERVED_COMBINATION = np.uint64(1 << 7)    # in a permission table: the architecture reserves these bits
ALL_ALLOWED = np.uint64(63)


@kernel(WORD, WORDS, WORD, WORD, WORD, WORD)
def fault(state: Words, cause: Word, vaddr: Word, kind: Word, level: Word) -> Word:
    """Stop the CPU with `cause` and the architecture's code, and return 0."""
    code = state[s.T_ERROR + (cause << U3) + state[s.R_MODE] + kind]
    if code & s.CODE_WITH_LEVEL:
        code = code & ~s.CODE_WITH_LEVEL | (level + state[s.F_FIRST_LEVEL])
    state[s.R_FAULT] = cause
    state[s.R_CR2] = vaddr
    state[s.R_ERROR] = code
    state[s.C_FAULTS] += U1
    return U0


@kernel(WORD, WORDS, WORD, WORD, WORD, inline=True)
def lookup_allowed(state: Words, first_bit: Word, table: Word, entry: Word) -> Word:
    """Return the accesses that an entry allows, from the format's permission table."""
    number = U0
    for i in range(U6):
        number |= (entry >> state[first_bit + i] & U1) << i
    return state[table + number]


@kernel(WORD, WORDS, WORD, WORD, inline=True)
def read_entry(ram: Words, where: Word, pte_shift: Word) -> Word:
    """Return the entry of ``1 << pte_shift`` bytes at physical address `where`."""
    word = ram[where >> U3]
    if pte_shift == U3:
        return word
    return word >> ((where & U4) << U3) & LOW32


@kernel(NOTHING, WORDS, WORD, WORD, WORD, inline=True)
def flip_entry(ram: Words, where: Word, pte_shift: Word, flipped: Word) -> None:
    """Change the bits `flipped` of the entry at physical address `where`."""
    shift = U0 if pte_shift == U3 else (where & U4) << U3
    ram[where >> U3] ^= flipped << shift


@kernel(NOTHING, WORDS, WORD, WORD, inline=True)
def leave_hint(state: Words, page_number: Word, where: Word) -> None:
    """Note where the leaf of a page stands, for a batch's reading ahead."""
    slot = s.LEAF_HINTS + ((page_number & s.LEAF_HINT_MASK) << U1)
    tag = page_number >> s.LEAF_HINT_BITS << s.LEAF_HINT_TAG_SHIFT
    newest = state[slot]
    if (newest ^ tag) & ~s.LEAF_HINT_WHERE != U0:
        state[slot + U1] = newest
    state[slot] = tag | where & s.LEAF_HINT_WHERE


@kernel(WORD, WORDS, WORD, inline=True)
def recall_hint(state: Words, page_number: Word) -> Word:
    """Return where the leaf of a page may stand; some other place if nothing is known of it."""
    slot = s.LEAF_HINTS + ((page_number & s.LEAF_HINT_MASK) << U1)
    tag = page_number >> s.LEAF_HINT_BITS << s.LEAF_HINT_TAG_SHIFT
    newest, older = state[slot], state[slot + U1]
    return (older if (newest ^ tag) & ~s.LEAF_HINT_WHERE else newest) & s.LEAF_HINT_WHERE


@kernel(WORD, WORDS, WORDS, WORD, WORD)
def walk(  # noqa: C901, PLR0911, PLR0912, PLR0915 - one loop, in the order of the manuals; a call costs more
    state: Words, ram: Words, vaddr: Word, kind: Word
) -> Word:
    """Translate `vaddr`, a canonical address, for an access of `kind`; set accessed and dirty bits.

    Returns the TLB data of the page (see state.DATA_*), or 0 with the fault in the registers.
    """
    state[s.C_WALKS] += U1
    pte_shift = state[s.F_PTE_SHIFT]
    nr_levels = state[s.F_NR_LEVELS]
    table = state[s.R_ROOT]
    allowed = ALL_ALLOWED
    inherited = U0
    level = U0
    if state[s.G_PWC_ON]:
        upper = nr_levels - U1
        while upper > U0:
            region = vaddr >> state[s.L_SHIFT + upper - U1]
            row = state[s.L_PWC_BASE + upper] + ((region & state[s.G_PWC_MASK]) << U1)
            if state[row] == state[s.R_CONTEXT] | (region & s.TAG_PAGE):
                state[s.C_PWC_HITS] += U1
                table = state[row + U1] & s.DATA_PHYS
                allowed = state[row + U1] & ALL_ALLOWED
                inherited = state[row + U1] & s.DATA_GLOBAL
                level = upper
                break
            upper -= U1
    while True:
        index = vaddr >> state[s.L_SHIFT + level] & state[s.L_INDEX_MASK + level]
        where = table + (index << pte_shift)
        if where >= state[s.R_RAM_BYTES]:
            return fault(state, s.NO_TABLE_MEMORY, vaddr, kind, level)
        entry = read_entry(ram, where, pte_shift)
        state[s.C_WALK_READS] += U1
        if entry & state[s.L_PRESENT_MASK + level] != state[s.L_PRESENT_VALUE + level]:
            return fault(state, s.NOT_PRESENT, vaddr, kind, level)
        some = U1 if entry & state[s.L_LEAF_MASK + level] != U0 else U0
        if some != state[s.L_LEAF_INVERTED + level]:
            break
        if level + U1 == nr_levels:
            return fault(state, s.NOT_PRESENT, vaddr, kind, level)
        if entry & state[s.L_RESERVED_TABLE + level] != U0:
            return fault(state, s.RESERVED, vaddr, kind, level)
        rights = (entry | state[s.L_GIVEN + level]) & state[s.F_TABLE_RIGHTS]
        if rights != state[s.M_TABLE_RIGHTS]:
            state[s.M_TABLE_RIGHTS] = rights
            state[s.M_TABLE_ALLOWED] = lookup_allowed(state, s.T_TABLE_BITS, s.T_TABLE_ALLOWED, rights)
        allowed &= state[s.M_TABLE_ALLOWED]
        if entry & state[s.L_TABLE_GLOBAL + level] != U0:
            inherited = s.DATA_GLOBAL
        unset = state[s.L_ACCESSED + level] & ~entry
        if unset != U0:
            flip_entry(ram, where, pte_shift, unset)
            state[s.C_ACCESSED_SET] += U1
        table = (entry & state[s.F_PFN_MASK]) << state[s.F_PFN_LSHIFT]
        if state[s.G_PWC_ON]:
            region = vaddr >> state[s.L_SHIFT + level]
            row = state[s.L_PWC_BASE + level + U1] + ((region & state[s.G_PWC_MASK]) << U1)
            state[row] = state[s.R_CONTEXT] | (region & s.TAG_PAGE)
            state[row + U1] = table | allowed | inherited
        level += U1

    if entry & state[s.L_RESERVED_LEAF + level] != U0:
        return fault(state, s.RESERVED, vaddr, kind, level)
    rights = entry & state[s.F_LEAF_RIGHTS]
    if rights != state[s.M_LEAF_RIGHTS]:
        state[s.M_LEAF_RIGHTS] = rights
        state[s.M_LEAF_ALLOWED] = lookup_allowed(state, s.T_LEAF_BITS, s.T_LEAF_ALLOWED, rights)
    leaf_allowed = state[s.M_LEAF_ALLOWED]
    if leaf_allowed & RESERVED_COMBINATION:
        return fault(state, s.RESERVED, vaddr, kind, level)
    allowed &= leaf_allowed
    is_clean = entry & state[s.F_DIRTY_MASK] != state[s.F_DIRTY_VALUE]
    if allowed & USER_STORE and (state[s.F_HW_AD] or not is_clean):
        allowed &= ~state[s.F_NOT_EXECUTED]
    if entry & state[s.F_ACCESSED] == U0 and not state[s.F_HW_AD]:
        return fault(state, s.NOT_ACCESSED, vaddr, kind, level)
    if allowed >> (state[s.R_MODE] + kind) & U1 == U0:
        return fault(state, s.PERMISSION, vaddr, kind, level)
    below = (U1 << state[s.L_SHIFT + level]) - U1
    phys = (entry & state[s.F_PFN_MASK]) << state[s.F_PFN_LSHIFT]
    phys = (phys & ~below | vaddr & below) & ~state[s.F_PAGE_MASK]
    if phys >= state[s.R_RAM_BYTES]:
        return fault(state, s.NO_MEMORY, vaddr, kind, level)
    changed = entry | state[s.F_ACCESSED]
    state[s.C_ACCESSED_SET] += U1 if changed != entry else U0
    if kind == STORE and is_clean:
        if not state[s.F_HW_AD]:
            return fault(state, s.PERMISSION, vaddr, kind, level)
        changed = changed & ~state[s.F_DIRTY_CLEAR] | state[s.F_DIRTY_SET]
        state[s.C_DIRTY_SET] += U1
    if changed != entry:
        flip_entry(ram, where, pte_shift, changed ^ entry)
    leave_hint(state, vaddr >> state[s.F_PAGE_SHIFT], where)
    data = phys | allowed | inherited | (nr_levels - U1 - level) << s.DATA_LEVEL_SHIFT
    if changed & state[s.F_DIRTY_MASK] == state[s.F_DIRTY_VALUE]:
        data |= s.DATA_DIRTY
    if changed & state[s.F_GLOBAL_MASK] == state[s.F_GLOBAL_VALUE]:
        data |= s.DATA_GLOBAL
    return data
