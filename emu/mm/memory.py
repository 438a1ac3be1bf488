"""Page tables of ranges: taking pages out (zap), copying at fork, unmapping a file's pages everywhere.

Source: Linux v2.6.20 mm/memory.c: zap_pte_range(), copy_one_pte(), unmap_mapping_range(); that what a locked VMA lets
go of is no longer mlocked, v6.1 mm/rmap.c: page_remove_rmap().
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.hw.swapops import is_swap_pte, pte_to_swp_entry, swap_ptes
from emu.mm.kernel import Kernel
from emu.mm.mapcount import page_dup_rmap, page_remove_rmap, zap_rmap_many
from emu.mm.mlock import munlock_page
from emu.mm.page_alloc import put_page
from emu.mm.swap_state import free_swap_and_cache, free_swap_cache
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_ANON, PG_LRU, PG_REFERENCED, PG_SWAPCACHE
from emu.mm_types.pgtable import U64Array, set_pte, set_ptes
from emu.mm_types.vma import VM_LOCKED, VM_MAYWRITE, VM_NONLINEAR, VM_SHARED, VmArea

_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class ZapDetails:
    """What to spare when a file's pages are taken out (struct zap_details).

    Only file pages with `first` <= pgoff < `stop` go; a nonlinear VMA keeps a file PTE wherever the page is not the
    linear one, and those that it has. `even_cows`: private copies go, too, those on swap as well.
    """

    first: int = 0
    stop: int = _ALL
    even_cows: bool = False


def pte_flags(k: Kernel, ptes: U64Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return two masks over PTEs: which are present (PROT_NONE included), which are dirty."""
    fmt = k.fmt
    present = (ptes & np.uint64(fmt.present_mask | fmt.protnone_mask)) != 0
    dirty = np.zeros(len(ptes), np.bool_)
    for mask, value in fmt.dirty_rules:
        dirty |= (ptes & np.uint64(mask)) == np.uint64(value)
    return present, dirty & present


def pte_pfns(k: Kernel, ptes: U64Array) -> npt.NDArray[np.int64]:
    """Return the frames of present PTEs."""
    return ((ptes & np.uint64(k.fmt.pfn_mask)) >> np.uint64(k.fmt.pfn_shift)).astype(np.int64)


def zap_page_range(k: Kernel, vma: VmArea, start: int, end: int, details: ZapDetails | None = None) -> int:
    """Take the pages of [start, end) out of a VMA; return how many PTEs went.

    Dirty bits of PTEs go to PG_dirty; references are put after the TLB flush; what was locked here no longer is.
    Without `details` file PTEs go, too.
    """
    mm = vma.mm
    if end - start == k.page_size:
        # What remap_file_pages and invalidation do most: a tenth of the time that arrays of one element take.
        return _zap_page(k, vma, start, details)
    vaddrs, ptes = mm.pt.entries(start, end)
    if not len(vaddrs):
        return 0
    k.locks.visits.total += len(vaddrs)
    present, _ = pte_flags(k, ptes)
    going = present.copy()
    news = np.zeros(len(ptes), np.uint64)
    pfns = pte_pfns(k, ptes)
    if details is None:
        going[:] = True
    else:
        index = k.mem_map.index_array[np.where(present, pfns, 0)]
        anon = (k.mem_map.flags_array[np.where(present, pfns, 0)] & PG_ANON) != 0
        inside = (index >= details.first) & (index < details.stop)
        going &= np.where(anon, details.even_cows, inside)
        if details.even_cows:
            going |= swap_ptes(k.fmt, ptes)
        if vma.flags & VM_NONLINEAR:
            linear = ((vaddrs - np.uint64(vma.start)) >> np.uint64(k.page_shift)).astype(np.int64) + vma.pgoff
            elsewhere = going & (index != linear)
            news[elsewhere] = k.fmt.pgoff_to_pte_bulk(index[elsewhere].astype(np.uint64))
    if not going.any():
        return 0
    vaddrs, ptes, news, present, pfns = vaddrs[going], ptes[going], news[going], present[going], pfns[going]
    set_ptes(mm, vma, vaddrs, ptes, news)
    flush_tlb_vaddrs(k, mm, vaddrs[present])
    # The hardware may have set dirty bits until just before the PTEs were cleared; nothing ran since.
    transfer_dirty_bits(k, ptes)
    _transfer_young_bits(k, ptes[present], pfns[present])
    if vma.flags & VM_LOCKED:
        for pfn in np.unique(pfns[present]).tolist():
            munlock_page(k, pfn)
    zap_rmap_many(k, mm, pfns[present])
    _free_swap_entries(k, mm, ptes[~present])
    return len(vaddrs)


def _zap_page(k: Kernel, vma: VmArea, vaddr: int, details: ZapDetails | None) -> int:
    """Do the same for one page; return 1 if its PTE went, else 0."""
    mm, fmt, mem_map = vma.mm, k.fmt, k.mem_map
    pte = mm.pt.get(vaddr)
    k.locks.visits.total += bool(pte)
    present = fmt.pte_present(pte)
    swapped = is_swap_pte(fmt, pte)
    pfn = fmt.pte_pfn(pte) if present else 0
    anon = mem_map.flags[pfn] & PG_ANON
    index = mem_map.index[pfn]
    new = 0
    if details is None:
        going = pte != 0
    elif not present or anon:
        going = details.even_cows and (present or swapped)
    else:
        going = details.first <= index < details.stop
        if vma.flags & VM_NONLINEAR and index != vma.linear_pgoff(vaddr):
            new = fmt.pgoff_to_pte(index)
    if not going:
        return 0
    set_pte(mm, vma, vaddr, pte, new)
    if present:
        k.flush_tlb_mm(mm, [vaddr])
        if not anon:
            _transfer_bits(k, pfn, dirty=fmt.pte_dirty(pte), young=fmt.pte_young(pte))
        if vma.flags & VM_LOCKED:
            munlock_page(k, pfn)
        page_remove_rmap(k, mm, pfn)
        put_page(k, pfn)
        if mem_map.flags[pfn] & PG_SWAPCACHE:
            free_swap_cache(k, pfn)
    elif swapped:
        free_swap_and_cache(k, pte_to_swp_entry(fmt, pte))
        mm.swap_ents -= 1
    return 1


def _transfer_bits(k: Kernel, pfn: int, *, dirty: bool, young: bool) -> None:
    """Tell a file page what a PTE of it knew."""
    mapping = k.mappings.get(k.mem_map.mapping[pfn])
    if dirty and mapping is not None:
        k.set_page_dirty(k, mapping, pfn)
    if young and k.mem_map.flags[pfn] & PG_LRU:
        k.mem_map.flags[pfn] |= PG_REFERENCED


def _free_swap_entries(k: Kernel, mm: Mm, ptes: U64Array) -> None:
    """Let go of the slots that swap PTEs among these named."""
    if len(ptes):
        swapped = ptes[swap_ptes(k.fmt, ptes)]
        for pte in swapped.tolist():
            free_swap_and_cache(k, pte_to_swp_entry(k.fmt, pte))
        mm.swap_ents -= len(swapped)


def flush_tlb_vaddrs(k: Kernel, mm: Mm, vaddrs: U64Array) -> None:
    """Flush the translations of many pages of an mm, one by one or all together."""
    if len(vaddrs):
        with k.gather(mm) as tlb:
            if len(vaddrs) > tlb.CEILING:
                tlb.add_all()
            else:
                for vaddr in vaddrs.tolist():
                    tlb.add(vaddr)


def transfer_dirty_bits(k: Kernel, ptes: U64Array) -> None:
    """Mark the file pages dirty that these PTEs dirtied (set_page_dirty in zap_pte_range)."""
    _, dirty = pte_flags(k, ptes)
    for pfn in np.unique(pte_pfns(k, ptes[dirty])).tolist():
        mapping = k.mappings.get(k.mem_map.mapping[pfn])
        if mapping is not None and not k.mem_map.flags[pfn] & PG_ANON:
            k.set_page_dirty(k, mapping, pfn)


def _transfer_young_bits(k: Kernel, ptes: U64Array, pfns: npt.NDArray[np.int64]) -> None:
    """Note of file pages that they were accessed, lest reclaim take them for unused (SetPageReferenced)."""
    young = pfns[(ptes & np.uint64(k.fmt.accessed_mask)) != 0]
    flags = k.mem_map.flags_array
    flags[young] |= np.where((flags[young] & (PG_ANON | PG_LRU)) == PG_LRU, np.uint32(PG_REFERENCED), np.uint32(0))


def copy_page_range(k: Kernel, child: VmArea, parent: VmArea) -> None:
    """Give the child the parent's PTEs where a fault could not make them again.

    Linear mappings that never had a private page are left to faults. A shared mapping's PTEs become clean in the child
    and stay as writable as the parent's; private writable ones become read-only in both. Slots on swap are shared.
    """
    if parent.anon_vma is None and not parent.flags & VM_NONLINEAR:
        return
    # Tables first: reclaim on their behalf may change the very PTEs that are to be copied.
    for key in parent.mm.pt.leaf_keys(parent.start, parent.end):
        child.mm.pt.leaf(key << child.mm.pt.leaf_shift)
    vaddrs, ptes = parent.mm.pt.entries(parent.start, parent.end)
    if not len(vaddrs):
        return
    fmt = k.fmt
    cow = parent.flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE
    present, _ = pte_flags(k, ptes)
    copies = ptes.copy()
    protected = ptes.copy()
    for place in np.flatnonzero(present).tolist():
        pte = int(ptes[place])
        if cow:
            pte = fmt.pte_wrprotect(pte)
            protected[place] = pte
        if parent.flags & VM_SHARED:
            pte = fmt.pte_mkclean(pte)
        copies[place] = fmt.pte_mkold(pte)
        page_dup_rmap(k, child.mm, fmt.pte_pfn(pte))
    for pte in ptes[swap_ptes(fmt, ptes)].tolist():
        k.swap.swap_duplicate(pte_to_swp_entry(fmt, pte))
        child.mm.swap_ents += 1
    changed = protected != ptes
    if changed.any():
        set_ptes(parent.mm, parent, vaddrs[changed], ptes[changed], protected[changed])
        flush_tlb_vaddrs(k, parent.mm, vaddrs[changed])
    set_ptes(child.mm, child, vaddrs, np.zeros_like(copies), copies)


def unmap_mapping_range(k: Kernel, mapping: AddressSpace, first: int, stop: int, *, even_cows: bool) -> int:
    """Take the pages [first, stop) of a file out of every VMA that maps them; return how many PTEs went."""
    details = ZapDetails(first, stop, even_cows)
    mapping.i_mmap_lock.down_write()
    mapping.truncate_count += 1
    try:
        count = 0
        for vma in mapping.i_mmap.overlapping(first, stop):
            low = max(first - vma.pgoff, 0)
            high = min(stop - vma.pgoff, vma.nr_pages)
            start = vma.start + (low << k.page_shift)
            count += zap_page_range(k, vma, start, vma.start + (high << k.page_shift), details)
        for vma in list(mapping.i_mmap_nonlinear):
            count += zap_page_range(k, vma, vma.start, vma.end, details)
        return count
    finally:
        mapping.i_mmap_lock.up_write()
