"""Swap PTEs: what stands in a page table for an anonymous page that is out on swap.

A swap entry is a number that names a slot of a swap area: `swp_entry(area, slot)`. As a PTE it fills the format's two
fields; slot 0 is the area's header, so no entry is all zero. Such a PTE is not present, and its file bit is clear,
which tells it from a file PTE: the fields lie clear of the present, file and PROT_NONE bits in every format.

Source: Linux v2.6.20 include/linux/swapops.h: swp_entry_to_pte(), pte_to_swp_entry(); __swp_type() and __swp_offset()
of include/asm-i386/pgtable-2level.h, pgtable-3level.h and include/asm-x86_64/pgtable.h. There never were more than 32
areas (MAX_SWAPFILES_SHIFT), so that x86-64's six type bits do not reach _PAGE_FILE; here they are five.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from emu.hw.pte_format import PteFormat, U64Array

MAX_SWAPFILES = 32
"""Areas that a machine can have at once, whatever the format (1 << MAX_SWAPFILES_SHIFT)."""

_TYPE_SHIFT = 57
_OFFSET_MASK = (1 << _TYPE_SHIFT) - 1


def swp_entry(swap_type: int, offset: int) -> int:
    """Name slot `offset` of area `swap_type`."""
    return swap_type << _TYPE_SHIFT | offset


def swp_type(entry: int) -> int:
    """Return the area of an entry."""
    return entry >> _TYPE_SHIFT


def swp_offset(entry: int) -> int:
    """Return the slot of an entry."""
    return entry & _OFFSET_MASK


def max_swap_offset(fmt: "PteFormat") -> int:
    """Return the last slot that a PTE of this format can name."""
    return (1 << fmt.swap_offset.nr_bits) - 1


def swp_entry_to_pte(fmt: "PteFormat", entry: int) -> int:
    """Return the PTE for an entry.

    Raises
    ------
    ValueError
        If the area or the slot does not fit, or the slot is the header: nothing is truncated.

    """
    swap_type, offset = swp_type(entry), swp_offset(entry)
    if not 0 <= swap_type < min(MAX_SWAPFILES, 1 << fmt.swap_type.nr_bits):
        raise ValueError(f"swap area {swap_type} does not fit in a {fmt.name} swap PTE")
    if not 0 < offset <= max_swap_offset(fmt):
        raise ValueError(f"slot {offset} does not fit in the {fmt.swap_offset.nr_bits} bits of a {fmt.name} swap PTE")
    return swap_type << fmt.swap_type.pte_bit | offset << fmt.swap_offset.pte_bit


def is_swap_pte(fmt: "PteFormat", pte: int) -> bool:
    """Tell whether a PTE stands for a page on swap."""
    return pte != 0 and not fmt.pte_present(pte) and not fmt.pte_file(pte)


def pte_to_swp_entry(fmt: "PteFormat", pte: int) -> int:
    """Return the entry that a swap PTE holds."""
    kind, where = fmt.swap_type, fmt.swap_offset
    return swp_entry(
        pte >> kind.pte_bit & (1 << kind.nr_bits) - 1, pte >> where.pte_bit & (1 << where.nr_bits) - 1
    )


def swap_ptes(fmt: "PteFormat", ptes: "U64Array") -> npt.NDArray[np.bool_]:
    """Return a mask over PTEs: which stand for pages on swap."""
    others = np.uint64(fmt.present_mask | fmt.protnone_mask | fmt.file_mask)
    found: npt.NDArray[np.bool_] = (ptes != 0) & ((ptes & others) == 0)
    return found
