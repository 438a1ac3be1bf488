"""mprotect.

To read-only a PTE keeps its dirty bit; back to read-write, in an accounted shared mapping, a dirty PTE becomes
writable at once, a clean one waits for its write fault.

Source: Linux v2.6.20 mm/mprotect.c: sys_mprotect(), mprotect_fixup(), change_pte_range(); that a private page which is
the mapping's alone and dirty becomes writable at once, too, v6.1 mm/mprotect.c: can_change_pte_writable().
"""

import contextlib
import errno

import numpy as np

from emu.errors import BusError, OutOfMemory
from emu.mm.kernel import Kernel
from emu.mm.memory import flush_tlb_vaddrs, pte_flags
from emu.mm.mmap import WORD, align_word, prot_to_flags
from emu.mm.overcommit import vm_enough_memory, vm_unacct_memory
from emu.mm.rlimit import may_expand_vm
from emu.mm.swap_state import page_swapcount
from emu.mm.syscalls import make_pages_present
from emu.mm.vma_ops import isolate, merge_around
from emu.mm.vma_prot import bind_rmap, vma_set_page_prot
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_ANON, PG_SWAPCACHE
from emu.mm_types.pgtable import set_ptes
from emu.mm_types.vma import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    VmArea,
)

PROT_GROWSDOWN, PROT_GROWSUP = 0x01000000, 0x02000000
_PROT_GROWS = PROT_GROWSDOWN | PROT_GROWSUP
_PROT_ALL = 15
"""PROT_READ, WRITE, EXEC, and PROT_SEM, which means nothing on x86."""


def do_mprotect(k: Kernel, mm: Mm, vaddr: int, nbytes: int, prot: int) -> None:
    """Change the protection of a range of whole pages; with PROT_GROWSDOWN from the start of the stack that it is in.

    Errors: EINVAL (off a page border, unknown bits), ENOMEM (part of it is not mapped; what lies before the hole is
    changed), EACCES (a shared mapping of a file that is not open for writing).
    """
    grows, prot = prot & _PROT_GROWS, prot & ~_PROT_GROWS
    if grows == _PROT_GROWS:
        raise OSError(errno.EINVAL, "mprotect takes one of PROT_GROWSDOWN and PROT_GROWSUP")
    if vaddr & (k.page_size - 1):
        raise OSError(errno.EINVAL, f"mprotect needs an address on a page border, not {vaddr:#x}")
    if not nbytes:
        return
    end = vaddr + align_word(k, nbytes)
    if not vaddr < end < WORD:
        raise OSError(errno.ENOMEM, f"{vaddr:#x} + {nbytes:#x} lies outside user space")
    if prot & ~_PROT_ALL:
        raise OSError(errno.EINVAL, f"mprotect prot {prot:#x} has unknown bits")
    newflags = prot_to_flags(prot)
    place = _grown_start(mm, vaddr, end, grows) if grows else vaddr
    while place < end:
        vma = mm.vmas.find(place)
        if vma is None or vma.start > place:
            raise OSError(errno.ENOMEM, f"nothing is mapped at {place:#x}")
        if newflags & ~(vma.flags >> 4) & (VM_READ | VM_WRITE | VM_EXEC):
            raise OSError(errno.EACCES, f"the mapping at {place:#x} may not get that protection")
        place = _mprotect_fixup(k, mm, vma, place, min(vma.end, end), newflags)


def _grown_start(mm: Mm, vaddr: int, end: int, grows: int) -> int:
    """Return where the mapping begins that the range lies in. EINVAL if it does not grow that way; ENOMEM: none."""
    vma = mm.vmas.find(vaddr)
    if vma is None or vma.start >= end or (grows == PROT_GROWSUP and vma.start > vaddr):
        raise OSError(errno.ENOMEM, f"nothing is mapped at {vaddr:#x}")
    if grows == PROT_GROWSUP or not vma.flags & VM_GROWSDOWN:
        raise OSError(errno.EINVAL, f"the mapping at {vma.start:#x} does not grow that way")
    return vma.start


def _mprotect_fixup(k: Kernel, mm: Mm, vma: VmArea, start: int, end: int, newflags: int) -> int:
    oldflags = vma.flags
    flags = oldflags & ~(VM_READ | VM_WRITE | VM_EXEC) | newflags
    if flags == oldflags:
        return end
    charged = _charge(k, mm, vma, (end - start) >> k.page_shift, flags)
    if charged > 0:
        flags |= VM_ACCOUNT
    elif charged < 0:
        flags &= ~VM_ACCOUNT
    try:
        vma = isolate(k, mm, vma, start, end)
    except OSError:
        vm_unacct_memory(k, charged)
        raise
    vma.flags = flags
    vma_set_page_prot(k, vma)
    bind_rmap(k, vma)
    change_protection(k, vma)
    merge_around(k, mm, vma)
    if oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
        # Locked private memory that becomes writable has its copies at once, no major faults later (v6.12).
        with contextlib.suppress(BusError, OutOfMemory):
            make_pages_present(k, mm, start, end)
    return end


def _charge(k: Kernel, mm: Mm, vma: VmArea, nr_pages: int, flags: int) -> int:
    """Promise private memory that becomes writable, or ENOMEM; return how many pages are promised more.

    Fewer (as since v6.7) if it becomes read-only before it was ever written.
    Source: Linux v6.12 mm/mprotect.c: mprotect_fixup().
    """
    if flags & VM_WRITE:
        if not may_expand_vm(mm, flags, nr_pages) and may_expand_vm(mm, vma.flags, nr_pages):
            raise OSError(errno.ENOMEM, f"{nr_pages} pages of data more would exceed RLIMIT_DATA")
        if vma.flags & (VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE):
            return 0
        vm_enough_memory(k, mm, nr_pages)
        return nr_pages
    if vma.flags & VM_ACCOUNT and vma.mapping is None and vma.anon_vma is None:
        vm_unacct_memory(k, nr_pages)
        return -nr_pages
    return 0


def change_protection(k: Kernel, vma: VmArea) -> None:
    """Give the present PTEs of a VMA its protection, and flush."""
    mm, fmt = vma.mm, k.fmt
    vaddrs, ptes = mm.pt.entries(vma.start, vma.end)
    present, dirty = pte_flags(k, ptes)
    vaddrs, ptes, dirty = vaddrs[present], ptes[present], dirty[present]
    write, execute = bool(vma.flags & VM_WRITE), bool(vma.flags & VM_EXEC)
    # Whatever may be written may be read, too (protection_map), though its PTE may be write-protected for now.
    read = bool(vma.flags & (VM_READ | VM_WRITE))
    shared = bool(vma.flags & VM_SHARED)
    news = np.empty_like(ptes)
    for place, (pte, pte_dirty) in enumerate(zip(ptes.tolist(), dirty.tolist(), strict=True)):
        if shared:
            writable = write and (pte_dirty or not vma.wants_writenotify)
        else:
            pfn = fmt.pte_pfn(pte)
            flags = k.mem_map.flags[pfn]
            alone = k.mem_map.mapcount[pfn] == 1 and not (flags & PG_SWAPCACHE and page_swapcount(k, pfn))
            writable = write and bool(flags & PG_ANON) and pte_dirty and alone
        news[place] = fmt.pte_modify(pte, read=read, write=writable, execute=execute)
    set_ptes(mm, vma, vaddrs, ptes, news)
    flush_tlb_vaddrs(k, mm, vaddrs)
