"""Frames for pages and page tables: watermarks, kswapd's wake-up, direct reclaim.

Source: Linux v2.6.20 mm/page_alloc.c: __alloc_pages(), free_hot_cold_page().
"""

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm_types.page import (
    PG_ANON,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_MLOCKED,
    PG_PGTABLE,
    PG_SWAPCACHE,
    PG_WRITEBACK,
)

NO_FRAME = -1

_RECLAIM_BATCH = 32


def alloc_page(k: Kernel) -> int:
    """Return a frame with one reference, or NO_FRAME if even reclaim finds none.

    Below the low watermark kswapd is asked for; below the minimum the caller reclaims by itself first.
    """
    nr_free = k.ram.nr_free
    if nr_free <= k.watermarks.low:
        if not k.kthreads.kswapd_wanted:
            k.kthreads.kswapd_wanted = True
            k.vmstat.kswapd_wakeups += 1
        if nr_free <= k.watermarks.min:
            k.vmstat.allocstall += 1
            k.try_to_free_pages(k, _RECLAIM_BATCH)
    pfn = k.ram.alloc_frame()
    if pfn < 0:
        k.vmstat.nr_oom += 1
        return NO_FRAME
    mem_map = k.mem_map
    mem_map.flags[pfn] = 0
    mem_map.refcount[pfn] = 1
    return pfn


def alloc_table(k: Kernel) -> int:
    """Return a frame for a page table, or NO_FRAME."""
    pfn = alloc_page(k)
    if pfn != NO_FRAME:
        k.mem_map.flags[pfn] = PG_PGTABLE
        k.vmstat.nr_page_table_pages += 1
    return pfn


def free_table(k: Kernel, pfn: int) -> None:
    """Take a page table's frame back."""
    k.vmstat.nr_page_table_pages -= 1
    k.mem_map.flags[pfn] = 0
    put_page(k, pfn)


def put_page(k: Kernel, pfn: int) -> None:
    """Drop a reference; the last one frees the frame."""
    mem_map = k.mem_map
    count = mem_map.refcount[pfn] - 1
    mem_map.refcount[pfn] = count
    if not count:
        _free_page(k, pfn)


def _free_page(k: Kernel, pfn: int) -> None:
    mem_map = k.mem_map
    flags = mem_map.flags[pfn]
    if flags & PG_LRU:
        k.lru.remove(pfn)
    if flags & PG_ANON:
        mem_map.mapping[pfn] = 0
        flags &= ~PG_DIRTY
    busy = flags & (PG_LOCKED | PG_WRITEBACK | PG_DIRTY | PG_SWAPCACHE)
    if busy or mem_map.mapping[pfn] or mem_map.mapcount[pfn]:
        raise KernelBug(f"bad page is freed: {mem_map.describe(pfn)}")
    if flags & PG_MLOCKED:
        k.vmstat.nr_mlock -= 1
    mem_map.flags[pfn] = 0
    k.ram.free_frame(pfn)


def lock_page(k: Kernel, pfn: int) -> None:
    """Set PG_locked; nobody else runs, so a locked page is a bug (or a test's interleaving that must wait)."""
    flags = k.mem_map.flags[pfn]
    if flags & PG_LOCKED:
        k.wait_on_page_locked(pfn)
        flags = k.mem_map.flags[pfn]
    k.mem_map.flags[pfn] = flags | PG_LOCKED
    k.locks.page_locked()


def unlock_page(k: Kernel, pfn: int) -> None:
    """Clear PG_locked."""
    flags = k.mem_map.flags[pfn]
    if not flags & PG_LOCKED:
        raise KernelBug(f"unlock of an unlocked page: {k.mem_map.describe(pfn)}")
    k.mem_map.flags[pfn] = flags & ~PG_LOCKED
    k.locks.page_unlocked()
