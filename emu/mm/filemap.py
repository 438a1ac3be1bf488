"""The page cache: look up, add, remove, read from the host file, read ahead.

A page in the cache has one reference for being there. Reads go straight into frames (preadv); bytes beyond the end
of the file are zero.

Source: Linux v2.6.23 mm/filemap.c: filemap_fault(); v2.6.20 mm/filemap.c: add_to_page_cache().
"""

import errno
import os

from emu.errors import BusError, OutOfMemory
from emu.mm.kernel import Kernel
from emu.mm.page_alloc import NO_FRAME, alloc_page, lock_page, put_page, unlock_page
from emu.mm.shmem import shmem_acct_blocks, shmem_swapin
from emu.mm.swap_state import lookup_swap_cache
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.events import EventKind
from emu.mm_types.page import INACTIVE, PG_SWAPBACKED, PG_UPTODATE, UNEVICTABLE
from emu.mm_types.vma import VM_RAND_READ, VM_SEQ_READ, VmArea

MMAP_LOTSAMISS = 100
"""After so many misses more than hits a mapping counts as random, and reads only what is asked for."""

_IOV_MAX = 1024


def add_to_page_cache(k: Kernel, mapping: AddressSpace, pgoff: int, pfn: int) -> None:
    """Put a fresh page into the cache; the cache takes a reference of its own."""
    mem_map = k.mem_map
    mapping.pages.insert(pgoff, pfn)
    mem_map.mapping[pfn] = mapping.ident
    mem_map.index[pfn] = pgoff
    mem_map.refcount[pfn] += 1
    if mapping.swappable:
        mem_map.flags[pfn] |= PG_SWAPBACKED
    k.vmstat.nr_file_pages += 1
    if k.events is not None:
        k.emit(EventKind.ADD_TO_PAGE_CACHE, mapping=mapping.ident, pfn=pfn, pgoff=pgoff)
    k.lru.add(pfn, INACTIVE if mapping.evictable else UNEVICTABLE)


def remove_from_page_cache(k: Kernel, mapping: AddressSpace, pfn: int) -> None:
    """Take a page out and put the cache's reference; the caller holds another, and the page is not dirty."""
    if k.events is not None:
        k.emit(EventKind.DELETE_FROM_PAGE_CACHE, mapping=mapping.ident, pfn=pfn, pgoff=k.mem_map.index[pfn])
    mapping.pages.delete(k.mem_map.index[pfn])
    k.mem_map.mapping[pfn] = 0
    k.vmstat.nr_file_pages -= 1
    put_page(k, pfn)


def max_pgoff(k: Kernel, mapping: AddressSpace) -> int:
    """Return the first page that lies wholly beyond the end of the file."""
    return (mapping.i_size + k.page_size - 1) >> k.page_shift


def filemap_fault(k: Kernel, vma: VmArea, pgoff: int, vaddr: int) -> tuple[int, bool]:
    """Return (pfn, major): the page at `pgoff`, up to date, locked, with a reference for the caller.

    BusError beyond the end of the file or after a read error; OutOfMemory.
    """
    mapping = vma.mapping
    assert mapping is not None
    pfn = mapping.pages.lookup(pgoff)
    major = False
    if not pfn:
        if pgoff >= max_pgoff(k, mapping):
            raise BusError(vaddr, f"page {pgoff} lies beyond the end of {mapping.host.name}")
        failed, major = _bring_in(k, vma, mapping, pgoff)
        if failed:
            raise BusError(vaddr, f"page {pgoff} of {mapping.host.name} cannot be read: {os.strerror(failed)}")
        pfn = mapping.pages.lookup(pgoff)
        if not pfn:
            raise OutOfMemory(vaddr, "no frame for a page of the file")
        k.vmstat.pgmajfault += major
    elif vma.ra_miss:
        vma.ra_miss -= 1
    lock_page(k, pfn)
    if pgoff >= max_pgoff(k, mapping):
        unlock_page(k, pfn)
        raise BusError(vaddr, f"page {pgoff} lies beyond the end of {mapping.host.name}")
    k.mem_map.refcount[pfn] += 1
    return pfn, major


def _bring_in(k: Kernel, vma: VmArea, mapping: AddressSpace, pgoff: int) -> tuple[int, bool]:
    """Bring a page, and perhaps more, into the cache; return an errno or 0, and whether something had to be read."""
    entry = mapping.swapped.get(pgoff)
    if entry is not None:
        major = not lookup_swap_cache(k, entry)
        return swap_in(k, mapping, pgoff), major
    if mapping.swappable:
        # Memory is made where it is touched; nothing is read, so nothing is read ahead (shmem_getpage).
        read_pages(k, mapping, pgoff, 1)
        shmem_acct_blocks(k, vma.mm, mapping)
        return 0, False
    start, nr_pages = _readahead_window(k, vma, mapping, pgoff)
    return read_pages(k, mapping, start, nr_pages, wanted=pgoff), True


def swap_in(k: Kernel, mapping: AddressSpace, pgoff: int) -> int:
    """Move a page from swap back into the cache; return an errno or 0. Without a frame it is not there after that."""
    failed, pfn = shmem_swapin(k, mapping, pgoff)
    if pfn:
        add_to_page_cache(k, mapping, pgoff, pfn)
        put_page(k, pfn)
    return failed


def _readahead_window(k: Kernel, vma: VmArea, mapping: AddressSpace, pgoff: int) -> tuple[int, int]:
    """Return (first page, number of pages) to read for a miss at `pgoff`.

    Sequential misses double the window up to readahead_pages; others read around, until a mapping proves random.
    Source: Linux v2.6.23 mm/filemap.c: filemap_fault() (read-around), v2.6.23 mm/readahead.c (sequential).
    """
    limit = k.options.readahead_pages
    if not limit or vma.flags & VM_RAND_READ:
        return pgoff, 1
    if pgoff == mapping.ra_next or vma.flags & VM_SEQ_READ:
        mapping.ra_window = min(max(mapping.ra_window * 2, 4), limit)
        start, nr_pages = pgoff, mapping.ra_window
    else:
        vma.ra_miss += 1
        if vma.ra_miss > MMAP_LOTSAMISS:
            return pgoff, 1
        mapping.ra_window = 0
        start, nr_pages = max(pgoff - limit // 2, 0), limit
    nr_pages = min(nr_pages, max_pgoff(k, mapping) - start, max(k.ram.nr_free - k.watermarks.low, 1))
    if not start <= pgoff < start + nr_pages:
        start, nr_pages = pgoff, 1
    mapping.ra_next = start + nr_pages
    return start, nr_pages


def read_pages(k: Kernel, mapping: AddressSpace, start: int, nr_pages: int, *, wanted: int = -1) -> int:
    """Bring [start, start + nr_pages) into the cache, whatever of it is missing, in runs.

    `wanted` is the page that somebody waits for: returns the errno that its read failed with, else 0. The others are
    only hoped for. Stops early when frames run out.
    """
    failed = 0
    run: list[int] = []
    for pgoff in range(start, start + nr_pages):
        if mapping.pages.lookup(pgoff) or pgoff in mapping.swapped:
            continue
        if run and (pgoff != run[-1] + 1 or len(run) == _IOV_MAX):
            failed |= _read_run(k, mapping, run, wanted)
            run = []
        run.append(pgoff)
    if run:
        failed |= _read_run(k, mapping, run, wanted)
    return failed


def _read_run(k: Kernel, mapping: AddressSpace, run: list[int], wanted: int) -> int:
    pfns: list[int] = []
    for _ in run:
        pfn = alloc_page(k)
        if pfn == NO_FRAME:
            break
        pfns.append(pfn)
    run = run[: len(pfns)]
    if not run:
        return 0
    error, nbytes = _preadv(k, mapping, run[0], pfns)
    if error:
        for pfn in pfns:
            put_page(k, pfn)
        if wanted not in run:
            return 0
        # The bad sector may lie in another page of the run.
        return error if len(run) == 1 else _read_run(k, mapping, [wanted], wanted)
    for place, (pgoff, pfn) in enumerate(zip(run, pfns, strict=True)):
        filled = max(nbytes - (place << k.page_shift), 0)
        if filled < k.page_size:
            k.ram.frame(pfn)[filled:] = bytes(k.page_size - filled)
        add_to_page_cache(k, mapping, pgoff, pfn)
        k.mem_map.flags[pfn] |= PG_UPTODATE
        put_page(k, pfn)
    if not mapping.swappable:
        k.vmstat.pgpgin += len(run) << k.page_shift - 10
    return 0


def _preadv(k: Kernel, mapping: AddressSpace, pgoff: int, pfns: list[int]) -> tuple[int, int]:
    """Read consecutive pages into frames; return (errno, bytes read, which may end early at the end of the file).

    A read that stops short before the end of the file is gone on with: the host says so that an error follows.
    """
    inode = mapping.host
    fd = inode.fd_direct
    if fd < 0:
        return 0, 0
    frames = [k.ram.frame(pfn) for pfn in pfns]
    first_byte = pgoff << k.page_shift
    wanted = min(len(pfns) << k.page_shift, mapping.i_size - first_byte)
    done = 0
    while True:
        here = done >> k.page_shift
        parts = [frames[here][done & (k.page_size - 1) :], *frames[here + 1 :]]
        try:
            nbytes = os.preadv(fd, parts, first_byte + done)
        except OSError as error:
            if error.errno != errno.EINVAL or fd == inode.fd_buffered:
                return error.errno or errno.EIO, 0
            fd = inode.fd_buffered
            continue
        done += nbytes
        if done >= wanted or not nbytes:
            return 0, done
