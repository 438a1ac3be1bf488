"""mremap: shrink, grow in place, or move a mapping with its PTEs.

A nonlinear VMA keeps its page order: its PTEs, file PTEs included, move as they are. What it gains shows the file
pages that a linear mapping of that length would show.

Source: Linux v2.6.20 mm/mremap.c: do_mremap(), move_vma(), move_page_tables(); in which order arguments are refused,
and how many mappings a move leaves, Linux v6.17 mm/mremap.c: check_mremap_params(), check_prep_vma(), prep_move_vma();
MREMAP_DONTUNMAP, dontunmap_complete().
"""

import contextlib
import errno

import numpy as np

from emu.errors import BusError, OutOfMemory
from emu.mm.anon_vma import anon_vma_unlink
from emu.mm.kernel import Kernel
from emu.mm.memory import flush_tlb_vaddrs, pte_flags
from emu.mm.mmap import MAP_FIXED, WORD, align_word, do_munmap, get_unmapped_area, munlock_vma_pages
from emu.mm.overcommit import vm_enough_memory, vm_unacct_memory
from emu.mm.rlimit import require_lockable, require_nonlinear, require_room
from emu.mm.syscalls import make_pages_present
from emu.mm.vma_ops import isolate, merge_around, new_vma, require_named, vma_link
from emu.mm_types.mm import Mm
from emu.mm_types.pgtable import NoFrameError, set_pte, set_ptes
from emu.mm_types.vma import VM_ACCOUNT, VM_LOCKED, VM_LOCKED_MASK, VM_MAYSHARE, VM_NONLINEAR, VmArea

MREMAP_MAYMOVE = 1
MREMAP_FIXED = 2
MREMAP_DONTUNMAP = 4

_MAPS_FOR_A_MOVE = 3


def do_mremap(k: Kernel, mm: Mm, vaddr: int, old_nbytes: int, new_nbytes: int, flags: int, new_vaddr: int = 0) -> int:
    """Change the length of a mapping, perhaps its place; return where it is now.

    With MREMAP_DONTUNMAP the old range stays mapped, without its pages, and `new_vaddr` is a hint.
    Errors: EINVAL (flags, borders, overlap, no new length), EFAULT (the old range is not one mapping), ENOMEM (no room,
    or it would have to move and may not).
    """
    old_nbytes, new_nbytes = align_word(k, old_nbytes), align_word(k, new_nbytes)
    _check_arguments(k, mm, vaddr, old_nbytes, new_nbytes, flags, new_vaddr)
    if flags & MREMAP_DONTUNMAP:
        return _dontunmap(k, mm, vaddr, new_nbytes, flags, new_vaddr)
    return _mremap(k, mm, vaddr, old_nbytes, new_nbytes, flags, new_vaddr)


def _mremap(k: Kernel, mm: Mm, vaddr: int, old_nbytes: int, new_nbytes: int, flags: int, new_vaddr: int) -> int:
    fixed = bool(flags & MREMAP_FIXED)
    vma = _find_vma(mm, vaddr, 0)
    if not old_nbytes and not vma.flags & VM_MAYSHARE:
        raise OSError(errno.EINVAL, "mremap of length 0 duplicates shared mappings only")
    if fixed:
        vma = _find_vma(mm, vaddr, min(old_nbytes, new_nbytes))
        # By what is mapped now, whatever the new range's unmapping will give back.
        _check_growth(k, mm, vma, (new_nbytes - old_nbytes) >> k.page_shift)
        do_munmap(k, mm, new_vaddr, new_nbytes)
        # An old range that wraps is not seen to overlap the new one; its mapping may be gone now (mremap_to).
        _find_vma(mm, vaddr, 0)
    if old_nbytes > new_nbytes:
        do_munmap(k, mm, vaddr + new_nbytes, old_nbytes - new_nbytes)
        old_nbytes = new_nbytes
    if old_nbytes == new_nbytes and not fixed:
        return vaddr
    vma = _find_vma(mm, vaddr, old_nbytes)
    if not fixed:
        _check_growth(k, mm, vma, (new_nbytes - old_nbytes) >> k.page_shift)
    stays = not fixed and bool(old_nbytes) and _may_grow_in_place(mm, vma, vaddr, old_nbytes, new_nbytes)
    if not stays and not flags & MREMAP_MAYMOVE:
        raise OSError(errno.ENOMEM, f"no room to grow at {vaddr:#x}, and MREMAP_MAYMOVE is not given")
    growth = (new_nbytes - old_nbytes) >> k.page_shift if vma.flags & VM_ACCOUNT else 0
    vm_enough_memory(k, mm, growth)
    try:
        if stays:
            _grow(k, mm, vma, vaddr + new_nbytes)
            return vaddr
        if not fixed:
            new_vaddr = get_unmapped_area(k, mm, 0, new_nbytes, 0)
        return _move_vma(k, mm, vma, vaddr, old_nbytes, new_vaddr, new_nbytes)
    except OSError:
        vm_unacct_memory(k, growth)
        raise


def _dontunmap(k: Kernel, mm: Mm, vaddr: int, nbytes: int, flags: int, new_vaddr: int) -> int:
    """Map elsewhere what a range maps, and move its pages there; the old range begins anew, unlocked."""
    nr_pages = nbytes >> k.page_shift
    _find_vma(mm, vaddr, 0)
    if flags & MREMAP_FIXED:
        do_munmap(k, mm, new_vaddr, nbytes)
    vma = _find_vma(mm, vaddr, nbytes)
    require_room(mm, vma.flags, nr_pages)
    require_nonlinear(k, mm, vma.flags, nr_pages)
    new_vaddr = get_unmapped_area(k, mm, new_vaddr, nbytes, MAP_FIXED if flags & MREMAP_FIXED else 0)
    _require_maps(k, mm, 0)
    charge = nr_pages if vma.flags & VM_ACCOUNT else 0
    vm_enough_memory(k, mm, charge)
    moved = _copy_vma(k, mm, vma, vaddr, new_vaddr, nbytes)
    try:
        _move_page_tables(k, vma, moved, vaddr, nbytes, stays=True)
    except NoFrameError:
        do_munmap(k, mm, new_vaddr, nbytes)
        raise OSError(errno.ENOMEM, "no frame for a page table") from None
    moved = merge_around(k, mm, moved)
    vma = _find_vma(mm, vaddr, nbytes)
    # The whole mapping, however little of it was moved: so does Linux.
    if vma.flags & VM_LOCKED:
        mm.locked_vm -= vma.nr_pages
        munlock_vma_pages(k, vma)
    vma.flags &= ~VM_LOCKED_MASK
    if vma is not moved and (vma.start, vma.end) == (vaddr, vaddr + nbytes):
        anon_vma_unlink(k, vma)
    return new_vaddr


def _check_growth(k: Kernel, mm: Mm, vma: VmArea, nr_pages: int) -> None:
    """Ask the limits whether a mapping may grow by `nr_pages`: EAGAIN for a locked one, ENOMEM (check_prep_vma)."""
    if nr_pages > 0:
        require_lockable(mm, vma.flags, nr_pages)
        require_room(mm, vma.flags, nr_pages)
        require_nonlinear(k, mm, vma.flags, nr_pages)


def _check_arguments(
    k: Kernel, mm: Mm, vaddr: int, old_nbytes: int, new_nbytes: int, flags: int, new_vaddr: int
) -> None:
    """Refuse what no mapping could make right, before anything is unmapped (check_mremap_params)."""
    moves = bool(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
    if flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) or (moves and not flags & MREMAP_MAYMOVE):
        raise OSError(errno.EINVAL, f"mremap flags {flags:#x}: others than MREMAP_MAYMOVE need that, or are unknown")
    if vaddr & (k.page_size - 1) or not 0 < new_nbytes <= mm.task_size:
        raise OSError(errno.EINVAL, "mremap needs an address on a page border and a new length")
    if not moves:
        return
    if flags & MREMAP_DONTUNMAP and old_nbytes != new_nbytes:
        raise OSError(errno.EINVAL, "MREMAP_DONTUNMAP changes no length")
    if new_vaddr & (k.page_size - 1) or not 0 <= new_vaddr <= mm.task_size - new_nbytes:
        raise OSError(errno.EINVAL, f"mremap cannot move to {new_vaddr:#x}")
    if new_vaddr < (vaddr + old_nbytes) % WORD and vaddr < new_vaddr + new_nbytes:
        raise OSError(errno.EINVAL, "the old and the new range of mremap overlap")
    # Both ranges may lie within one mapping each, which unmapping them would cut in two.
    _require_maps(k, mm, 2)


def _require_maps(k: Kernel, mm: Mm, nr_maps: int) -> None:
    """Raise ENOMEM unless a move stays below max_map_count by four mappings, with `nr_maps` more than there are now."""
    if mm.map_count + nr_maps >= k.options.max_map_count - _MAPS_FOR_A_MOVE:
        raise OSError(errno.ENOMEM, f"a move might need more mappings than max_map_count ({k.options.max_map_count})")


def _find_vma(mm: Mm, vaddr: int, nbytes: int) -> VmArea:
    vma = mm.vmas.find(vaddr)
    if vma is None or vma.start > vaddr or vaddr + nbytes > vma.end:
        raise OSError(errno.EFAULT, f"{nbytes:#x} bytes at {vaddr:#x} are not one mapping")
    return vma


def _may_grow_in_place(mm: Mm, vma: VmArea, vaddr: int, old_nbytes: int, new_nbytes: int) -> bool:
    if vaddr + old_nbytes != vma.end or vaddr + new_nbytes > mm.task_size:
        return False
    return not mm.vmas.overlapping(vma.end, vaddr + new_nbytes)


def _grow(k: Kernel, mm: Mm, vma: VmArea, end: int) -> None:
    """Add the missing part as a VMA that continues this one, and merge them."""
    start = vma.end
    require_named(k, vma.flags, (end - vma.start) >> k.page_shift)
    pgoff, writable = vma.linear_pgoff(start), vma.file_writable
    more = new_vma(k, mm, start, end, vma.flags, pgoff, vma.mapping, vma.anon_vma, file_writable=writable)
    more.anon_branch = vma.anon_branch
    more.remapped = vma.remapped
    vma_link(mm, more)
    if vma.flags & VM_NONLINEAR:
        k.rmap.vma_converted(more)
    locked = vma.flags & VM_LOCKED
    merge_around(k, mm, more, grown=True)
    if locked:
        with contextlib.suppress(BusError, OutOfMemory):
            make_pages_present(k, mm, start, end)


def _move_vma(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, old_nbytes: int, new_vaddr: int, new_nbytes: int) -> int:
    """Make the new mapping, move the PTEs, unmap the old one."""
    _require_maps(k, mm, 0)
    if old_nbytes:
        vma = isolate(k, mm, vma, vaddr, vaddr + old_nbytes)
    moved = _copy_vma(k, mm, vma, vaddr, new_vaddr, new_nbytes)
    promised_twice = old_nbytes >> k.page_shift if moved.flags & VM_ACCOUNT else 0
    k.vm_committed_as += promised_twice
    try:
        _move_page_tables(k, vma, moved, vaddr, old_nbytes)
    except NoFrameError:
        # Unmapping takes back what was promised; the growth is for the caller to take back.
        growth = moved.nr_pages - promised_twice if moved.flags & VM_ACCOUNT else 0
        do_munmap(k, mm, new_vaddr, new_nbytes)
        k.vm_committed_as += growth
        raise OSError(errno.ENOMEM, "no frame for a page table") from None
    locked = moved.flags & VM_LOCKED
    if old_nbytes:
        do_munmap(k, mm, vaddr, old_nbytes)
    merge_around(k, mm, moved)
    if locked:
        with contextlib.suppress(BusError, OutOfMemory):
            make_pages_present(k, mm, new_vaddr + old_nbytes, new_vaddr + new_nbytes)
    return new_vaddr


def _copy_vma(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, new_vaddr: int, new_nbytes: int) -> VmArea:
    """Link a VMA at `new_vaddr` that maps what the other one maps from `vaddr` on."""
    require_named(k, vma.flags, new_nbytes >> k.page_shift)
    pgoff = vma.linear_pgoff(vaddr)
    if vma.mapping is None and vma.anon_vma is None:
        # No page says yet where it lies: at the new place it may merge with its neighbours (copy_vma).
        pgoff = new_vaddr >> k.page_shift
    moved = new_vma(
        k,
        mm,
        new_vaddr,
        new_vaddr + new_nbytes,
        vma.flags,
        pgoff,
        vma.mapping,
        vma.anon_vma,
        file_writable=vma.file_writable,
    )
    moved.anon_branch = vma.anon_branch
    moved.remapped = vma.remapped
    vma_link(mm, moved)
    if moved.flags & VM_NONLINEAR:
        k.rmap.vma_converted(moved)
    return moved


def _move_page_tables(k: Kernel, vma: VmArea, moved: VmArea, start: int, nbytes: int, *, stays: bool = False) -> None:
    """Move the PTEs of a range to the start of another VMA; `stays`: the one that they leave is not unmapped then."""
    mm = vma.mm
    if not nbytes:
        return
    distance = moved.start - start
    # Tables first: reclaim on their behalf may change the very PTEs that are to be moved.
    for vaddr in mm.pt.entries(start, start + nbytes)[0].tolist():
        mm.pt.leaf(vaddr + distance)
    vaddrs, ptes = mm.pt.entries(start, start + nbytes)
    if not len(vaddrs):
        return
    if stays and vma.flags & VM_NONLINEAR:
        # One by one: what goes all at once a reverse map may leave to the end of the VMA.
        for old_vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
            set_pte(mm, vma, old_vaddr, pte, 0)
    else:
        set_ptes(mm, vma, vaddrs, ptes, np.zeros_like(ptes))
    present, _ = pte_flags(k, ptes)
    flush_tlb_vaddrs(k, mm, vaddrs[present])
    new_vaddrs = (vaddrs.astype(np.int64) + distance).astype(np.uint64)
    set_ptes(mm, moved, new_vaddrs, np.zeros_like(ptes), ptes)
