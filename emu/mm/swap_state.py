"""The swap cache: anonymous pages that have a slot on swap, on their way out or back in.

A page in it holds one reference and one count of its slot, and keeps its slot while it is clean, so that it can go out
again without being written. PG_dirty says that the slot does not hold what the page holds.

Source: Linux v2.6.20 mm/swap_state.c: add_to_swap(), __add_to_swap_cache(), delete_from_swap_cache(); v2.6.29
mm/swapfile.c: try_to_free_swap(), reuse_swap_page(), free_swap_and_cache().
"""

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm.page_alloc import put_page
from emu.mm_types.page import PG_DIRTY, PG_LOCKED, PG_SWAPCACHE, PG_WRITEBACK


def add_to_swap(k: Kernel, pfn: int) -> bool:
    """Give an anonymous page a slot and put it into the swap cache, to be written; False if swap is full."""
    entry = k.swap.get_swap_page()
    if not entry:
        return False
    add_to_swap_cache(k, pfn, entry)
    k.mem_map.flags[pfn] |= PG_DIRTY
    return True


def add_to_swap_cache(k: Kernel, pfn: int, entry: int) -> None:
    """Put a page into the swap cache, which takes a reference; the slot's count for the cache is the caller's."""
    mem_map = k.mem_map
    if entry in k.swap.cache or mem_map.flags[pfn] & PG_SWAPCACHE:
        raise KernelBug(f"swap entry {entry:#x} is cached already: {mem_map.describe(pfn)}")
    k.swap.cache[entry] = pfn
    mem_map.private[pfn] = entry
    mem_map.flags[pfn] |= PG_SWAPCACHE
    mem_map.refcount[pfn] += 1
    k.vmstat.nr_swapcached += 1


def delete_from_swap_cache(k: Kernel, pfn: int) -> None:
    """Take a page out of the swap cache, which puts its reference and its count of the slot; not under I/O."""
    mem_map = k.mem_map
    if mem_map.flags[pfn] & PG_WRITEBACK:
        raise KernelBug(f"leaves the swap cache while it is written: {mem_map.describe(pfn)}")
    entry = mem_map.private[pfn]
    del k.swap.cache[entry]
    mem_map.private[pfn] = 0
    mem_map.flags[pfn] &= ~(PG_SWAPCACHE | PG_DIRTY)
    k.vmstat.nr_swapcached -= 1
    k.swap.swap_free(entry)
    put_page(k, pfn)


def lookup_swap_cache(k: Kernel, entry: int) -> int:
    """Return the page of an entry, 0 if it is not in memory."""
    return k.swap.cache.get(entry, 0)


def page_swapcount(k: Kernel, pfn: int) -> int:
    """Return how many swap PTEs name the slot of a page in the swap cache."""
    return k.swap.swap_count(k.mem_map.private[pfn]) - 1


def try_to_free_swap(k: Kernel, pfn: int) -> bool:
    """Take a page out of the swap cache if no swap PTE needs its slot and it is not being written."""
    if k.mem_map.flags[pfn] & (PG_SWAPCACHE | PG_WRITEBACK) != PG_SWAPCACHE or page_swapcount(k, pfn):
        return False
    mapped = k.mem_map.mapcount[pfn]
    delete_from_swap_cache(k, pfn)
    if mapped:
        # No slot holds what it holds, whatever its PTEs say.
        k.mem_map.flags[pfn] |= PG_DIRTY
    return True


def free_swap_cache(k: Kernel, pfn: int) -> None:
    """Let go of the slot of a page that nobody maps any longer, if nobody needs that either."""
    if not k.mem_map.mapcount[pfn] and not k.mem_map.flags[pfn] & PG_LOCKED:
        try_to_free_swap(k, pfn)


def reuse_swap_page(k: Kernel, pfn: int) -> bool:
    """Tell whether an anonymous page has one user, counting swap PTEs, so that he may write to it as it is.

    Such a page leaves the swap cache, since its slot is about to be out of date.
    """
    count = k.mem_map.mapcount[pfn]
    if count > 1 or not k.mem_map.flags[pfn] & PG_SWAPCACHE:
        return count <= 1
    if count + page_swapcount(k, pfn) > 1:
        return False
    try_to_free_swap(k, pfn)
    return True


def free_swap_and_cache(k: Kernel, entry: int) -> None:
    """Count one swap PTE less; after the last its page leaves the swap cache, if nobody maps it or swap is short."""
    if k.swap.swap_free(entry) == 1:
        pfn = lookup_swap_cache(k, entry)
        if pfn and k.swap.vm_swap_full() and not k.mem_map.flags[pfn] & PG_LOCKED:
            try_to_free_swap(k, pfn)
        elif pfn:
            free_swap_cache(k, pfn)
