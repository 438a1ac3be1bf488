"""Loads and stores: batches, single words and byte ranges, up to the first fault.

This is the line between CPU and kernel: nothing here calls Python. A fault stops the CPU with its cause,
address and code in the registers (R_FAULT, R_CR2, R_ERROR); the access was not done and is tried again.
"""

import numpy as np

from emu.hw import state as s
from emu.hw.jit import BYTES, NOTHING, READ_ONLY_BYTES, WORD, WORDS, Bytes, Word, Words, kernel, prefetch
from emu.hw.tlb import translate
from emu.hw.walk import U0, U1, U2, U3, U7, read_entry, recall_hint

LOAD, STORE, FETCH = U0, U1, U2
U8, U15, U64 = np.uint64(8), np.uint64(15), np.uint64(64)
CHUNK, FEW = np.uint64(64), np.uint64(8)    # read ahead by chunks after one with more than a few misses
ALL_BITS = np.uint64(2**64 - 1)


@kernel(WORD, WORDS, WORD, WORD, WORD, inline=True)
def load_part(ram: Words, phys: Word, nbytes: Word, at: Word) -> Word:
    """Return 1 to 8 bytes that lie in one word of RAM, moved up to byte `at` of a value."""
    part = ram[phys >> U3] >> ((phys & U7) << U3)
    return (part & ALL_BITS >> (U64 - (nbytes << U3))) << (at << U3)


@kernel(WORD, WORDS, WORD, WORD, WORD, inline=True)
def store_part(ram: Words, phys: Word, nbytes: Word, value: Word) -> Word:
    """Write the low 1 to 8 bytes of `value` where they lie in one word of RAM."""
    shift = (phys & U7) << U3
    mask = ALL_BITS >> (U64 - (nbytes << U3)) << shift
    where = phys >> U3
    ram[where] = ram[where] & ~mask | value << shift & mask
    return value


@kernel(WORD, WORDS, WORDS, WORD, WORD, WORD)
def access_slow(state: Words, ram: Words, vaddr: Word, kind_and_size: Word, value: Word) -> Word:
    """Do any access: return the value loaded or stored; if it faults, R_FAULT is set and nothing is moved."""
    kind = kind_and_size & U3
    kind = LOAD if kind == U3 else kind
    nbytes = U8 >> (kind_and_size >> U2 & U3)
    data = translate(state, ram, vaddr, kind)
    if data == U0:
        return value
    in_page = state[s.F_PAGE_MASK]
    phys = data & s.DATA_PHYS | vaddr & in_page
    first = U8 - (phys & U7)
    if first >= nbytes:
        if kind == STORE:
            return store_part(ram, phys, nbytes, value)
        return load_part(ram, phys, nbytes, U0)
    phys_rest = phys + first
    if phys_rest & in_page == U0:
        last = vaddr | in_page
        vaddr_rest = U0 if last == ALL_BITS else last + U1
        data = translate(state, ram, vaddr_rest & state[s.F_VA_WRAP], kind)
        if data == U0:
            return value
        phys_rest = data & s.DATA_PHYS
    if kind == STORE:
        store_part(ram, phys, first, value)
        store_part(ram, phys_rest, nbytes - first, value >> (first << U3))
        return value
    return load_part(ram, phys, first, U0) | load_part(ram, phys_rest, nbytes - first, first)


@kernel(WORD, WORDS, WORDS, WORD, WORD, WORD)
def access(state: Words, ram: Words, vaddr: Word, kind_and_size: Word, value: Word) -> Word:
    """Do one access and return its value; see access_slow."""
    state[s.R_FAULT] = U0
    state[s.C_ACCESSES] += U1
    where = vaddr >> state[s.F_PAGE_SHIFT] & s.FRONT_MASK
    row = (kind_and_size & U15) << s.FRONT_KIND_SHIFT | where
    if vaddr & state[s.F_FAST_MASK] != state[s.FRONT_TAGS + row]:
        return access_slow(state, ram, vaddr, kind_and_size, value)
    word = (vaddr ^ state[s.FRONT_XOR + where]) >> U3
    if kind_and_size == STORE:
        ram[word] = value
        return value
    return ram[word]


@kernel(NOTHING, WORDS, WORDS, WORDS, WORD, WORD, inline=True)
def read_ahead(state: Words, ram: Words, vaddrs: Words, start: Word, stop: Word) -> None:
    """Ask the host for the words that accesses `start` to `stop` will probably touch.

    The guest sees nothing of it: the guess comes from where each page's leaf was last found, and no more
    than a cache line follows from it. A batch that misses the TLB waits for memory otherwise.
    """
    page_shift, in_page = state[s.F_PAGE_SHIFT], state[s.F_PAGE_MASK]
    pfn_mask, pfn_shift = state[s.F_PFN_MASK], state[s.F_PFN_LSHIFT]
    pte_shift, ram_bytes = state[s.F_PTE_SHIFT], state[s.R_RAM_BYTES]
    for i in range(start, stop):
        prefetch(ram, recall_hint(state, vaddrs[i] >> page_shift) >> U3)
    for i in range(start, stop):
        vaddr = vaddrs[i]
        where = recall_hint(state, vaddr >> page_shift)
        phys = (read_entry(ram, where, pte_shift) & pfn_mask) << pfn_shift | vaddr & in_page
        prefetch(ram, phys >> U3 if phys < ram_bytes else U0)


@kernel(WORD, WORDS, WORDS, WORDS, BYTES, WORDS, WORD, WORD)
def run(
    state: Words, ram: Words, vaddrs: Words, kinds: Bytes, values: Words, start: Word, stop: Word
) -> Word:
    """Do accesses `start` to `stop` of a batch; return the index of the one that faulted, or `stop`.

    Aligned words whose page the front knows take one comparison and no other branch: a load, too, writes a
    word of RAM, but the first one, which belongs to nobody.
    """
    state[s.R_FAULT] = U0
    page_shift = state[s.F_PAGE_SHIFT]
    fast_mask = state[s.F_FAST_MASK]
    in_page = state[s.F_PAGE_MASK]
    many = U0
    i = start
    while i < stop:
        pause = min(i + CHUNK, stop)
        if many:
            read_ahead(state, ram, vaddrs, i, pause)
        misses = state[s.C_L1_MISSES]
        while i < pause:
            vaddr = vaddrs[i]
            kind = np.uint64(kinds[i])
            where = vaddr >> page_shift & s.FRONT_MASK
            row = (kind & U15) << s.FRONT_KIND_SHIFT | where
            if vaddr & fast_mask == state[s.FRONT_TAGS + row]:
                phys = vaddr ^ state[s.FRONT_XOR + where]
            elif kind <= STORE and vaddr & U7 == U0:
                data = translate(state, ram, vaddr, kind)
                if data == U0:
                    break
                phys = data & s.DATA_PHYS | vaddr & in_page
            else:
                value = access_slow(state, ram, vaddr, kind, values[i])
                if state[s.R_FAULT]:
                    break
                values[i] = value
                i += U1
                continue
            loaded = ram[phys >> U3]
            stored = values[i]
            is_store = kind & U1 != U0
            ram[phys >> U3 if is_store else U0] = stored
            values[i] = stored if is_store else loaded
            i += U1
        if i < pause:
            break
        many = U1 if state[s.C_L1_MISSES] - misses > FEW else U0
    state[s.C_ACCESSES] += i - start
    return i


@kernel(WORD, WORDS, WORDS, BYTES, WORD, BYTES)
def load_bytes(state: Words, ram: Words, ram_bytes: Bytes, vaddr: Word, buffer: Bytes) -> Word:
    """Copy from `vaddr` into `buffer`; return how many bytes were copied before a fault."""
    state[s.R_FAULT] = U0
    in_page = state[s.F_PAGE_MASK]
    total = np.uint64(buffer.size)
    done = U0
    while done < total:
        here = vaddr + done
        data = translate(state, ram, here, LOAD)
        if data == U0:
            break
        state[s.C_ACCESSES] += U1
        nbytes = min(total - done, in_page + U1 - (here & in_page))
        phys = data & s.DATA_PHYS | here & in_page
        for i in range(nbytes):
            buffer[done + i] = ram_bytes[phys + i]
        done += nbytes
    return done


@kernel(WORD, WORDS, WORDS, BYTES, WORD, READ_ONLY_BYTES)
def store_bytes(state: Words, ram: Words, ram_bytes: Bytes, vaddr: Word, buffer: Bytes) -> Word:
    """Copy `buffer` to `vaddr`; return how many bytes were copied before a fault."""
    state[s.R_FAULT] = U0
    in_page = state[s.F_PAGE_MASK]
    total = np.uint64(buffer.size)
    done = U0
    while done < total:
        here = vaddr + done
        data = translate(state, ram, here, STORE)
        if data == U0:
            break
        state[s.C_ACCESSES] += U1
        nbytes = min(total - done, in_page + U1 - (here & in_page))
        phys = data & s.DATA_PHYS | here & in_page
        for i in range(nbytes):
            ram_bytes[phys + i] = buffer[done + i]
        done += nbytes
    return done
