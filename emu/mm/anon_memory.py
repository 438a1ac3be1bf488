"""Faults on private pages: the zero page, fresh pages, copies on write, and pages that come back from swap.

A read of anonymous memory that was never written maps the one zero page, read-only; as in Linux 2.6.20 that counts as a
file page. The first store copies it, as it copies any page that a private mapping shares.

Source: Linux v2.6.20 mm/memory.c: do_anonymous_page(), do_wp_page(), do_swap_page(); who may write to a page that is
on swap, too, v2.6.29 mm/swapfile.c: reuse_swap_page(); that a locked mapping unlocks what it copies, v2.6.28
do_wp_page().
"""

import os

from emu.errors import BusError, OutOfMemory
from emu.hw.swapops import pte_to_swp_entry
from emu.mm.anon_vma import anon_vma_prepare
from emu.mm.kernel import Kernel
from emu.mm.mapcount import page_add_anon_rmap, page_add_file_rmap, page_add_new_anon_rmap, page_remove_rmap
from emu.mm.mlock import mlock_vma_page, munlock_page
from emu.mm.page_alloc import NO_FRAME, alloc_page, lock_page, put_page, unlock_page
from emu.mm.page_io import swapin_readahead
from emu.mm.swap_state import lookup_swap_cache, page_swapcount, reuse_swap_page, try_to_free_swap
from emu.mm.vma_prot import mk_anon_pte
from emu.mm_types.mm import Mm
from emu.mm_types.page import ACTIVE, PG_ANON, PG_UPTODATE
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VM_LOCKED, VmArea


def do_anonymous_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, *, write: bool) -> bool:
    """Map the zero page for a read, a page of zeroes for a write."""
    if not write:
        k.mem_map.refcount[k.zero_pfn] += 1
        set_pte(mm, vma, vaddr, 0, mk_anon_pte(vma, k.zero_pfn, write=False))
        page_add_file_rmap(k, mm, k.zero_pfn)
        return False
    pfn = alloc_page(k)
    if pfn == NO_FRAME:
        raise OutOfMemory(vaddr, "no frame for anonymous memory")
    k.ram.zero_frame(pfn)
    install_anon(k, mm, vma, vaddr, pfn, 0)
    return False


def install_anon(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pfn: int, pte: int) -> None:
    """Map a page that is this VMA's alone, written, in the place of `pte`; the caller's reference becomes the PTE's."""
    anon_vma_prepare(k, vma)
    k.mem_map.flags[pfn] |= PG_UPTODATE
    set_pte(mm, vma, vaddr, pte, mk_anon_pte(vma, pfn, write=True))
    page_add_new_anon_rmap(k, vma, pfn, vaddr)
    k.lru.add(pfn, ACTIVE)
    if vma.flags & VM_LOCKED:
        mlock_vma_page(k, pfn)


def do_wp_private(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
    """Let a private mapping store to a page: it is alone with that, or gets a copy."""
    fmt = k.fmt
    pfn = fmt.pte_pfn(pte)
    if k.mem_map.flags[pfn] & PG_ANON and reuse_swap_page(k, pfn):
        set_pte(mm, vma, vaddr, pte, fmt.pte_mkwrite(fmt.pte_mkdirty(fmt.pte_mkyoung(pte))))
        k.flush_tlb_page(mm, vaddr)
        return False
    k.mem_map.refcount[pfn] += 1
    copy = alloc_page(k)
    if copy == NO_FRAME:
        put_page(k, pfn)
        raise OutOfMemory(vaddr, "no frame for a private copy")
    old = mm.pt.get(vaddr)
    if fmt.pte_mkold(old) != fmt.pte_mkold(pte):
        put_page(k, copy)
        put_page(k, pfn)
        return False
    # Reclaim on behalf of the copy spares a page with our reference, but may have found its PTE young, and made it old:
    # to try again for that (pte_same) would never end where kswapd takes the page before the access comes back.
    k.ram.frame(copy)[:] = k.ram.frame(pfn)
    k.vmstat.nr_cow += 1
    if vma.flags & VM_LOCKED:
        # Else it would stay mlocked where nobody has locked it: in the page cache, or in a child.
        munlock_page(k, pfn)
    page_remove_rmap(k, mm, pfn)
    put_page(k, pfn)
    install_anon(k, mm, vma, vaddr, copy, old)
    k.flush_tlb_page(mm, vaddr)
    put_page(k, pfn)
    return False


def do_swap_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int, *, write: bool) -> bool:
    """Map the page that a swap PTE names; return whether it had to be read. BusError if it cannot be."""
    entry = pte_to_swp_entry(k.fmt, pte)
    pfn = lookup_swap_cache(k, entry)
    major = not pfn
    if major:
        failed = swapin_readahead(k, entry)
        if failed:
            raise BusError(vaddr, f"its page cannot be read from swap: {os.strerror(failed)}")
        pfn = lookup_swap_cache(k, entry)
        if not pfn:
            raise OutOfMemory(vaddr, "no frame for a page from swap")
        k.vmstat.pgmajfault += 1
    k.mem_map.refcount[pfn] += 1
    lock_page(k, pfn)
    k.preempt_point("swap:page_locked")
    if mm.pt.get(vaddr) != pte:
        unlock_page(k, pfn)
        put_page(k, pfn)
        return major
    alone = not k.mem_map.mapcount[pfn] and page_swapcount(k, pfn) == 1
    new = mk_anon_pte(vma, pfn, write=write and alone)
    set_pte(mm, vma, vaddr, pte, new)
    page_add_anon_rmap(k, vma, pfn, vaddr)
    k.swap.swap_free(entry)
    mm.swap_ents -= 1
    if k.swap.vm_swap_full() or vma.flags & VM_LOCKED or k.swap.area_of(entry).closing:
        try_to_free_swap(k, pfn)
    if vma.flags & VM_LOCKED:
        mlock_vma_page(k, pfn)
    unlock_page(k, pfn)
    if write and not alone:
        do_wp_private(k, mm, vma, vaddr, new)
    return major
