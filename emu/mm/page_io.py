"""Moving pages between memory and swap areas.

A slot's page lies at slot * page size in the area's file. Writes go through the machine's I/O queue; a page stays in
the swap cache, under PG_writeback, until its write is done. Reads are waited for.

Source: Linux v2.6.20 mm/page_io.c: swap_writepage(), end_swap_bio_write(), swap_readpage(); v2.6.20 mm/memory.c:
swapin_readahead().
"""

import errno
import os

from emu.hw.swapops import swp_entry, swp_offset, swp_type
from emu.mm.kernel import Kernel
from emu.mm.page_alloc import NO_FRAME, alloc_page, put_page
from emu.mm.swap_state import add_to_swap_cache, free_swap_cache
from emu.mm_types.events import EventKind
from emu.mm_types.page import ACTIVE, INACTIVE, PG_ANON, PG_DIRTY, PG_LRU, PG_UPTODATE, PG_WRITEBACK
from emu.mm_types.swap import SwapInfo


def swap_writepage(k: Kernel, pfn: int) -> None:
    """Start writing a locked, dirty page of the swap cache to its slot."""
    mem_map = k.mem_map
    entry = mem_map.private[pfn]
    fd, first_byte = k.swap.area_of(entry).fd, swp_offset(entry) << k.page_shift
    frame = k.ram.frame(pfn)
    mem_map.flags[pfn] = mem_map.flags[pfn] & ~PG_DIRTY | PG_WRITEBACK
    mem_map.refcount[pfn] += 1
    k.vmstat.nr_writeback += 1
    k.vmstat.pswpout += 1

    def job() -> int:
        try:
            done = os.pwritev(fd, [frame], first_byte)
        except OSError as error:
            return error.errno or errno.EIO
        return 0 if done == len(frame) else errno.EIO

    k.io.submit(job, lambda error: _end_swap_write(k, pfn, error), k.page_size)


def _end_swap_write(k: Kernel, pfn: int, error: int) -> None:
    """Finish a write: after an error the page is dirty again, and young, so that it is not tried at once.

    A page that lost its last user meanwhile goes now; Linux leaves it to reclaim.
    """
    mem_map = k.mem_map
    mem_map.flags[pfn] &= ~PG_WRITEBACK
    k.vmstat.nr_writeback -= 1
    if error:
        mem_map.flags[pfn] |= PG_DIRTY
        k.vmstat.nr_write_errors += 1
        if mem_map.flags[pfn] & PG_LRU:
            k.lru.move(pfn, ACTIVE)
    else:
        k.vmstat.pgpgout += k.page_size >> 10
    free_swap_cache(k, pfn)
    put_page(k, pfn)


def swapin_readahead(k: Kernel, entry: int) -> int:
    """Read the page of an entry into the swap cache, with those around it that are out, too; return its errno or 0.

    The window is 2**page_cluster slots, aligned. The others are only hoped for: where frames are short, no reclaim is
    done for them, which might take the very page that is wanted.
    """
    area, wanted = k.swap.area_of(entry), swp_offset(entry)
    window = range(wanted >> k.options.page_cluster << k.options.page_cluster, area.max_slots)
    slots = [offset for offset in window[: 1 << k.options.page_cluster] if _is_out(k, area, offset)]
    if k.ram.nr_free - len(slots) <= k.watermarks.low:
        slots = [wanted]
    failed = 0
    while slots:
        run = [offset for place, offset in enumerate(slots) if offset == slots[0] + place]
        failed |= _read_run(k, area, run, wanted)
        slots = slots[len(run) :]
    return failed


def _is_out(k: Kernel, area: SwapInfo, offset: int) -> bool:
    return area.is_used(offset) and swp_entry(area.swap_type, offset) not in k.swap.cache


def _read_run(k: Kernel, area: SwapInfo, run: list[int], wanted: int) -> int:
    """Read adjoining slots; where that fails, the one that is wanted alone. No frame for it: it is not there then."""
    pfns = [alloc_page(k) for _ in run]
    if pfns == [NO_FRAME]:
        return 0
    error = _read_slots(k, area, run[0], pfns)
    if error:
        for pfn in pfns:
            put_page(k, pfn)
        if wanted not in run:
            return 0
        return error if len(run) == 1 else _read_run(k, area, [wanted], wanted)
    for offset, pfn in zip(run, pfns, strict=True):
        _enter(k, area, offset, pfn, ACTIVE if offset == wanted else INACTIVE)
    return 0


def _enter(k: Kernel, area: SwapInfo, offset: int, pfn: int, which: int) -> None:
    """Put a page just read into the swap cache, which counts the slot, and on a list."""
    entry = swp_entry(area.swap_type, offset)
    k.mem_map.flags[pfn] |= PG_ANON | PG_UPTODATE
    k.swap.swap_duplicate(entry)
    add_to_swap_cache(k, pfn, entry)
    k.lru.add(pfn, which)
    k.vmstat.pswpin += 1
    k.vmstat.pgpgin += k.page_size >> 10
    if k.events is not None:
        k.emit(EventKind.SWAPIN, pfn=pfn, pgoff=offset, arg=swp_type(entry))
    put_page(k, pfn)


def _read_slots(k: Kernel, area: SwapInfo, offset: int, pfns: list[int]) -> int:
    """Read adjoining slots into frames; a read that comes up short is an error."""
    frames = [k.ram.frame(pfn) for pfn in pfns]
    try:
        done = os.preadv(area.fd, frames, offset << k.page_shift)
    except OSError as error:
        return error.errno or errno.EIO
    return 0 if done == len(pfns) << k.page_shift else errno.EIO
