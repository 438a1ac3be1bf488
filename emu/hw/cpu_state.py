"""Fills a CPU's state array: the walker's numbers for a format, and room for a TLB model."""

import numpy as np
import numpy.typing as npt

from emu.hw import state as s
from emu.hw.pte_format import PteFormat
from emu.hw.tlb import TlbModel

U64Array = npt.NDArray[np.uint64]


def lay_out_tlb(model: TlbModel, fmt: PteFormat) -> U64Array:
    """Return a state array with empty TLBs of the model's geometry."""
    rows = (
        (s.G_L1_BASE, model.l1_sets * model.l1_ways * 2),
        (s.G_L1_FIFO, model.l1_sets),
        (s.G_L2_BASE, model.l2_sets * model.l2_ways * 2),
        (s.G_L2_FIFO, model.l2_sets),
        *((int(s.L_PWC_BASE) + level, model.pwc_entries * 2) for level in range(1, fmt.nr_levels)),
    )
    nr_words = s.FIXED_WORDS
    where = []
    for _, words in rows:
        nr_words = -(-nr_words // 8) * 8    # a row of tags begins a cache line
        where.append(nr_words)
        nr_words += words
    state = np.zeros(nr_words, np.uint64)
    for (register, _), start in zip(rows, where, strict=True):
        state[register] = start
    state[s.G_L1_WAYS] = model.l1_ways
    state[s.G_L1_MASK] = model.l1_sets - 1
    state[s.G_L2_WAYS] = model.l2_ways
    state[s.G_L2_MASK] = model.l2_sets - 1
    state[s.G_PWC_ON] = model.pwc_entries > 0
    state[s.G_PWC_MASK] = max(model.pwc_entries - 1, 0)
    state[int(s.FRONT_TAGS) : int(s.FRONT_XOR)] = s.EMPTY
    return state


def describe_format(state: U64Array, fmt: PteFormat, *, hardware_ad: bool) -> None:
    """Write what the walker needs to know of a format."""
    rules = fmt.walk
    va_shift = fmt.va_bits - 1 if fmt.sign_extended else fmt.va_bits
    scalars = {
        s.F_PTE_SHIFT: fmt.pte_bytes.bit_length() - 1,
        s.F_NR_LEVELS: fmt.nr_levels,
        s.F_PAGE_SHIFT: fmt.page_shift,
        s.F_PAGE_MASK: fmt.page_size - 1,
        s.F_FAST_MASK: 2**64 - fmt.page_size | 7,
        s.F_VA_SHIFT: va_shift,
        s.F_VA_TOP: (2**64 - 1) >> va_shift if fmt.sign_extended else 0,
        s.F_VA_WRAP: 2**64 - 1 if fmt.sign_extended else 2**fmt.va_bits - 1,
        s.F_PFN_MASK: fmt.pfn_mask,
        s.F_PFN_LSHIFT: fmt.page_shift - fmt.pfn_shift,
        s.F_ACCESSED: fmt.accessed_mask,
        s.F_DIRTY_MASK: rules.dirty.mask,
        s.F_DIRTY_VALUE: rules.dirty.value,
        s.F_DIRTY_CLEAR: rules.set_dirty.clear,
        s.F_DIRTY_SET: rules.set_dirty.set,
        s.F_HW_AD: hardware_ad,
        s.F_GLOBAL_MASK: rules.is_global.mask,
        s.F_GLOBAL_VALUE: rules.is_global.value,
        s.F_FIRST_LEVEL: rules.first_level,
        s.F_LEAF_RIGHTS: sum(1 << bit for bit in rules.leaf_bits),
        s.F_TABLE_RIGHTS: sum(1 << bit for bit in rules.table_bits),
        s.M_LEAF_RIGHTS: int(s.EMPTY),
        s.M_TABLE_RIGHTS: int(s.EMPTY),
        s.F_NOT_EXECUTED: 1 << 5 if rules.user_writable_not_executed else 0,
    }
    for register, value in scalars.items():
        state[register] = value
    for level, (shape, rule) in enumerate(zip(fmt.levels, rules.levels, strict=True)):
        for row, value in (
            (s.L_SHIFT, shape.shift),
            (s.L_INDEX_MASK, (1 << shape.bits) - 1),
            (s.L_PRESENT_MASK, rule.present.mask),
            (s.L_PRESENT_VALUE, rule.present.value),
            (s.L_LEAF_MASK, rule.leaf_mask),
            (s.L_LEAF_INVERTED, rule.leaf_inverted),
            (s.L_RESERVED_LEAF, rule.reserved_leaf),
            (s.L_RESERVED_TABLE, rule.reserved_table),
            (s.L_GIVEN, rule.given),
            (s.L_ACCESSED, rule.table_accessed),
            (s.L_TABLE_GLOBAL, rule.table_global),
        ):
            state[int(row) + level] = value
    for row, bits in ((s.T_LEAF_BITS, rules.leaf_bits), (s.T_TABLE_BITS, rules.table_bits)):
        state[int(row) : int(row) + len(bits)] = bits
    state[int(s.T_LEAF_ALLOWED) : int(s.T_LEAF_ALLOWED) + 64] = rules.leaf_allowed
    state[int(s.T_TABLE_ALLOWED) : int(s.T_TABLE_ALLOWED) + 64] = rules.table_allowed
    state[int(s.T_ERROR) : int(s.T_ERROR) + 64] = rules.error_codes
