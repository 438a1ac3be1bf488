"""madvise on what reclaim takes first: FREE, COLD, PAGEOUT; and WILLNEED for what is on swap.

A page given up by MADV_FREE (PG_lazyfree) is dropped under pressure instead of being swapped, unless it was written
since: its PTEs were cleaned, so a dirty one says so. Until then it shows what it held.

Source: Linux v6.12 mm/madvise.c: madvise_free_pte_range(), madvise_free_single_vma(), swapin_walk_pmd_entry(),
shmem_swapin_range(), madvise_cold_or_pageout_pte_range(); mm/swap.c: lru_lazyfree().
"""

import errno

from emu.hw.swapops import is_swap_pte, pte_to_swp_entry
from emu.mm.kernel import Kernel
from emu.mm.page_io import swapin_readahead
from emu.mm.swap_state import free_swap_and_cache, lookup_swap_cache, try_to_free_swap
from emu.mm.vmscan import reclaim_page
from emu.mm_types.page import (
    INACTIVE,
    PG_ANON,
    PG_DIRTY,
    PG_LAZYFREE,
    PG_LRU,
    PG_REFERENCED,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
)
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VM_LOCKED, VM_NONLINEAR, VmArea


def madvise_free(k: Kernel, vma: VmArea, start: int, end: int) -> None:
    """Give up the contents of private anonymous memory, at the kernel's leisure. EINVAL for other memory, or locked."""
    if vma.mapping is not None or vma.flags & VM_LOCKED:
        raise OSError(errno.EINVAL, f"MADV_FREE takes private anonymous memory that is not locked, not {vma!r}")
    mm, fmt = vma.mm, k.fmt
    vaddrs, ptes = mm.pt.entries(start, end)
    for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
        if is_swap_pte(fmt, pte):
            set_pte(mm, vma, vaddr, pte, 0)
            mm.swap_ents -= 1
            free_swap_and_cache(k, pte_to_swp_entry(fmt, pte))
        elif k.mem_map.flags[fmt.pte_pfn(pte)] & PG_ANON and _may_be_dropped(k, fmt.pte_pfn(pte)):
            set_pte(mm, vma, vaddr, pte, fmt.pte_mkold(fmt.pte_mkclean(pte)))
            k.flush_tlb_page(mm, vaddr)
            _mark_page_lazyfree(k, fmt.pte_pfn(pte))


def _may_be_dropped(k: Kernel, pfn: int) -> bool:
    """Tell whether nobody but its one user can want a page that differs from what its slot holds."""
    if k.mem_map.flags[pfn] & (PG_SWAPCACHE | PG_DIRTY):
        if k.mem_map.mapcount[pfn] != 1:
            return False
        if k.mem_map.flags[pfn] & PG_SWAPCACHE and not try_to_free_swap(k, pfn):
            return False
        k.mem_map.flags[pfn] &= ~PG_DIRTY
    return True


def _mark_page_lazyfree(k: Kernel, pfn: int) -> None:
    """Let reclaim drop a page, and find it early."""
    flags = k.mem_map.flags[pfn]
    if flags & PG_LAZYFREE:
        return
    k.mem_map.flags[pfn] = (flags | PG_LAZYFREE) & ~PG_REFERENCED
    k.vmstat.pglazyfree += 1
    if flags & PG_LRU and not flags & PG_UNEVICTABLE:
        k.lru.move(pfn, INACTIVE)


def madvise_cold_or_pageout(k: Kernel, vma: VmArea, start: int, end: int, *, pageout: bool) -> None:
    """Let reclaim take a range early, or (`pageout`) at once: pages that nobody else maps. EINVAL for locked memory."""
    if vma.flags & VM_LOCKED:
        raise OSError(errno.EINVAL, f"the memory at {start:#x} is locked")
    mm, fmt, mem_map = vma.mm, k.fmt, k.mem_map
    vaddrs, _ = mm.pt.entries(start, end)
    for vaddr in vaddrs.tolist():
        # Taking one page may have changed the others.
        pte = mm.pt.get(vaddr)
        pfn = fmt.pte_pfn(pte)
        if not fmt.pte_present(pte) or mem_map.mapcount[pfn] != 1 or not mem_map.flags[pfn] & PG_LRU:
            continue
        if mem_map.flags[pfn] & PG_UNEVICTABLE:
            continue
        if fmt.pte_young(pte):
            set_pte(mm, vma, vaddr, pte, fmt.pte_mkold(pte))
            k.flush_tlb_page(mm, vaddr)
        mem_map.flags[pfn] &= ~PG_REFERENCED
        k.lru.move(pfn, INACTIVE)
        if pageout:
            reclaim_page(k, pfn)


def force_swapin_readahead(k: Kernel, vma: VmArea, start: int, end: int) -> None:
    """Read what is on swap of a range into the swap cache, as far as there are frames to spare."""
    ptes = vma.mm.pt.entries(start, end)[1].tolist()
    entries = [pte_to_swp_entry(k.fmt, pte) for pte in ptes if is_swap_pte(k.fmt, pte)]
    if vma.mapping is not None and not vma.flags & VM_NONLINEAR:
        first, stop = vma.linear_pgoff(start), vma.linear_pgoff(end)
        entries += [entry for pgoff, entry in vma.mapping.swapped.items() if first <= pgoff < stop]
    for entry in entries:
        if k.ram.nr_free > k.watermarks.high and not lookup_swap_cache(k, entry):
            swapin_readahead(k, entry)
