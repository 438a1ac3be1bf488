"""The flusher kernel thread: periodic writeback of old data, background writeback above the threshold.

It runs when the scheduler gives it a turn, does a bounded amount of work, and returns. Files take turns.

Source: Linux v2.6.23 mm/page-writeback.c: background_writeout(), wb_kupdate(); v3.6 fs/fs-writeback.c: wb_writeback();
v4.9 mm/page-writeback.c: wb_over_bg_thresh().
"""

import math

from emu.mm.kernel import Kernel
from emu.mm.page_writeback import global_dirty_limits, host_fsync, mark_clean_if_so, write_cache_pages
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.events import EventKind
from fsbackend.bdi import BackingDevInfo
from fsbackend.throttle import QUIET_S

MAX_WRITEBACK_PAGES = 1024
"""Most pages of one file in one turn."""

_BACKGROUND, _PERIODIC = 1, 2


def wb_do_writeback(k: Kernel) -> None:
    """Do what is due: old data every `periodic_s`, and down to the background threshold if that is exceeded."""
    kthreads = k.kthreads
    if kthreads.flusher_running:
        return
    kthreads.flusher_running = True
    now_s = k.clock.now()
    nr_before, flags = k.vmstat.nr_writeback_io, 0
    try:
        for bdi in k.bdis.values():
            # Dirty pages that nobody wrote for a while say nothing of the device; pages under I/O do.
            quiet_s = math.inf if bdi.nr_writeback else QUIET_S
            bdi.throttle.update(now_s, busy=bool(bdi.nr_writeback or bdi.nr_dirty), quiet_s=quiet_s)
        _divide_the_limit(k)
        if now_s >= kthreads.flusher_next_s:
            kthreads.flusher_next_s = now_s + k.params.periodic_s
            flags |= _PERIODIC
            _write_expired(k, now_s - k.params.expire_s)
            kthreads.flusher_wanted |= _any_over_bg_thresh(k)
        if kthreads.flusher_wanted:
            flags |= _BACKGROUND
            kthreads.flusher_wanted = _write_background(k)
    finally:
        kthreads.flusher_running = False
        if k.events is not None and k.vmstat.nr_writeback_io != nr_before:
            duration_ns = int((k.clock.now() - now_s) * 1e9)
            nr_ios = k.vmstat.nr_writeback_io - nr_before
            k.emit(EventKind.FLUSHER, flags=flags, arg=nr_ios, duration_ns=duration_ns)


def _divide_the_limit(k: Kernel) -> None:
    """Give each device the part of the dirty limit that it has of the writeout, among those that have any to do.

    Linux v4.9 __wb_calc_thresh() takes the fraction of recent completions; here, as between mounts, it is bandwidths.
    """
    bdis = list(k.bdis.values())
    total = sum(bdi.throttle.avg_write_bandwidth for bdi in bdis if bdi.nr_reclaimable_and_writeback)
    for bdi in bdis:
        own = bdi.throttle.avg_write_bandwidth
        bdi.share = own / (total if bdi.nr_reclaimable_and_writeback else total + own)


def _write_expired(k: Kernel, older_than_s: float) -> None:
    """Write the files that have been dirty for longer than the expiry (wb_kupdate)."""
    for mapping in list(k.dirty_mappings):
        if mapping.dirtied_when_s is not None and mapping.dirtied_when_s <= older_than_s:
            write_cache_pages(k, mapping, 0, 1 << 62, sync=False)
            mark_clean_if_so(k, mapping)


def _wb_over_bg_thresh(k: Kernel, bdi: BackingDevInfo) -> bool:
    """Tell whether a device has to write: all dirty pages are too many, or its own are for its part of the limit.

    The second alone makes a device go on that is paused for its own limit while the rest of memory is empty.
    """
    limits = global_dirty_limits(k)
    return k.vmstat.nr_dirty > limits.background or bdi.nr_dirty > bdi.thresholds(limits).background


def _any_over_bg_thresh(k: Kernel) -> bool:
    return any(_wb_over_bg_thresh(k, bdi) for bdi in k.bdis.values())


def _write_background(k: Kernel) -> bool:
    """Give each dirty file one turn while its device is over; return whether another round is needed."""
    wrote = False
    for mapping in list(k.dirty_mappings):
        if _wb_over_bg_thresh(k, mapping.bdi):
            wrote |= bool(_write_some(k, mapping))
    return wrote and _any_over_bg_thresh(k)


def _write_some(k: Kernel, mapping: AddressSpace) -> int:
    """Write up to MAX_WRITEBACK_PAGES of a file, from where the last turn stopped."""
    start = mapping.writeback_index
    nr_pages = write_cache_pages(k, mapping, start, 1 << 62, sync=False, nr_to_write=MAX_WRITEBACK_PAGES, cyclic=True)
    if nr_pages < MAX_WRITEBACK_PAGES and start:
        left = MAX_WRITEBACK_PAGES - nr_pages
        nr_pages += write_cache_pages(k, mapping, 0, start, sync=False, nr_to_write=left, cyclic=True)
    mark_clean_if_so(k, mapping)
    # Still dirty: to the end of the list, behind the files that waited.
    if mapping in k.dirty_mappings:
        del k.dirty_mappings[mapping]
        k.dirty_mappings[mapping] = None
    return nr_pages


def sync_all(k: Kernel) -> list[tuple[AddressSpace, int]]:
    """Write back every dirty page of every file, wait, and sync the files; return those that failed, with errno."""
    failed: dict[AddressSpace, int] = {}
    # What the flusher has in flight may yet fail, and be dirty again.
    k.io.wait_all()
    for mapping in list(k.dirty_mappings):
        errors_before = mapping.wb_err[0]
        write_cache_pages(k, mapping, 0, 1 << 62, sync=True)
        k.io.wait_all()
        mark_clean_if_so(k, mapping)
        if mapping.wb_err[0] != errors_before:
            failed[mapping] = mapping.wb_err[1]
    k.io.wait_all()
    for mapping in list(k.dirty_mappings):
        mark_clean_if_so(k, mapping)
    for mapping in k.mappings.values():
        if mapping.nr_unsynced and mapping not in failed:
            error = host_fsync(k, mapping)
            if error:
                failed[mapping] = error
    return list(failed.items())
