"""mincore, mlockall and munlockall: what is in memory, and keeping all of an mm there.

Source: Linux v5.2 mm/mincore.c: sys_mincore(), mincore_pte_range(); file PTEs, v3.19 mincore_pte_range();
v5.4 mm/mlock.c: sys_mlockall(), apply_mlockall_flags().
"""

import contextlib
import errno

from emu.errors import BusError, OutOfMemory
from emu.hw.swapops import is_swap_pte, pte_to_swp_entry
from emu.mm.kernel import Kernel
from emu.mm.mmap import page_align
from emu.mm.rlimit import can_do_mlock, require_mlockall
from emu.mm.swap_state import lookup_swap_cache
from emu.mm.syscalls import lock_flags, make_pages_present, mlock_fixup
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VM_LOCKED_MASK, VM_NONLINEAR, VmArea

MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4


def do_mincore(k: Kernel, mm: Mm, vaddr: int, nbytes: int) -> bytes:
    """Return a byte a page: 1 if an access would need no I/O (mapped, or in the page cache), else 0.

    Errors: EINVAL (off a page border), ENOMEM (outside user space, or part of it is not mapped).
    """
    if vaddr & (k.page_size - 1):
        raise OSError(errno.EINVAL, f"mincore needs an address on a page border, not {vaddr:#x}")
    if nbytes < 0 or vaddr < 0 or vaddr + nbytes > mm.task_size:
        raise OSError(errno.ENOMEM, "mincore reaches outside user space")
    end = vaddr + page_align(k, nbytes)
    found = bytearray()
    while vaddr < end:
        vma = mm.vmas.find(vaddr)
        if vma is None or vma.start > vaddr:
            raise OSError(errno.ENOMEM, f"nothing is mapped at {vaddr:#x}")
        upto = min(vma.end, end)
        found += bytes(_in_core(k, vma, place) for place in range(vaddr, upto, k.page_size))
        vaddr = upto
    return bytes(found)


def _in_core(k: Kernel, vma: VmArea, vaddr: int) -> bool:
    pte = vma.mm.pt.get(vaddr)
    if k.fmt.pte_present(pte):
        return True
    if is_swap_pte(k.fmt, pte):
        return bool(lookup_swap_cache(k, pte_to_swp_entry(k.fmt, pte)))
    if vma.mapping is None:
        return False
    file_pte = pte and vma.flags & VM_NONLINEAR
    pgoff = k.fmt.pte_to_pgoff(pte) if file_pte else vma.linear_pgoff(vaddr)
    swapped = vma.mapping.swapped.get(pgoff)
    if swapped is not None:
        return bool(lookup_swap_cache(k, swapped))
    return bool(vma.mapping.pages.lookup(pgoff))


def do_mlockall(k: Kernel, mm: Mm, flags: int) -> None:
    """Lock what is mapped (MCL_CURRENT), what will be (MCL_FUTURE), or both.

    MCL_ONFAULT with them: pages are locked when they come in, none is brought in now. Errors: EINVAL for no or other
    flags, or MCL_ONFAULT alone.
    """
    if not flags & (MCL_CURRENT | MCL_FUTURE) or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        raise OSError(errno.EINVAL, f"mlockall flags {flags:#x}: give MCL_CURRENT, MCL_FUTURE or both")
    onfault = bool(flags & MCL_ONFAULT)
    can_do_mlock(mm)
    if flags & MCL_CURRENT:
        require_mlockall(mm)
    mm.def_flags = mm.def_flags & ~VM_LOCKED_MASK | lock_flags(lock=bool(flags & MCL_FUTURE), onfault=onfault)
    if not flags & MCL_CURRENT:
        return
    _apply_to_all(k, mm, lock_flags(lock=True, onfault=onfault))
    for vma in list(mm.vmas):
        # What cannot be populated stays locked all the same.
        with contextlib.suppress(BusError, OutOfMemory):
            make_pages_present(k, mm, vma.start, vma.end)


def do_munlockall(k: Kernel, mm: Mm) -> None:
    """Unlock everything, now and in future."""
    mm.def_flags &= ~VM_LOCKED_MASK
    _apply_to_all(k, mm, 0)


def _apply_to_all(k: Kernel, mm: Mm, locked: int) -> None:
    """Lock or unlock every VMA; those that change merge with their neighbours, others do not (mlock_fixup)."""
    for vma in list(mm.vmas):
        # What was merged away on the way is as it shall be already.
        flags = vma.flags & ~VM_LOCKED_MASK | locked
        if flags != vma.flags:
            mlock_fixup(k, mm, vma, flags)
