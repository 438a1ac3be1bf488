"""Large pages for anonymous memory: mapped at the first touch where they fit, split at the first change of a part.

A large page is one entry of the level above the leaves. Its frames are ordinary pages, each with its own struct page,
so that a split changes the page table alone.

Source: Linux v2.6.38 mm/huge_memory.c: do_huge_pmd_anonymous_page(), __split_huge_page_pmd().
"""

import numpy as np

from emu.mm.anon_vma import anon_vma_prepare
from emu.mm.kernel import Kernel
from emu.mm_types.mm import Mm
from emu.mm_types.page import ACTIVE, PG_ANON, PG_UPTODATE
from emu.mm_types.pgtable import NoFrameError
from emu.mm_types.vma import VM_EXEC, VM_LOCKED, VM_NOHUGEPAGE, VM_READ, VM_WRITE, VmArea


def do_huge_anonymous_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int) -> bool:
    """Map zeroed memory around `vaddr` with one large page; False where small ones must do.

    It must lie within the VMA, nothing may be mapped in it yet, and enough adjoining frames be free.
    """
    pt, fmt = mm.pt, k.fmt
    level = len(fmt.levels) - 2
    nr_pages = pt.nr_leaf_entries
    start = vaddr & -(1 << pt.leaf_shift)
    outside = start < vma.start or start + (1 << pt.leaf_shift) > vma.end
    if not fmt.has_huge(level) or vma.flags & (VM_LOCKED | VM_NOHUGEPAGE) or outside:
        return False
    if start >> pt.leaf_shift in pt.leaves:
        return False
    if k.ram.nr_free - nr_pages <= k.watermarks.high:
        k.vmstat.thp_fault_fallback += 1
        return False
    first = k.ram.alloc_run(nr_pages)
    if first < 0:
        k.vmstat.thp_fault_fallback += 1
        return False
    write, execute = bool(vma.flags & VM_WRITE), bool(vma.flags & VM_EXEC)
    read = bool(vma.flags & (VM_READ | VM_WRITE))
    small = fmt.mk_pte(0, write=write, execute=execute, accessed=True, dirty=write, read=read)
    huge = fmt.mk_huge_pte(level, first, write=write, execute=execute, accessed=True, dirty=write, read=read)
    pfns = np.arange(first, first + nr_pages, dtype=np.uint64)
    try:
        pt.map_huge(start, pfns << np.uint64(fmt.pfn_shift) | np.uint64(small), huge)
    except NoFrameError:
        for pfn in range(first, first + nr_pages):
            k.ram.free_frame(pfn)
        return False
    _own_pages(k, vma, start, first, nr_pages)
    return True


def _own_pages(k: Kernel, vma: VmArea, vaddr: int, first: int, nr_pages: int) -> None:
    """Zero the frames and make each a mapped anonymous page."""
    mem_map = k.mem_map
    stop = first + nr_pages
    k.ram.u8[first << k.page_shift : stop << k.page_shift] = 0
    mem_map.flags_array[first:stop] = PG_ANON | PG_UPTODATE
    mem_map.refcount_array[first:stop] = 1
    mem_map.mapcount_array[first:stop] = 1
    mem_map.mapping_array[first:stop] = anon_vma_prepare(k, vma).ident
    mem_map.index_array[first:stop] = np.arange(nr_pages) + vma.linear_pgoff(vaddr)
    for pfn in range(first, stop):
        k.lru.add(pfn, ACTIVE)
    k.vmstat.nr_anon_pages += nr_pages
    vma.mm.anon_rss += nr_pages
    k.vmstat.thp_fault_alloc += 1
