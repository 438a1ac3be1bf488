"""Shared anonymous memory on swap: its address space keeps, page by page, which slot holds what is not in memory.

On its way out a page leaves the page cache for the swap cache, unmapped, and is an anonymous page there; on its way in
it leaves that again, and its slot is freed.

Source: Linux v2.6.20 mm/shmem.c: shmem_writepage(), shmem_getpage(), shmem_truncate_range(), shmem_unuse(),
shmem_acct_block(), shmem_unacct_blocks(). Linux keeps the entries in the inode (shmem_swp_entry()), since v3.1 in the
tree of pages.
"""

from emu.mm.inode import Inode
from emu.mm.kernel import Kernel
from emu.mm.overcommit import vm_enough_memory
from emu.mm.page_io import swap_writepage, swapin_readahead
from emu.mm.swap_state import add_to_swap_cache, delete_from_swap_cache, free_swap_and_cache, lookup_swap_cache
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_ANON, PG_DIRTY, PG_LRU, PG_WRITEBACK


def shmem_writepage(k: Kernel, mapping: AddressSpace, pgoff: int, pfn: int, entry: int) -> None:
    """Start writing a locked page, which has left the page cache, to the slot of `entry`."""
    k.mem_map.flags[pfn] |= PG_ANON | PG_DIRTY
    add_to_swap_cache(k, pfn, entry)
    k.swap.swap_duplicate(entry)
    mapping.swapped[pgoff] = entry
    swap_writepage(k, pfn)


def shmem_swapin(k: Kernel, mapping: AddressSpace, pgoff: int) -> tuple[int, int]:
    """Return (errno, pfn): a page that was on swap, out of the swap cache, on no list, with a reference for the caller.

    pfn 0: it cannot be read (errno), or there is no frame for it (0).
    """
    entry = mapping.swapped[pgoff]
    if not lookup_swap_cache(k, entry):
        failed = swapin_readahead(k, entry)
        if failed:
            return failed, 0
    pfn = lookup_swap_cache(k, entry)
    if not pfn:
        return 0, 0
    mem_map = k.mem_map
    while mem_map.flags[pfn] & PG_WRITEBACK:
        k.io.wait_one()
    mem_map.refcount[pfn] += 1
    if mem_map.flags[pfn] & PG_LRU:
        k.lru.remove(pfn)
    mem_map.flags[pfn] &= ~PG_ANON
    delete_from_swap_cache(k, pfn)
    del mapping.swapped[pgoff]
    k.swap.swap_free(entry)
    return 0, pfn


def shmem_truncate_swap(k: Kernel, mapping: AddressSpace, first: int, stop: int) -> None:
    """Let go of the slots of pages [first, stop)."""
    for pgoff in [pgoff for pgoff in mapping.swapped if first <= pgoff < stop]:
        free_swap_and_cache(k, mapping.swapped.pop(pgoff))


def shmem_acct_blocks(k: Kernel, mm: Mm | None, mapping: AddressSpace) -> None:
    """Promise the pages that MAP_NORESERVE memory has now, in memory or on swap, and no others."""
    inode = mapping.host
    if isinstance(inode, Inode) and inode.noreserve:
        nr_pages = mapping.pages.nr_pages + len(mapping.swapped)
        vm_enough_memory(k, mm, nr_pages - inode.nr_accounted)
        inode.nr_accounted = nr_pages
