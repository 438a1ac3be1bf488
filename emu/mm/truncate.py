"""Changing a file's length, and dropping its pages.

Source: Linux v2.6.23 mm/truncate.c: truncate_inode_pages_range(), invalidate_mapping_pages(); mm/memory.c:
vmtruncate().
"""

import ctypes
import errno
import os

from emu.mm.filemap import remove_from_page_cache
from emu.mm.inode import Inode, forget_inode
from emu.mm.kernel import Kernel
from emu.mm.memory import unmap_mapping_range
from emu.mm.mkclean import cancel_dirty_page
from emu.mm.page_alloc import lock_page, put_page, unlock_page
from emu.mm.page_writeback import mark_clean_if_so, wait_on_page_writeback, write_cache_pages
from emu.mm.shmem import shmem_acct_blocks, shmem_truncate_swap
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.page import PG_DIRTY, PG_LOCKED, PG_WRITEBACK
from emu.mm_types.page_tree import TAG_WRITEBACK

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_BATCH = 1024
_EVERYTHING = 1 << 62
_MAX_LFS_FILESIZE = (1 << 63) - 1


def ftruncate(k: Kernel, inode: Inode, nbytes: int) -> None:
    """Set a file's length. Errors: EINVAL (negative, or the file is not writable), EFBIG, whatever the host says.

    Shrinking takes the pages beyond the new end out of every mapping, private copies too, and zeroes the rest of the
    last page, as growing relies on.
    """
    if nbytes < 0:
        raise OSError(errno.EINVAL, f"a file cannot have {nbytes} bytes")
    if not inode.writable:
        raise OSError(errno.EINVAL, f"{inode.name} is not open for writing")
    if nbytes > _MAX_LFS_FILESIZE:
        raise OSError(errno.EFBIG, f"a file cannot have {nbytes} bytes")
    if not inode.anonymous:
        # Writes that reach beyond the new end would grow the file again.
        _wait_for_writes(k, inode.mapping, min(nbytes, inode.i_size) >> k.page_shift)
        os.ftruncate(inode.fd_buffered, nbytes)
    vmtruncate(k, inode.mapping, nbytes)


def _wait_for_writes(k: Kernel, mapping: AddressSpace, first: int, stop: int = _EVERYTHING) -> None:
    """Let what is being written of pages [first, stop) finish."""
    while mapping.pages.find_tagged(TAG_WRITEBACK, first, stop, 1):
        k.io.wait_one()


def vmtruncate(k: Kernel, mapping: AddressSpace, nbytes: int) -> None:
    """Take over a file's new length in its mappings and its page cache."""
    old = mapping.i_size
    mapping.i_size = nbytes
    if nbytes >= old:
        # What a store put behind the old end must not show up as file content now.
        _zero_tail(k, mapping, old)
        return
    first = (nbytes + k.page_size - 1) >> k.page_shift
    k.preempt_point("truncate:size_set")
    unmap_mapping_range(k, mapping, first, _EVERYTHING, even_cows=True)
    k.preempt_point("truncate:unmapped")
    truncate_inode_pages(k, mapping, first)
    if k.options.fault_path == "merged":
        # A fault that had locked its page may have copied it meanwhile, for a private mapping (as since v2.6.23; a
        # legacy fault sees that truncate_count has changed, and looks again).
        unmap_mapping_range(k, mapping, first, _EVERYTHING, even_cows=True)
    _zero_tail(k, mapping, nbytes)


def _zero_tail(k: Kernel, mapping: AddressSpace, nbytes: int) -> None:
    partial = nbytes & (k.page_size - 1)
    pfn = mapping.pages.lookup(nbytes >> k.page_shift) if partial else 0
    if pfn:
        wait_on_page_writeback(k, pfn)
        k.ram.frame(pfn)[partial:] = bytes(k.page_size - partial)


def truncate_inode_pages(k: Kernel, mapping: AddressSpace, first: int, stop: int = _EVERYTHING) -> None:
    """Drop the pages [first, stop), dirty or not.

    With the merged fault path a page that a fault mapped after the first sweep is unmapped here, under its lock
    (v2.6.23 mm/truncate.c: truncate_inode_pages_range()); the legacy path knows no such care.
    """
    while found := mapping.pages.find_pages(first, stop, _BATCH):
        for _, pfn in found:
            k.mem_map.refcount[pfn] += 1
            lock_page(k, pfn)
            wait_on_page_writeback(k, pfn)
            if k.mem_map.mapping[pfn] == mapping.ident:
                if k.mem_map.mapcount[pfn] and k.options.fault_path == "merged":
                    # A fault mapped it after the first sweep, holding the page lock that is ours now.
                    pgoff = k.mem_map.index[pfn]
                    unmap_mapping_range(k, mapping, pgoff, pgoff + 1, even_cows=False)
                cancel_dirty_page(k, mapping, pfn)
                remove_from_page_cache(k, mapping, pfn)
            unlock_page(k, pfn)
            put_page(k, pfn)
    shmem_truncate_swap(k, mapping, first, stop)
    shmem_acct_blocks(k, None, mapping)
    mark_clean_if_so(k, mapping)


def release_shmem(k: Kernel, mapping: AddressSpace) -> None:
    """Free shared anonymous memory that nobody maps any more: there is no other way to it (shmem_evict_inode)."""
    truncate_inode_pages(k, mapping, 0)
    forget_inode(k, k.inodes[0, mapping.ident])


def truncate_range(k: Kernel, inode: Inode, first: int, stop: int) -> None:
    """Punch a hole: drop the pages [first, stop) of a file and free their blocks; the length stays.

    What madvise(MADV_REMOVE) does. Errors: EINVAL (no host file, not writable), whatever the host says (EOPNOTSUPP
    where there are no holes); after an error nothing that was stored is lost. Private copies stay, which v2.6.20
    dropped.
    Source: Linux v2.6.20 mm/memory.c: vmtruncate_range(); v3.5 mm/truncate.c: truncate_pagecache_range(), which file
    systems call after what can refuse.
    """
    if not inode.writable:
        raise OSError(errno.EINVAL, f"{inode.name} is not open for writing")
    mapping = inode.mapping
    unmap_mapping_range(k, mapping, first, stop, even_cows=False)
    k.preempt_point("truncate:unmapped")
    if not inode.anonymous:
        # No write may come after the hole, and until the pages are dropped nothing begins one.
        _wait_for_writes(k, mapping, first, stop)
        punch_hole(inode.fd_buffered, first << k.page_shift, (stop - first) << k.page_shift)
    truncate_inode_pages(k, mapping, first, stop)


def punch_hole(fd: int, first_byte: int, nbytes: int) -> None:
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, which os does not offer."""
    if _LIBC.fallocate(fd, 3, first_byte, nbytes):
        error = ctypes.get_errno()
        raise OSError(error, f"the host cannot punch a hole: {os.strerror(error)}")


def invalidate_inode_pages2(k: Kernel, mapping: AddressSpace) -> None:
    """Drop all pages of a file, mapped ones too, after writing the dirty ones: its bytes changed behind the cache.

    Source: Linux v2.6.20 mm/truncate.c: invalidate_inode_pages2_range().
    """
    write_cache_pages(k, mapping, 0, _EVERYTHING, sync=True)
    for pgoff, pfn in list(mapping.pages):
        k.mem_map.refcount[pfn] += 1
        lock_page(k, pfn)
        wait_on_page_writeback(k, pfn)
        if k.mem_map.mapping[pfn] == mapping.ident:
            if k.mem_map.mapcount[pfn]:
                unmap_mapping_range(k, mapping, pgoff, pgoff + 1, even_cows=False)
            if not k.mem_map.flags[pfn] & PG_DIRTY:
                remove_from_page_cache(k, mapping, pfn)
        unlock_page(k, pfn)
        put_page(k, pfn)
    mark_clean_if_so(k, mapping)


def invalidate_mapping_pages(k: Kernel, mapping: AddressSpace) -> int:
    """Drop the pages that are clean, unmapped and not under I/O; return how many."""
    dropped = 0
    for _, pfn in list(mapping.pages):
        busy = k.mem_map.flags[pfn] & (PG_DIRTY | PG_WRITEBACK | PG_LOCKED) or k.mem_map.mapcount[pfn]
        if not busy and mapping.writeback:
            k.mem_map.refcount[pfn] += 1
            remove_from_page_cache(k, mapping, pfn)
            put_page(k, pfn)
            dropped += 1
    return dropped
