"""remap_file_pages: rearrange which file pages a shared mapping shows, in its page table alone.

Pages are prefaulted for reading (a write prefault would make them all dirty), as since v2.6.38.

Source: Linux v2.6.23 mm/fremap.c: sys_remap_file_pages(), populate_range(), install_file_pte(), zap_pte().
"""

import errno

import numpy as np

from emu.errors import BusError, OutOfMemory
from emu.mm.fault import handle_mm_fault
from emu.mm.filemap import max_pgoff
from emu.mm.kernel import Kernel
from emu.mm.mapcount import page_add_file_rmap, page_remove_rmap, zap_rmap_many
from emu.mm.memory import flush_tlb_vaddrs, pte_flags, pte_pfns, transfer_dirty_bits
from emu.mm.mlock import munlock_page
from emu.mm.mmap import MAP_NONBLOCK, WORD
from emu.mm.page_alloc import put_page
from emu.mm.remap_vmas import remap_with_vmas
from emu.mm.rlimit import require_nonlinear
from emu.mm.vma_ops import i_mmap_insert, i_mmap_remove, require_named
from emu.mm.vma_prot import bind_rmap
from emu.mm_types.events import EventKind
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_LOCKED
from emu.mm_types.pgtable import NoFrameError, U64Array, exchange_ptes, set_pte
from emu.mm_types.vma import VM_EXEC, VM_LOCKED, VM_NONLINEAR, VM_READ, VM_SHARED, VM_WRITE, VmArea

_BULK_PART = 1 << 15
"""Pages of a bulk remap that are worked on at a time."""

_BULK_LEAVES = 1 << 20
"""Leaf tables from the first to the last that a bulk remap touches: where they may be more, it goes page by page."""


def remap_file_pages(k: Kernel, mm: Mm, start: int, nbytes: int, prot: int, pgoff: int, flags: int) -> None:
    """Let the pages of [start, start + nbytes) show the file from page `pgoff` on.

    `start` and `nbytes` are rounded down to pages. Errors: EINVAL (prot not 0, no length, wrap, pgoff that the format
    cannot encode, no shared VMA of a file there, beyond that VMA), EPERM (privilege required), ENOMEM.
    Unknown flags are ignored; MAP_NONBLOCK: no prefault.
    """
    if prot:
        raise OSError(errno.EINVAL, "remap_file_pages takes prot 0: protections are the mapping's")
    asked_end = start + nbytes
    start &= -k.page_size
    nbytes &= -k.page_size
    nr_pages = nbytes >> k.page_shift
    if nr_pages <= 0 or start < 0 or not 0 <= pgoff < WORD - nr_pages:
        raise OSError(errno.EINVAL, "remap_file_pages needs at least one whole page, and numbers that do not wrap")
    mm.mmap_sem.down_read()
    try:
        vma = _find_vma_to_remap(k, mm, start)
        emulated = vma.mapping is not None and k.rmap.remaps_with_vmas(vma.mapping)
        if not emulated:
            _check_range(k, vma, asked_end, pgoff + nr_pages - 1)
        if emulated or not vma.flags & VM_NONLINEAR:
            # By VMAs, since v4.0, even what is there already is mapped anew: what madvise said of it is forgotten.
            anew = emulated and k.rmap.remap_spans_vmas
            if not anew and pgoff == vma.linear_pgoff(start) and start + nbytes <= vma.end:
                return
            mm.mmap_sem.up_read()
            mm.mmap_sem.down_write()
            try:
                if emulated:
                    remap_with_vmas(k, mm, vma, start, nbytes, pgoff, flags)
                    return
                make_nonlinear(k, mm, vma)
            finally:
                mm.mmap_sem.up_write()
                mm.mmap_sem.down_read()
        k.vmstat.nr_remap += nr_pages
        k.locks.visits.total += nr_pages
        if k.events is not None:
            k.emit(EventKind.REMAP, mm=mm.ident, mapping=_ident(vma), vaddr=start, pgoff=pgoff, arg=nr_pages)
        prefault = not flags & MAP_NONBLOCK and bool(vma.flags & (VM_READ | VM_WRITE | VM_EXEC))
        end = start + nbytes
        while start < end:
            _remap_page(k, mm, vma, start, pgoff, prefault=prefault)
            start += k.page_size
            pgoff += 1
    finally:
        mm.mmap_sem.up_read()


def _ident(vma: VmArea) -> int:
    return vma.mapping.ident if vma.mapping is not None else 0


def _check_range(k: Kernel, vma: VmArea, end: int, last_pgoff: int) -> None:
    """Refuse what leaves the VMA, and what the format's file PTEs cannot hold; `end` as asked for, not rounded."""
    if end > vma.end:
        raise OSError(errno.EINVAL, f"the range up to {end:#x} does not lie within one mapping")
    if last_pgoff > k.fmt.max_pgoff:
        raise OSError(errno.EINVAL, f"page offset {last_pgoff} does not fit a {k.fmt.name} file PTE")


def _find_vma_to_remap(k: Kernel, mm: Mm, start: int) -> VmArea:
    vma = mm.vmas.find(start)
    k.locks.visits.total += mm.map_count.bit_length()
    if vma is None or start < vma.start:
        raise OSError(errno.EINVAL, f"nothing is mapped at {start:#x}")
    if not vma.flags & VM_SHARED or vma.mapping is None:
        raise OSError(errno.EINVAL, f"the mapping at {start:#x} is not a shared mapping of a file")
    if k.options.remap_privileged and not mm.privileged:
        raise OSError(errno.EPERM, "remap_file_pages needs privilege on this machine")
    return vma


def make_nonlinear(k: Kernel, mm: Mm, vma: VmArea) -> None:
    """Convert a linear VMA, with the PTEs that it has; it stays nonlinear for good.

    EPERM beyond the machine's bound on nonlinear pages of an unprivileged process, if there is one; ENOMEM where the
    reverse map cannot name so many.
    """
    require_nonlinear(k, mm, VM_NONLINEAR, vma.nr_pages)
    require_named(k, VM_NONLINEAR, vma.nr_pages)
    i_mmap_remove(vma)
    vma.flags |= VM_NONLINEAR
    i_mmap_insert(vma)
    mm.nr_nonlinear += vma.nr_pages
    bind_rmap(k, vma)
    k.rmap.vma_converted(vma)


def _remap_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pgoff: int, *, prefault: bool) -> None:
    """Put a file PTE at `vaddr`, or at once the page, if it is to be prefaulted and is cached."""
    pt = mm.pt
    leaf = pt.leaves.get(vaddr >> pt.leaf_shift)
    if leaf is None:
        try:
            leaf = pt.leaf(vaddr)
        except NoFrameError:
            raise OSError(errno.ENOMEM, "no frame for a page table") from None
    old = leaf[vaddr >> k.page_shift & pt.leaf_mask]
    fmt = k.fmt
    pfn = _cached_page(k, vma, pgoff) if prefault else 0
    new = pfn << fmt.pfn_shift | vma.page_prot if pfn else fmt.pgoff_to_pte(pgoff)
    if pfn:
        k.mem_map.refcount[pfn] += 1
    if old & (fmt.present_mask | fmt.protnone_mask):
        _replace_present(k, mm, vma, vaddr, old, new)
    else:
        set_pte(mm, vma, vaddr, old, new)
    if pfn:
        page_add_file_rmap(k, mm, pfn)
        k.vmstat.pgfault += 1
    elif prefault:
        _prefault(k, mm, vma, vaddr)


def _cached_page(k: Kernel, vma: VmArea, pgoff: int) -> int:
    """Return the page at `pgoff` if it can be mapped without a fault, else 0."""
    mapping = vma.mapping
    assert mapping is not None
    pfn = mapping.pages.lookup(pgoff)
    if k.mem_map.flags[pfn] & PG_LOCKED or vma.flags & VM_LOCKED or pgoff >= max_pgoff(k, mapping):
        return 0
    return pfn


def _prefault(k: Kernel, mm: Mm, vma: VmArea, vaddr: int) -> None:
    """Fault a remapped page in for reading; beyond the end of the file its file PTE stays for a later SIGBUS."""
    try:
        handle_mm_fault(k, mm, vma, vaddr, write=False)
    except BusError:
        return
    except OutOfMemory as error:
        raise OSError(errno.ENOMEM, str(error)) from None


def _replace_present(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, old: int, new: int) -> None:
    """Replace a present PTE: flush, hand over its dirty bit, let go of its page (zap_pte)."""
    fmt = k.fmt
    set_pte(mm, vma, vaddr, old, new)
    k.flush_tlb_page(mm, vaddr)
    old_pfn = fmt.pte_pfn(old)
    if fmt.pte_dirty(old):
        # Not vma.mapping: the legacy path may have left a page mapped that is no longer in its file.
        mapping = k.mappings.get(k.mem_map.mapping[old_pfn])
        if mapping is not None:
            k.set_page_dirty(k, mapping, old_pfn)
    if vma.flags & VM_LOCKED:
        munlock_page(k, old_pfn)
    page_remove_rmap(k, mm, old_pfn)
    put_page(k, old_pfn)


def remap_file_pages_bulk(k: Kernel, mm: Mm, vaddrs: U64Array, pgoffs: U64Array) -> None:
    """Remap many single pages of one VMA at once, without prefault: fremap's own call, as if MAP_NONBLOCK, one by one.

    Shapes: both (n,); vaddrs on page borders; of a vaddr given twice the last one counts. Errors as remap_file_pages.
    """
    if vaddrs.shape != pgoffs.shape or vaddrs.ndim != 1:
        raise OSError(errno.EINVAL, f"vaddrs {vaddrs.shape} and pgoffs {pgoffs.shape} are not two arrays of one length")
    if not len(vaddrs):
        return
    low, high = int(vaddrs.min()), int(vaddrs.max())
    if bool((vaddrs & np.uint64(k.page_size - 1)).any()):
        raise OSError(errno.EINVAL, "remap_file_pages_bulk takes addresses on page borders")
    mm.mmap_sem.down_write()
    try:
        vma = _find_vma_to_remap(k, mm, low)
        if vma.mapping is not None and k.rmap.remaps_with_vmas(vma.mapping):
            for vaddr, pgoff in zip(vaddrs.tolist(), pgoffs.tolist(), strict=True):
                _remap_one_with_vmas(k, mm, vaddr, pgoff)
            return
        _check_range(k, vma, high + k.page_size, int(pgoffs.max()))
        if not vma.flags & VM_NONLINEAR:
            linear = ((vaddrs - np.uint64(vma.start)) >> np.uint64(k.page_shift)) + np.uint64(vma.pgoff)
            if bool((linear == pgoffs).all()):
                return
            make_nonlinear(k, mm, vma)
        _install_file_ptes(k, mm, vma, vaddrs, pgoffs)
        if k.events is not None:
            for vaddr, pgoff in zip(vaddrs.tolist(), pgoffs.tolist(), strict=True):
                k.emit(EventKind.REMAP, mm=mm.ident, mapping=_ident(vma), vaddr=vaddr, pgoff=pgoff, arg=1)
    finally:
        mm.mmap_sem.up_write()


def _remap_one_with_vmas(k: Kernel, mm: Mm, vaddr: int, pgoff: int) -> None:
    vma = _find_vma_to_remap(k, mm, vaddr)
    if vma.linear_pgoff(vaddr) != pgoff or k.rmap.remap_spans_vmas:
        remap_with_vmas(k, mm, vma, vaddr, k.page_size, pgoff, MAP_NONBLOCK)


def _install_file_ptes(k: Kernel, mm: Mm, vma: VmArea, vaddrs: U64Array, pgoffs: U64Array) -> None:
    """Write file PTEs, part by part, so that what is worked on stays in the host's cache."""
    if int(vaddrs.max() - vaddrs.min()) >> mm.pt.leaf_shift >= _BULK_LEAVES:
        # Far apart in a sparse mapping: an array of all leaf tables between them would not fit anywhere.
        for vaddr, pgoff in zip(vaddrs.tolist(), pgoffs.tolist(), strict=True):
            _remap_page(k, mm, vma, vaddr, pgoff, prefault=False)
        k.vmstat.nr_remap += len(vaddrs)
        return
    first, bases = _leaf_tables(mm, vaddrs)
    for begin in range(0, len(vaddrs), _BULK_PART):
        where = np.require(vaddrs[begin : begin + _BULK_PART], np.uint64, ["C", "W"])
        news = k.fmt.pgoff_to_pte_bulk(pgoffs[begin : begin + _BULK_PART])
        olds, seen = exchange_ptes(mm, vma, bases, first, where, news)
        k.vmstat.nr_remap += len(where)
        if seen & (k.fmt.present_mask | k.fmt.protnone_mask):
            _let_go(k, mm, vma, where, olds)


def _leaf_tables(mm: Mm, vaddrs: U64Array) -> tuple[int, U64Array]:
    """Make the leaf tables that the addresses need; return the first one's key, and where each lies (leaf_bases)."""
    shift = np.uint64(mm.pt.leaf_shift)
    first, last = int(vaddrs.min() >> shift), int(vaddrs.max() >> shift)
    needed = np.zeros(last - first + 1, np.bool_)
    for begin in range(0, len(vaddrs), _BULK_PART):
        needed[(vaddrs[begin : begin + _BULK_PART] >> shift) - np.uint64(first)] = True
    try:
        for key in np.flatnonzero(needed).tolist():
            mm.pt.leaf((first + key) << mm.pt.leaf_shift)
    except NoFrameError:
        raise OSError(errno.ENOMEM, "no frame for a page table") from None
    return first, mm.pt.leaf_bases(first, last)


def _let_go(k: Kernel, mm: Mm, vma: VmArea, vaddrs: U64Array, olds: U64Array) -> None:
    """Flush what was present, hand over dirty bits, and let go of the pages (zap_pte, for many)."""
    present, _ = pte_flags(k, olds)
    flush_tlb_vaddrs(k, mm, vaddrs[present])
    transfer_dirty_bits(k, olds[present])
    pfns = pte_pfns(k, olds[present])
    if vma.flags & VM_LOCKED:
        for pfn in np.unique(pfns).tolist():
            munlock_page(k, pfn)
    zap_rmap_many(k, mm, pfns)
