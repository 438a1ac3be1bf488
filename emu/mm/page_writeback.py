"""Dirty pages: marking, accounting, writing out, and throttling those who make them.

Page states: PG_dirty with tag DIRTY; then under I/O PG_writeback with tag WRITEBACK (and dirty again if stored to
meanwhile). A failed write makes the page dirty again and leaves its error in mapping.wb_err: nothing is dropped.

Source: Linux v2.6.23 mm/page-writeback.c: write_cache_pages(), balance_dirty_pages(), set_page_dirty(),
test_set_page_writeback(), test_clear_page_writeback(); the control law is fsbackend.throttle's (v4.9).
"""

import errno
import os

from emu.mm.kernel import RATELIMIT_PAGES_MIN, Kernel
from emu.mm.mkclean import clear_page_dirty_for_io
from emu.mm.page_alloc import lock_page, put_page, unlock_page
from emu.mm.trace import trace_dirty_state
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.events import EventKind
from emu.mm_types.mm import Mm, dirty_poll_pages
from emu.mm_types.page import ACTIVE, INACTIVE, PG_DIRTY, PG_WRITEBACK
from emu.mm_types.page_tree import TAG_DIRTY, TAG_WRITEBACK
from fsbackend.throttle import Thresholds, dirty_limits, dirty_poll_interval

MAX_RUN = 256
"""Most pages of one write, 1 MiB of 4 KiB pages."""

_SCAN_BATCH = 4096

_EXCEEDED_POLL_KIB = 32
"""A device over its limit is looked at this often (v4.9), or, if a page is larger, at each page."""


def set_page_dirty(k: Kernel, mapping: AddressSpace, pfn: int) -> bool:
    """Mark a page dirty and account it; False if it was already (__set_page_dirty_nobuffers)."""
    mem_map = k.mem_map
    flags = mem_map.flags[pfn]
    if flags & PG_DIRTY:
        return False
    mem_map.flags[pfn] = flags | PG_DIRTY
    if not mapping.writeback:
        return True
    mapping.pages.set_tag(mem_map.index[pfn], TAG_DIRTY)
    if mapping.account_dirty:
        vmstat = k.vmstat
        vmstat.nr_dirty += 1
        vmstat.nr_dirtied += 1
        mapping.bdi.account_page_dirtied()
        k.bdp_ratelimits[k.cpu] += 1
        current = k.current[k.cpu]
        if current is not None and not k.kthreads.flusher_running:
            current.nr_dirtied += 1
    if mapping.dirtied_when_s is None:
        mapping.dirtied_when_s = k.clock.now()
        k.dirty_mappings[mapping] = None
    if k.events is not None:
        pgoff, nr_dirty = mem_map.index[pfn], k.vmstat.nr_dirty
        k.emit(EventKind.DIRTIED, mapping=mapping.ident, pfn=pfn, pgoff=pgoff, arg=nr_dirty)
    return True


def write_cache_pages(
    k: Kernel,
    mapping: AddressSpace,
    start: int,
    stop: int,
    *,
    sync: bool,
    nr_to_write: int = 1 << 62,
    cyclic: bool = False,
) -> int:
    """Submit the dirty pages in [start, stop), in runs, each at most once; return how many were submitted.

    With `sync` a page that is under writeback is waited for and written again if it is dirty; without, it is left to
    the next round. `cyclic`: remember where it stopped, for the flusher's next turn.
    """
    submitted = 0
    place = start
    while place < stop and submitted < nr_to_write:
        found = mapping.pages.find_tagged(TAG_DIRTY, place, stop, min(_SCAN_BATCH, nr_to_write - submitted))
        if not found:
            break
        place = found[-1] + 1
        run: list[int] = []
        for pgoff in found:
            if run and (pgoff != run[-1] + 1 or len(run) == MAX_RUN):
                submitted += _submit_run(k, mapping, run)
                run = []
            if _ready_for_io(k, mapping, pgoff, sync=sync):
                run.append(pgoff)
        if run:
            submitted += _submit_run(k, mapping, run)
    if cyclic:
        mapping.writeback_index = place
    return submitted


def _ready_for_io(k: Kernel, mapping: AddressSpace, pgoff: int, *, sync: bool) -> bool:
    """Take a page from dirty to under writeback; False if there is nothing to write."""
    pfn = mapping.pages.lookup(pgoff)
    if not pfn:
        return False
    if k.mem_map.flags[pfn] & PG_WRITEBACK:
        if not sync:
            return False
        wait_on_page_writeback(k, pfn)
        pfn = mapping.pages.lookup(pgoff)
        if not pfn:
            return False
    lock_page(k, pfn)
    ready = clear_page_dirty_for_io(k, mapping, pfn)
    if ready:
        _set_page_writeback(k, mapping, pfn)
    elif not k.mem_map.flags[pfn] & PG_DIRTY:
        mapping.pages.clear_tag(pgoff, TAG_DIRTY)
    unlock_page(k, pfn)
    return ready


def _set_page_writeback(k: Kernel, mapping: AddressSpace, pfn: int) -> None:
    """Mark a page as under I/O, pinned until that ends (test_set_page_writeback)."""
    mem_map = k.mem_map
    pgoff = mem_map.index[pfn]
    mem_map.flags[pfn] |= PG_WRITEBACK
    mem_map.refcount[pfn] += 1
    mapping.pages.set_tag(pgoff, TAG_WRITEBACK)
    mapping.pages.clear_tag(pgoff, TAG_DIRTY)
    k.vmstat.nr_writeback += 1
    if mapping.account_dirty:
        mapping.bdi.start_writeback()


def _submit_run(k: Kernel, mapping: AddressSpace, run: list[int]) -> int:
    """Submit consecutive pages that are under writeback as one write; return how many."""
    pfns = [mapping.pages.lookup(pgoff) for pgoff in run]
    frames = [k.ram.frame(pfn) for pfn in pfns]
    inode = mapping.host
    fd_direct, fd_buffered = inode.fd_direct, inode.fd_buffered
    first_byte = run[0] << k.page_shift
    # Never past i_size: what a store put behind the end of the file stays in memory.
    nbytes = min(len(run) << k.page_shift, max(mapping.i_size - first_byte, 0))
    if k.events is not None:
        by = k.current[k.cpu] if not k.kthreads.flusher_running else None
        mm = by.ident if by is not None else 0
        k.emit(EventKind.WRITEBACK_START, mm=mm, mapping=mapping.ident, pfn=pfns[0], pgoff=run[0], arg=len(run))
        trace_dirty_state(k, mapping.bdi, global_dirty_limits(k))
    k.vmstat.nr_writeback_io += 1

    def job() -> int:
        return _pwritev(fd_direct, fd_buffered, frames, first_byte, nbytes, k.page_size)

    def done(error: int) -> None:
        _end_run(k, mapping, run, pfns, error)

    k.io.submit(job, done, nbytes)
    return len(run)


def _pwritev(
    fd_direct: int, fd_buffered: int, frames: list[memoryview], first_byte: int, nbytes: int, page_size: int
) -> int:
    """Write `nbytes` from frames; return 0 or an errno. Runs on a pool thread: touches no kernel state.

    Whole pages go past the host's cache, a tail through the buffered descriptor, for O_DIRECT takes no part of a block.
    """
    try:
        whole = nbytes // page_size
        tail = nbytes - whole * page_size
        if whole:
            _write_all(fd_direct, fd_buffered, frames[:whole], first_byte)
        if tail:
            _write_all(fd_buffered, fd_buffered, [frames[whole][:tail]], first_byte + whole * page_size)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _write_all(fd: int, fd_buffered: int, parts: list[memoryview], first_byte: int) -> None:
    """Write all parts, going on after a short write; through the buffered descriptor where O_DIRECT refuses."""
    left = sum(len(part) for part in parts)
    while left:
        try:
            written = os.pwritev(fd, parts, first_byte)
        except OSError as error:
            if error.errno != errno.EINVAL or fd == fd_buffered:
                raise
            fd = fd_buffered
            continue
        left -= written
        first_byte += written
        while parts and written >= len(parts[0]):
            written -= len(parts[0])
            parts = parts[1:]
        if parts and written:
            parts = [parts[0][written:], *parts[1:]]


def _end_run(k: Kernel, mapping: AddressSpace, run: list[int], pfns: list[int], error: int) -> None:
    """End the writeback of a run (end_page_writeback); after an error its pages are dirty again."""
    mem_map = k.mem_map
    for pgoff, pfn in zip(run, pfns, strict=True):
        flags = mem_map.flags[pfn]
        mem_map.flags[pfn] = flags & ~PG_WRITEBACK
        mapping.pages.clear_tag(pgoff, TAG_WRITEBACK)
        if mapping.account_dirty:
            # A failed page is accounted as dirty once more by set_page_dirty.
            mapping.bdi.end_writeback(failed=bool(error))
            mapping.bdi.nr_dirty -= bool(error)
        if error and set_page_dirty(k, mapping, pfn):
            _account_page_redirty(k, mapping)
        put_page(k, pfn)
    k.vmstat.nr_writeback -= len(run)
    k.kthreads.audit_wanted = True
    if error:
        k.vmstat.nr_write_errors += 1
        mapping.wb_err = (mapping.wb_err[0] + 1, error)
    else:
        mapping.nr_unsynced += len(run)
        k.vmstat.nr_written += len(run)
        k.vmstat.pgpgout += len(run) << k.page_shift - 10
    if k.events is not None:
        k.emit(EventKind.WRITEBACK_END, mapping=mapping.ident, pfn=pfns[0], pgoff=run[0], arg=len(run), flags=error)
        trace_dirty_state(k, mapping.bdi, global_dirty_limits(k))


def _account_page_redirty(k: Kernel, mapping: AddressSpace) -> None:
    """Take back what set_page_dirty counted of a page that no process dirtied anew (v4.9, of the same name)."""
    if mapping.account_dirty:
        k.vmstat.nr_dirtied -= 1
        mapping.bdi.throttle.nr_dirtied -= 1
        current = k.current[k.cpu]
        if current is not None and not k.kthreads.flusher_running:
            current.nr_dirtied -= 1


def wait_on_page_writeback(k: Kernel, pfn: int) -> None:
    """Reap I/O until the page is no longer under writeback."""
    while k.mem_map.flags[pfn] & PG_WRITEBACK:
        k.io.wait_one()


def filemap_fdatawait(k: Kernel, mapping: AddressSpace) -> None:
    """Reap I/O until no page of the file is under writeback."""
    while mapping.pages.nr_tagged[TAG_WRITEBACK]:
        k.io.wait_one()


def mark_clean_if_so(k: Kernel, mapping: AddressSpace) -> None:
    """Take a file without dirty pages off the list of dirty ones."""
    if mapping.dirtied_when_s is not None and not mapping.pages.nr_tagged[TAG_DIRTY]:
        mapping.dirtied_when_s = None
        k.dirty_mappings.pop(mapping, None)


def vfs_fsync_range(k: Kernel, mapping: AddressSpace, start: int, stop: int) -> int:
    """Write back the dirty pages in [start, stop), wait, and sync the host file; return 0 or an errno."""
    if not mapping.writeback or mapping.host.fd_buffered < 0:
        return 0
    errors_before = mapping.wb_err[0]
    write_cache_pages(k, mapping, start, stop, sync=True)
    filemap_fdatawait(k, mapping)
    mark_clean_if_so(k, mapping)
    if mapping.wb_err[0] != errors_before:
        return mapping.wb_err[1]
    return host_fsync(k, mapping)


def host_fsync(k: Kernel, mapping: AddressSpace) -> int:
    """fdatasync(2) the host file; return 0 or an errno."""
    k.vmstat.nr_fsync += 1
    begin_s = k.clock.now()
    try:
        os.fdatasync(mapping.host.fd_buffered)
    except OSError as error:
        return error.errno or errno.EIO
    mapping.nr_unsynced = 0
    if k.events is not None:
        duration_ns = int((k.clock.now() - begin_s) * 1e9)
        by = k.current[k.cpu]
        mm = by.ident if by is not None else 0
        k.emit(
            EventKind.FSYNC, mm=mm, mapping=mapping.ident, arg=duration_ns // 1000, duration_ns=duration_ns
        )
    return 0


def global_dirty_limits(k: Kernel) -> Thresholds:
    """Return the thresholds for the memory that could be dirty now."""
    unmapped_ratio = 100 - (k.vmstat.nr_mapped + k.vmstat.nr_anon_pages) * 100 // k.ram.nr_frames
    return dirty_limits(k.params, _global_dirtyable_memory(k), k.page_size, unmapped_ratio=unmapped_ratio)


def _global_dirtyable_memory(k: Kernel) -> int:
    """Return the free frames above the reserve and the file pages that reclaim can free (v4.9, of the same name).

    Not those of files without writeback, mlocked ones and shared anonymous memory, nor the reserve: what reclaim
    could never clean nobody may dirty. The old rule takes all that is free or cached.
    """
    if k.params.legacy:
        return k.ram.nr_free + k.vmstat.nr_file_pages
    nr_free = max(k.ram.nr_free - k.watermarks.high, 0)
    return nr_free + k.lru.nr_file[ACTIVE] + k.lru.nr_file[INACTIVE] + 1


def balance_dirty_pages_ratelimited(k: Kernel, mm: Mm, mapping: AddressSpace) -> None:
    """Throttle a process that dirties pages: wakes the flusher and leaves a pause in k.pause_s for the scheduler.

    Called with no page locked. Looks at the limits once the process has dirtied nr_dirtied_pause pages, or all together
    ratelimit_pages on this CPU, and charges it for its own, and for what processes leaked that have exited.
    Source: Linux v4.9 mm/page-writeback.c: balance_dirty_pages_ratelimited().
    """
    if not mapping.account_dirty:
        return
    bdi = mapping.bdi
    ratelimit = mm.nr_dirtied_pause
    if bdi.throttle.dirty_exceeded:
        ratelimit = min(ratelimit, _EXCEEDED_POLL_KIB >> k.page_shift - 10)
    if k.bdp_ratelimits[k.cpu] >= k.ratelimit_pages:
        ratelimit = 0
    if k.dirty_throttle_leaks and mm.nr_dirtied < ratelimit:
        leaked = min(k.dirty_throttle_leaks, ratelimit - mm.nr_dirtied)
        k.dirty_throttle_leaks -= leaked
        mm.nr_dirtied += leaked
    if mm.nr_dirtied < ratelimit:
        return
    k.bdp_ratelimits[k.cpu] = 0
    dirtied, mm.nr_dirtied = mm.nr_dirtied, 0
    dirty = k.vmstat.nr_dirty + k.vmstat.nr_writeback
    limits = global_dirty_limits(k)
    if dirty > limits.background:
        k.kthreads.flusher_wanted = True
    mm.nr_dirtied_pause = min(dirty_poll_interval(dirty, limits.freerun), dirty_poll_pages(k.page_shift))
    k.ratelimit_pages = max(limits.dirty // (len(k.cpus) * 32), RATELIMIT_PAGES_MIN)
    pause_s = bdi.balance(k.clock.now(), dirtied, dirty, limits, mm.dirty_task)
    if pause_s > 0:
        k.kthreads.flusher_wanted = True
        k.pause_s = max(k.pause_s, pause_s)
        mm.pause_bdi = bdi
