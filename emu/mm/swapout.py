"""Reclaim of anonymous pages: give one a slot, take it out of every page table, write it, free it.

A page that MADV_FREE gave up (PG_lazyfree here; in Linux, PG_swapbacked clear) is dropped instead, unless some PTE says
that it was written since.

Source: Linux v2.6.20 mm/vmscan.c: shrink_page_list(); mm/rmap.c: try_to_unmap_anon(), try_to_unmap_one(); for
MADV_FREE, v4.12 mm/rmap.c: try_to_unmap_one().
"""

from enum import Enum

from emu.hw.swapops import swp_entry_to_pte, swp_offset, swp_type
from emu.mm.anon_vma import anon_ptes
from emu.mm.kernel import Kernel
from emu.mm.mapcount import page_remove_rmap
from emu.mm.mlock import mlock_vma_page
from emu.mm.page_alloc import lock_page, put_page, unlock_page
from emu.mm.page_io import swap_writepage
from emu.mm.swap_state import add_to_swap, delete_from_swap_cache, try_to_free_swap
from emu.mm.unmap import SwapResult, page_referenced
from emu.mm_types.events import EventKind
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_DIRTY, PG_LAZYFREE, PG_LOCKED, PG_SWAPCACHE, PG_WRITEBACK
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VM_LOCKED, VmArea


class Outcome(Enum):
    """What became of a page that reclaim looked at, and so which list it goes to."""

    FREED = 0
    ACTIVE = 1
    INACTIVE = 2
    CULLED = 3


def may_reclaim_anon(k: Kernel, pfn: int) -> bool:
    """Tell whether an anonymous page has anywhere to go: its slot, a free one, or, lazily freed, nowhere."""
    return bool(k.mem_map.flags[pfn] & (PG_SWAPCACHE | PG_LAZYFREE)) or k.swap.nr_free > 0


def shrink_anon_page(k: Kernel, pfn: int) -> Outcome:
    """Try to free an anonymous page from the tail of the inactive list."""
    mem_map = k.mem_map
    if mem_map.flags[pfn] & (PG_LOCKED | PG_WRITEBACK):
        return Outcome.INACTIVE
    if page_referenced(k, pfn) or not may_reclaim_anon(k, pfn):
        return Outcome.ACTIVE
    mem_map.refcount[pfn] += 1
    lock_page(k, pfn)
    try:
        outcome = _pageout(k, pfn)
        if outcome is Outcome.ACTIVE and k.swap.vm_swap_full():
            try_to_free_swap(k, pfn)
        return outcome
    finally:
        unlock_page(k, pfn)
        put_page(k, pfn)


def _pageout(k: Kernel, pfn: int) -> Outcome:
    """Do shrink_page_list()'s part on a locked page; freed means that the caller holds the last reference."""
    mem_map = k.mem_map
    if not mem_map.flags[pfn] & (PG_SWAPCACHE | PG_LAZYFREE) and not add_to_swap(k, pfn):
        return Outcome.ACTIVE
    result = try_to_unmap_anon(k, pfn)
    if result is SwapResult.MLOCK:
        mlock_vma_page(k, pfn)
        return Outcome.CULLED
    if result is SwapResult.FAIL:
        return Outcome.ACTIVE
    if mem_map.flags[pfn] & PG_LAZYFREE:
        k.vmstat.pglazyfreed += 1
        return Outcome.FREED
    if mem_map.flags[pfn] & PG_DIRTY:
        k.vmstat.nr_vmscan_write += 1
        if k.events is not None:
            entry = mem_map.private[pfn]
            k.emit(EventKind.SWAPOUT, pfn=pfn, pgoff=swp_offset(entry), arg=swp_type(entry))
        swap_writepage(k, pfn)
    if mem_map.flags[pfn] & (PG_DIRTY | PG_WRITEBACK):
        return Outcome.INACTIVE
    delete_from_swap_cache(k, pfn)
    return Outcome.FREED


def try_to_unmap_anon(k: Kernel, pfn: int) -> SwapResult:
    """Put swap PTEs in the place of all PTEs of a locked page, or nothing in that of a lazily freed one."""
    k.vmstat.unmap_calls += 1
    fmt = k.fmt
    for mm, vma, vaddr, pte in anon_ptes(k, pfn):
        k.vmstat.unmap_pte_visits += 1
        k.locks.visits.total += 1
        if vma.flags & VM_LOCKED:
            return SwapResult.MLOCK
        if fmt.pte_young(pte):
            set_pte(mm, vma, vaddr, pte, fmt.pte_mkold(pte))
            k.flush_tlb_page(mm, vaddr)
            return SwapResult.FAIL
        if k.mem_map.flags[pfn] & PG_LAZYFREE and fmt.pte_dirty(pte):
            # Written since it was given up: it counts again.
            k.mem_map.flags[pfn] &= ~PG_LAZYFREE
            return SwapResult.FAIL
        _unmap_one(k, mm, vma, vaddr, pte)
    return SwapResult.SUCCESS


def _unmap_one(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> None:
    mem_map = k.mem_map
    pfn = k.fmt.pte_pfn(pte)
    new = 0
    if not mem_map.flags[pfn] & PG_LAZYFREE:
        entry = mem_map.private[pfn]
        k.swap.swap_duplicate(entry)
        mm.swap_ents += 1
        new = swp_entry_to_pte(k.fmt, entry)
        if k.fmt.pte_dirty(pte):
            mem_map.flags[pfn] |= PG_DIRTY
    set_pte(mm, vma, vaddr, pte, new)
    k.flush_tlb_page(mm, vaddr)
    page_remove_rmap(k, mm, pfn)
    put_page(k, pfn)
