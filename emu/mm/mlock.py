"""mlock and munlock: pages that reclaim passes over, on the unevictable list.

Pages are prefaulted for reading, so that locking a shared mapping does not dirty it (as since v2.6.38).

Source: Linux v2.6.20 mm/mlock.c: do_mlock(); v2.6.28 mm/mlock.c: mlock_vma_page(), munlock_vma_page().
"""

from emu.mm.kernel import Kernel
from emu.mm_types.page import INACTIVE, PG_LRU, PG_MLOCKED, PG_UNEVICTABLE, UNEVICTABLE


def mlock_vma_page(k: Kernel, pfn: int) -> None:
    """Mark a page that a VM_LOCKED VMA maps, and put it where reclaim does not look."""
    flags = k.mem_map.flags[pfn]
    if flags & PG_MLOCKED or pfn == k.zero_pfn:
        return
    k.mem_map.flags[pfn] = flags | PG_MLOCKED
    k.vmstat.nr_mlock += 1
    if flags & PG_LRU and not flags & PG_UNEVICTABLE:
        k.lru.move(pfn, UNEVICTABLE)
        k.vmstat.unevictable_pgs_culled += 1


def munlock_page(k: Kernel, pfn: int) -> None:
    """Take the mark off; if another VMA still locks the page, reclaim finds that out and marks it again."""
    flags = k.mem_map.flags[pfn]
    if not flags & PG_MLOCKED:
        return
    k.mem_map.flags[pfn] = flags & ~PG_MLOCKED
    k.vmstat.nr_mlock -= 1
    mapping = k.mappings.get(k.mem_map.mapping[pfn])
    if flags & PG_LRU and (mapping is None or mapping.evictable):
        k.lru.move(pfn, INACTIVE)
