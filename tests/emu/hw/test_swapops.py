"""Swap PTEs of every format: as Linux has them, and never taken for anything else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.hw.pte import FORMATS, PteFormat, get_format
from emu.hw.swapops import (
    MAX_SWAPFILES,
    is_swap_pte,
    max_swap_offset,
    pte_to_swp_entry,
    swap_ptes,
    swp_entry,
    swp_entry_to_pte,
    swp_offset,
    swp_type,
)

by_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)


@pytest.mark.parametrize(
    ("name", "swap_type", "offset", "pte"),
    [
        # Linux v2.6.20 pgtable-2level.h: type in bits 1-5, offset from bit 8
        ("i386", 0, 1, 0x100),
        ("i386", 31, (1 << 24) - 1, 0xFFFF_FF3E),
        # pgtable-3level.h: both in the high word, type in its bits 0-4
        ("i386_pae", 3, 1, 0x0000_0023_0000_0000),
        # asm-x86_64/pgtable.h
        ("x86_64", 1, 0x1234, 0x12_3402),
    ],
)
def test_swap_ptes_are_linux_s_own(name: str, swap_type: int, offset: int, pte: int) -> None:
    fmt = get_format(name)
    assert swp_entry_to_pte(fmt, swp_entry(swap_type, offset)) == pte
    entry = pte_to_swp_entry(fmt, pte)
    assert (swp_type(entry), swp_offset(entry)) == (swap_type, offset)


@by_format
def test_no_field_touches_the_bits_that_tell_kinds_apart(fmt: PteFormat) -> None:
    fields = 0
    for field in (fmt.swap_type, fmt.swap_offset):
        bits = (1 << field.nr_bits) - 1 << field.pte_bit
        assert not fields & bits
        fields |= bits
    assert not fields & (fmt.present_mask | fmt.protnone_mask | fmt.file_mask)
    assert fields < 1 << fmt.pte_bytes * 8


@by_format
@settings(deadline=None)
@given(data=st.data())
def test_entries_go_round_trip(fmt: PteFormat, data: st.DataObject) -> None:
    edges = [1, max_swap_offset(fmt), *(1 << bit for bit in range(fmt.swap_offset.nr_bits))]
    swap_type = data.draw(st.integers(0, MAX_SWAPFILES - 1))
    offset = data.draw(st.one_of(st.sampled_from(edges), st.integers(1, max_swap_offset(fmt))))
    pte = swp_entry_to_pte(fmt, swp_entry(swap_type, offset))
    entry = pte_to_swp_entry(fmt, pte)
    assert (swp_type(entry), swp_offset(entry)) == (swap_type, offset)
    assert is_swap_pte(fmt, pte)
    assert not fmt.pte_present(pte)
    assert not fmt.pte_hw_present(pte)
    assert not fmt.pte_file(pte)


@by_format
def test_only_swap_ptes_are_taken_for_such(fmt: PteFormat) -> None:
    present = fmt.mk_pte(7, write=True, execute=False)
    none = fmt.mk_pte(7, write=False, execute=False, protnone=True)
    file_ptes = [fmt.pgoff_to_pte(0), fmt.pgoff_to_pte(fmt.max_pgoff)]
    swapped = swp_entry_to_pte(fmt, swp_entry(0, 1))
    ptes = [0, present, none, *file_ptes, swapped]
    assert [is_swap_pte(fmt, pte) for pte in ptes] == [False] * 5 + [True]
    assert swap_ptes(fmt, np.array(ptes, np.uint64)).tolist() == [False] * 5 + [True]


@by_format
def test_what_does_not_fit_is_refused(fmt: PteFormat) -> None:
    for swap_type, offset in ((MAX_SWAPFILES, 1), (0, 0), (0, max_swap_offset(fmt) + 1)):
        with pytest.raises(ValueError, match="does not fit"):
            swp_entry_to_pte(fmt, swp_entry(swap_type, offset))
