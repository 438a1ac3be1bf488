"""What happens to struct page when a PTE comes to map it or ceases to.

Source: Linux v2.6.20 mm/rmap.c: page_add_file_rmap(), page_add_new_anon_rmap(), page_remove_rmap().
"""

import numpy as np
import numpy.typing as npt

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm.page_alloc import put_page
from emu.mm.swap_state import free_swap_cache
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_ANON, PG_SWAPCACHE
from emu.mm_types.vma import VmArea


def page_add_file_rmap(k: Kernel, mm: Mm, pfn: int) -> None:
    """Count a PTE of `mm` that maps a page cache page; the caller's reference becomes the PTE's."""
    mem_map = k.mem_map
    mapcount = mem_map.mapcount[pfn]
    mem_map.mapcount[pfn] = mapcount + 1
    if not mapcount:
        k.vmstat.nr_mapped += 1
    mm.file_rss += 1


def page_add_new_anon_rmap(k: Kernel, vma: VmArea, pfn: int, vaddr: int) -> None:
    """Count the first PTE of a fresh anonymous page of a VMA that has its anon_vma."""
    k.mem_map.flags[pfn] |= PG_ANON
    page_add_anon_rmap(k, vma, pfn, vaddr)


def page_add_anon_rmap(k: Kernel, vma: VmArea, pfn: int, vaddr: int) -> None:
    """Count a PTE that maps an anonymous page, and note at the first where such PTEs are found."""
    mem_map = k.mem_map
    mapcount = mem_map.mapcount[pfn]
    if not mapcount:
        if vma.anon_vma is None:
            raise KernelBug(f"no anon_vma in {vma!r} for {mem_map.describe(pfn)}")
        mem_map.mapping[pfn] = vma.anon_vma.ident
        mem_map.index[pfn] = vma.linear_pgoff(vaddr)
        k.vmstat.nr_anon_pages += 1
    mem_map.mapcount[pfn] = mapcount + 1
    vma.mm.anon_rss += 1


def page_dup_rmap(k: Kernel, mm: Mm, pfn: int) -> None:
    """Count one more PTE, of a child, for a page that is mapped already, and take its reference."""
    mem_map = k.mem_map
    mem_map.refcount[pfn] += 1
    mem_map.mapcount[pfn] += 1
    if mem_map.flags[pfn] & PG_ANON:
        mm.anon_rss += 1
    else:
        mm.file_rss += 1


def page_remove_rmap(k: Kernel, mm: Mm, pfn: int) -> None:
    """Uncount a PTE; its reference stays to be put after the TLB flush."""
    mem_map = k.mem_map
    mapcount = mem_map.mapcount[pfn] - 1
    if mapcount < 0:
        raise KernelBug(f"mapcount below zero: {mem_map.describe(pfn)}")
    mem_map.mapcount[pfn] = mapcount
    if mem_map.flags[pfn] & PG_ANON:
        mm.anon_rss -= 1
        if not mapcount:
            k.vmstat.nr_anon_pages -= 1
    else:
        mm.file_rss -= 1
        if not mapcount:
            k.vmstat.nr_mapped -= 1


def zap_rmap_many(k: Kernel, mm: Mm, pfns: npt.NDArray[np.int64]) -> None:
    """Uncount many PTEs at once and put their references; the TLB must have been flushed.

    A page may occur several times (mapped at several addresses).
    """
    mem_map = k.mem_map
    unique, counts = np.unique(pfns, return_counts=True)
    left = mem_map.mapcount_array[unique] - counts
    if len(left) and int(left.min()) < 0:
        raise KernelBug(f"mapcount below zero: {mem_map.describe(int(unique[int(left.argmin())]))}")
    mem_map.mapcount_array[unique] = left
    anon = (mem_map.flags_array[unique] & PG_ANON) != 0
    gone = left == 0
    k.vmstat.nr_anon_pages -= int(np.count_nonzero(anon & gone))
    k.vmstat.nr_mapped -= int(np.count_nonzero(~anon & gone))
    nr_anon = int(counts[anon].sum())
    mm.anon_rss -= nr_anon
    mm.file_rss -= int(counts.sum()) - nr_anon
    references = mem_map.refcount_array[unique] - counts
    last = references <= 0
    mem_map.refcount_array[unique] = np.where(last, 1, references)
    cached = unique[gone & ((mem_map.flags_array[unique] & PG_SWAPCACHE) != 0)]
    for pfn in unique[last].tolist():
        put_page(k, pfn)
    for pfn in cached.tolist():
        free_swap_cache(k, pfn)
