"""Reclaim: the active and inactive lists, second chances, unmapping, page-out of dirty pages.

Pages of files without writeback and mlocked pages are never evicted. Anonymous pages go to swap, if there is room.

Source: Linux v2.6.20 mm/vmscan.c: shrink_active_list(), shrink_page_list(), balance_pgdat(). Otherwise than there: the
active list is left alone while it is the shorter one (v2.6.28: inactive_anon_is_low()), what reclaim_mapped decides is
asked for anonymous pages only, an accessed page that nobody maps gets a second chance, neighbours are written along.
"""

from emu.mm.filemap import remove_from_page_cache
from emu.mm.kernel import Kernel
from emu.mm.mlock import mlock_vma_page
from emu.mm.page_alloc import lock_page, put_page, unlock_page
from emu.mm.page_writeback import mark_clean_if_so, write_cache_pages
from emu.mm.shmem import shmem_writepage
from emu.mm.swap_state import delete_from_swap_cache
from emu.mm.swapout import Outcome, may_reclaim_anon, shrink_anon_page
from emu.mm.unmap import SwapResult, page_referenced, try_to_unmap
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.events import EventKind
from emu.mm_types.page import (
    ACTIVE,
    INACTIVE,
    PG_ANON,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_MLOCKED,
    PG_REFERENCED,
    PG_SWAPCACHE,
    PG_WRITEBACK,
    UNEVICTABLE,
)

SWAP_CLUSTER_MAX = 32
PAGEOUT_CLUSTER = 32
"""A dirty page is written with up to this many dirty neighbours."""

DEF_PRIORITY = 12


def try_to_free_pages(k: Kernel, nr_pages: int) -> int:
    """Reclaim for an allocator that found too few frames (direct reclaim); return how many frames it got."""
    return _shrink(k, nr_pages, range(DEF_PRIORITY, -1, -1), direct=True)


def kswapd(k: Kernel) -> None:
    """Reclaim towards the high watermark: one priority a turn, with rising effort, until there or all was scanned.

    One only, so that the page that a process has just faulted in is found young, not taken before it is used.
    """
    kthreads = k.kthreads
    missing = k.watermarks.high - k.ram.nr_free
    if missing > 0:
        priority = kthreads.kswapd_priority
        _shrink(k, missing, range(priority, priority - 1, -1), direct=False)
        kthreads.kswapd_priority = priority - 1
    if k.ram.nr_free >= k.watermarks.high or kthreads.kswapd_priority < 0:
        kthreads.kswapd_wanted = False
        kthreads.kswapd_priority = DEF_PRIORITY


def _shrink(k: Kernel, nr_pages: int, priorities: range, *, direct: bool) -> int:
    """Scan with rising effort until `nr_pages` are free, waiting for write-out when there is nothing else."""
    freed_before = k.ram.nr_free
    begin_s = k.clock.now() if k.events is not None else 0.0
    for priority in priorities:
        _shrink_active_list(k, (k.lru.nr[ACTIVE] >> priority) + 1, reclaim_anon=_reclaim_anon(k, priority))
        nr_to_scan = (k.lru.nr[INACTIVE] >> priority) + SWAP_CLUSTER_MAX
        _shrink_inactive_list(k, nr_to_scan, direct=direct)
        if k.ram.nr_free - freed_before >= nr_pages:
            break
        if priority < DEF_PRIORITY - 2 and k.io.in_flight:
            k.io.wait_one()
        elif priority < DEF_PRIORITY // 2 and not k.lru.nr[INACTIVE] and not k.lru.nr[ACTIVE]:
            break
    freed = k.ram.nr_free - freed_before
    if k.events is not None:
        mm = k.current[k.cpu] if direct else None
        k.emit(
            EventKind.RECLAIM,
            mm=mm.ident if mm is not None else 0,
            arg=freed,
            flags=int(direct),
            duration_ns=int((k.clock.now() - begin_s) * 1e9),
        )
    return freed


def _reclaim_anon(k: Kernel, priority: int) -> bool:
    """Tell whether anonymous pages are to be taken, too: by need, by how much is mapped, and by swappiness."""
    distress = 100 >> priority
    mapped_ratio = (k.vmstat.nr_mapped + k.vmstat.nr_anon_pages) * 100 // k.ram.nr_frames
    return mapped_ratio // 2 + distress + k.options.swappiness >= 100


def _shrink_active_list(k: Kernel, nr_to_scan: int, *, reclaim_anon: bool) -> None:
    """Move pages from the active to the inactive list while that is the shorter one, referenced ones excepted."""
    if k.lru.nr[INACTIVE] >= k.lru.nr[ACTIVE]:
        return
    for _ in range(min(nr_to_scan, k.lru.nr[ACTIVE])):
        pfn = k.lru.tail(ACTIVE)
        k.vmstat.pgrefill += 1
        if _stays(k, pfn, reclaim_anon=reclaim_anon) or page_referenced(k, pfn):
            k.lru.move(pfn, ACTIVE)
        else:
            k.mem_map.flags[pfn] &= ~PG_REFERENCED
            k.lru.move(pfn, INACTIVE)
            k.vmstat.pgdeactivate += 1


def _stays(k: Kernel, pfn: int, *, reclaim_anon: bool) -> bool:
    """Tell whether an active page that would go to swap is to be left alone."""
    if k.mem_map.flags[pfn] & PG_ANON:
        return not (reclaim_anon and may_reclaim_anon(k, pfn))
    mapping = k.mappings.get(k.mem_map.mapping[pfn])
    return mapping is not None and mapping.swappable and not (reclaim_anon and k.swap.nr_free)


def _shrink_inactive_list(k: Kernel, nr_to_scan: int, *, direct: bool) -> None:
    for _ in range(min(nr_to_scan, k.lru.nr[INACTIVE])):
        pfn = k.lru.tail(INACTIVE)
        if not pfn:
            return
        if direct:
            k.vmstat.pgscan_direct += 1
        else:
            k.vmstat.pgscan_kswapd += 1
        if _shrink_page(k, pfn):
            if direct:
                k.vmstat.pgsteal_direct += 1
            else:
                k.vmstat.pgsteal_kswapd += 1


def reclaim_page(k: Kernel, pfn: int) -> bool:
    """Try to free one page of the inactive list now, and wait for its write-out if it needs one (reclaim_pages)."""
    if _shrink_page(k, pfn):
        return True
    if not k.mem_map.flags[pfn] & PG_WRITEBACK:
        return False
    while k.mem_map.flags[pfn] & PG_WRITEBACK:
        k.io.wait_one()
    return bool(k.mem_map.flags[pfn] & PG_LRU) and _shrink_page(k, pfn)


def _shrink_page(k: Kernel, pfn: int) -> bool:
    """Try to free one page from the tail of the inactive list; else it goes to the head of some list."""
    mem_map = k.mem_map
    flags = mem_map.flags[pfn]
    if flags & PG_MLOCKED:
        k.lru.move(pfn, UNEVICTABLE)
        return False
    if flags & PG_ANON:
        return _shrink_anon(k, pfn)
    mapping = k.mappings.get(mem_map.mapping[pfn])
    if flags & (PG_LOCKED | PG_WRITEBACK) or mapping is None or _is_held(k, pfn):
        k.lru.move(pfn, INACTIVE)
        return False
    nowhere_to_go = mapping.swappable and not k.swap.nr_free
    if nowhere_to_go or page_referenced(k, pfn):
        if nowhere_to_go or mem_map.mapcount[pfn] or flags & PG_REFERENCED:
            return _activate(k, pfn)
        mem_map.flags[pfn] |= PG_REFERENCED
        k.lru.move(pfn, INACTIVE)
        return False
    return _unmap_and_free(k, mapping, pfn)


def _is_held(k: Kernel, pfn: int) -> bool:
    """Tell whether somebody else works with the page: it has references beyond those of its PTEs and caches.

    Such a page cannot be freed; to unmap it would be in vain, and whoever allocates a copy of it would find it gone
    from his page table every time, without end. Linux v2.6.20 unmaps it, but then keeps it (is_page_cache_freeable).
    """
    mem_map = k.mem_map
    flags = mem_map.flags[pfn]
    own = not flags & PG_ANON or bool(flags & PG_SWAPCACHE)
    return mem_map.refcount[pfn] > mem_map.mapcount[pfn] + own + bool(flags & PG_WRITEBACK)


def _shrink_anon(k: Kernel, pfn: int) -> bool:
    outcome = Outcome.INACTIVE if _is_held(k, pfn) else shrink_anon_page(k, pfn)
    if outcome is Outcome.ACTIVE:
        return _activate(k, pfn)
    if outcome is Outcome.INACTIVE:
        k.lru.move(pfn, INACTIVE)
    return outcome is Outcome.FREED


def _unmap_and_free(k: Kernel, mapping: AddressSpace, pfn: int) -> bool:
    mem_map = k.mem_map
    mem_map.refcount[pfn] += 1
    lock_page(k, pfn)
    try:
        if mem_map.mapcount[pfn]:
            result = try_to_unmap(k, mapping, pfn)
            if result is SwapResult.MLOCK:
                mlock_vma_page(k, pfn)
                return False
            if result is SwapResult.FAIL:
                return _activate(k, pfn)
            if result is SwapResult.AGAIN:
                # Still mapped somewhere: to write it now would be in vain.
                k.lru.move(pfn, INACTIVE)
                return False
        if mapping.swappable:
            return _swap_out_shmem(k, mapping, pfn)
        if mem_map.flags[pfn] & PG_DIRTY:
            unlock_page(k, pfn)
            try:
                _pageout(k, mapping, pfn)
            finally:
                lock_page(k, pfn)
        if mem_map.flags[pfn] & (PG_DIRTY | PG_WRITEBACK) or mem_map.mapcount[pfn]:
            k.lru.move(pfn, INACTIVE)
            return False
        remove_from_page_cache(k, mapping, pfn)
        mark_clean_if_so(k, mapping)
        return True
    finally:
        unlock_page(k, pfn)
        put_page(k, pfn)


def _swap_out_shmem(k: Kernel, mapping: AddressSpace, pfn: int) -> bool:
    """Move a locked page of shared anonymous memory, which nobody maps any more, to swap."""
    entry = k.swap.get_swap_page()
    if not entry:
        return _activate(k, pfn)
    pgoff = k.mem_map.index[pfn]
    remove_from_page_cache(k, mapping, pfn)
    shmem_writepage(k, mapping, pgoff, pfn, entry)
    if k.mem_map.flags[pfn] & (PG_DIRTY | PG_WRITEBACK):
        k.lru.move(pfn, INACTIVE)
        return False
    delete_from_swap_cache(k, pfn)
    return True


def _activate(k: Kernel, pfn: int) -> bool:
    k.mem_map.flags[pfn] &= ~PG_REFERENCED
    k.lru.move(pfn, ACTIVE)
    k.vmstat.pgactivate += 1
    return False


def _pageout(k: Kernel, mapping: AddressSpace, pfn: int) -> None:
    """Write a dirty page, with the dirty pages around it."""
    k.vmstat.nr_vmscan_write += 1
    start = k.mem_map.index[pfn] & -PAGEOUT_CLUSTER
    write_cache_pages(k, mapping, start, start + PAGEOUT_CLUSTER, sync=False)
    mark_clean_if_so(k, mapping)
