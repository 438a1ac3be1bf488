"""mlock, mlock2, munlock, msync: system calls over ranges of an mm.

Source: Linux v2.6.20 mm/mlock.c: do_mlock(); of locks on fault, v4.4 mm/mlock.c: sys_mlock2(); v2.6.20 mm/msync.c:
sys_msync(), which synced whole files; that a range is enough, but in a nonlinear VMA, v3.16 mm/msync.c: sys_msync().
"""

import errno
import os
from collections.abc import Iterator

from emu.errors import BusError, OutOfMemory
from emu.mm.errseq import file_check_and_advance_wb_err
from emu.mm.fault import handle_mm_fault
from emu.mm.kernel import Kernel
from emu.mm.mlock import mlock_vma_page
from emu.mm.mmap import WORD, align_word, munlock_vma_pages
from emu.mm.page_writeback import vfs_fsync_range
from emu.mm.rlimit import can_do_mlock, require_mlock
from emu.mm.vma_ops import isolate, merge_around
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.vma import (
    VM_EXEC,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_LOCKONFAULT,
    VM_NONLINEAR,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    VmArea,
)

MLOCK_ONFAULT = 1
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4

_EVERYTHING = 1 << 62


def page_range(k: Kernel, vaddr: int, nbytes: int, call: str, wrapped: int) -> tuple[int, int]:
    """Return where a range of whole pages starts and ends; EINVAL off a page border, `wrapped` if it wraps."""
    if vaddr & (k.page_size - 1):
        raise OSError(errno.EINVAL, f"{call} needs an address on a page border, not {vaddr:#x}")
    end = vaddr + align_word(k, nbytes)
    if end >= WORD:
        raise OSError(wrapped, f"{call} reaches outside user space")
    return vaddr, end


def vmas_of(mm: Mm, start: int, end: int, holes: list[int]) -> Iterator[VmArea]:
    """Yield the VMAs in a range, looked up anew each time; the first address of each hole goes to `holes`."""
    place = start
    while place < end:
        vma = mm.vmas.find(place)
        if vma is None or vma.start >= end:
            holes.append(place)
            return
        if vma.start > place:
            holes.append(place)
            place = vma.start
        upto = vma.end
        yield vma
        place = upto


def do_mlock(k: Kernel, mm: Mm, vaddr: int, nbytes: int, *, lock: bool, onfault: bool = False) -> None:
    """Lock or unlock the pages of a range, up to the first hole (ENOMEM); locking prefaults them (EAGAIN: no frame).

    `onfault`: pages are locked when they come in, and none is prefaulted.
    EPERM, ENOMEM: RLIMIT_MEMLOCK of an unprivileged process.
    """
    if lock:
        can_do_mlock(mm)
    nbytes += vaddr & (k.page_size - 1)
    start = vaddr & -k.page_size
    if lock:
        require_mlock(mm, start, start + align_word(k, nbytes))
    start, end = page_range(k, start, nbytes, "mlock", errno.EINVAL)
    holes: list[int] = []
    for found in vmas_of(mm, start, end, holes):
        if holes:
            break
        flags = found.flags & ~VM_LOCKED_MASK | lock_flags(lock=lock, onfault=onfault)
        if flags != found.flags:
            mlock_fixup(k, mm, isolate(k, mm, found, max(found.start, start), min(found.end, end)), flags)
    if holes:
        # What lies before the hole is locked, but not brought in (v2.6.38 mm/mlock.c: sys_mlock()).
        raise OSError(errno.ENOMEM, f"nothing is mapped at {holes[0]:#x}")
    if lock:
        try:
            make_pages_present(k, mm, start, end, strict=True)
        except (BusError, OutOfMemory) as error:
            raise OSError(errno.EAGAIN if isinstance(error, OutOfMemory) else errno.ENOMEM, str(error)) from None


def mlock2_onfault(flags: int) -> bool:
    """Tell what flags of mlock2 ask for. EINVAL for others than MLOCK_ONFAULT."""
    if flags & ~MLOCK_ONFAULT:
        raise OSError(errno.EINVAL, f"mlock2 flags {flags:#x}: give MLOCK_ONFAULT or none")
    return bool(flags)


def lock_flags(*, lock: bool, onfault: bool) -> int:
    """Return what VM_LOCKED and VM_LOCKONFAULT become."""
    return (VM_LOCKED_MASK if onfault else VM_LOCKED) if lock else 0


def mlock_fixup(k: Kernel, mm: Mm, vma: VmArea, flags: int) -> None:
    """Give a VMA flags that lock it, or do not; it merges with neighbours that have them, too."""
    mm.locked_vm += vma.nr_pages * (bool(flags & VM_LOCKED) - bool(vma.flags & VM_LOCKED))
    vma.flags = flags
    if not flags & VM_LOCKED:
        munlock_vma_pages(k, vma)
    merge_around(k, mm, vma)


def make_pages_present(k: Kernel, mm: Mm, start: int, end: int, *, strict: bool = False) -> None:
    """Fault a range in for reading (private writable memory for writing), and mark locked pages.

    What is locked on fault is not faulted in, whoever asks. Memory without any access is passed over, or, if `strict`,
    an OSError: ENOMEM, as mlock says.
    """
    place = start
    while place < end:
        vma = mm.vmas.find(place)
        if vma is None or vma.start > place:
            return
        upto = min(vma.end, end)
        onfault = bool(vma.flags & VM_LOCKONFAULT)
        accessible = vma.flags & (VM_READ | VM_WRITE | VM_EXEC)
        if strict and not accessible and not onfault:
            raise OSError(errno.ENOMEM, f"the memory at {place:#x} allows no access")
        write = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE
        while place < upto and (accessible or onfault):
            pte = mm.pt.get(place)
            present = k.fmt.pte_present(pte)
            if not onfault and (not present or (write and not k.fmt.pte_write(pte))):
                handle_mm_fault(k, mm, vma, place, write=write)
            elif present and vma.flags & VM_LOCKED:
                mlock_vma_page(k, k.fmt.pte_pfn(pte))
            place += k.page_size
        place = upto


def do_msync(k: Kernel, mm: Mm, vaddr: int, nbytes: int, flags: int) -> None:
    """Write a range of shared file mappings back (MS_SYNC); MS_ASYNC does nothing, as since v2.6.19.

    On a nonlinear VMA the range says nothing about file pages, so the whole file is synced. Errors: EINVAL (flags,
    address off a page border), EBUSY (MS_INVALIDATE of locked pages), ENOMEM (a hole; the rest is synced), EIO and the
    like from the write-back.
    """
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or flags & (MS_ASYNC | MS_SYNC) == MS_ASYNC | MS_SYNC:
        raise OSError(errno.EINVAL, f"msync flags {flags:#x}: give MS_SYNC or MS_ASYNC, and perhaps MS_INVALIDATE")
    start, end = page_range(k, vaddr, nbytes, "msync", errno.ENOMEM)
    holes: list[int] = []
    for vma in vmas_of(mm, start, end, holes):
        if flags & MS_INVALIDATE and vma.flags & VM_LOCKED:
            raise OSError(errno.EBUSY, f"MS_INVALIDATE of locked memory at {vma.start:#x}")
        if not flags & MS_SYNC or vma.mapping is None or not vma.flags & VM_SHARED:
            continue
        if vma.flags & VM_NONLINEAR:
            first, stop = 0, _EVERYTHING
        else:
            first = vma.linear_pgoff(max(start, vma.start))
            stop = vma.linear_pgoff(min(end, vma.end))
        msync_mapping(k, mm, vma.mapping, first, stop)
    if holes:
        raise OSError(errno.ENOMEM, f"nothing is mapped at {holes[0]:#x}")


def msync_mapping(k: Kernel, mm: Mm, mapping: AddressSpace, first: int, stop: int) -> None:
    """Sync file pages [first, stop) or raise the OSError that kept some page of the file from the disk.

    An error of a background write is reported, too, even if the page has been written since (emu.mm.errseq).
    """
    error = vfs_fsync_range(k, mapping, first, stop)
    earlier = file_check_and_advance_wb_err(mm, mapping)
    error = error or earlier
    if error:
        raise OSError(error, f"{mapping.host.name} could not be written back: {os.strerror(error)}")
