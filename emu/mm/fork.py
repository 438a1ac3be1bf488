"""Address spaces as they begin, are copied, and end.

Source: Linux v2.6.20 kernel/fork.c: mm_init(), dup_mmap(); mm/mmap.c: exit_mmap().
"""

from typing import TYPE_CHECKING

from emu.mm.kernel import Kernel
from emu.mm.memory import copy_page_range, zap_page_range
from emu.mm.overcommit import vm_enough_memory
from emu.mm.page_alloc import alloc_table, free_table
from emu.mm.trace import name_mm
from emu.mm.vma_ops import new_vma, remove_vma, require_named, vma_link
from emu.mm_types.mm import Mm
from emu.mm_types.pgtable import NoFrameError, PageTable
from emu.mm_types.vma import VM_ACCOUNT, VM_DONTCOPY, VM_LOCKED_MASK, VM_NONLINEAR, VM_WIPEONFORK

if TYPE_CHECKING:
    from emu.mm_types.remapped import RemappedVmas

_VADDR_BITS = 64
_NR_ASIDS = 2048
"""How many address spaces there may be at once: half the PCIDs of x86. An asid also names a live mm where a reverse map
names a PTE, and a 4-byte name has 11 bits for it, beside 20 of a page number and one that is its own."""


def _nr_asids(k: Kernel) -> int:
    """Return how many it is here: no more than the hardware's ASIDs; where it has none, they are names only."""
    return min(_NR_ASIDS, 1 << k.fmt.asid_bits) if k.fmt.asid_bits else _NR_ASIDS


def mm_alloc(k: Kernel) -> Mm:
    """Return an empty mm with a root table; MemoryError without a frame for that."""
    pt = PageTable(k.ram, k.fmt, lambda: alloc_table(k), lambda pfn: free_table(k, pfn))
    ident = k.new_ident()
    mm = Mm(ident, ident % _nr_asids(k), pt, k.locks.new(k.locks.mmap_sem))
    if mm.asid in k.asids:
        try:
            mm.asid = _free_asid(k)
        except MemoryError:
            pt.free_all()
            raise
    for mmu, stale_asids in zip(k.cpus, k.stale_asids, strict=True):
        # The number may have belonged to an mm that is gone.
        mmu.invalidate_asid(mm.asid)
        stale_asids.discard(mm.asid)
    k.mms[ident] = mm
    k.asids[mm.asid] = mm
    name_mm(k, mm)
    return mm


def _free_asid(k: Kernel) -> int:
    free = next((asid for asid in range(_nr_asids(k)) if asid not in k.asids), -1)
    if free < 0:
        raise MemoryError(f"more than {_nr_asids(k)} address spaces at once")
    return free


def dup_mmap(k: Kernel, parent: Mm) -> Mm:
    """Return a copy of an mm, as fork makes it; the parent's memory locks are not inherited."""
    child = mm_alloc(k)
    child.privileged = parent.privileged
    child.rlim = dict(parent.rlim)
    child.start_brk, child.brk = parent.start_brk, parent.brk
    child.wb_seen = dict(parent.wb_seen)
    name_mm(k, child, parent)
    remapped: dict[RemappedVmas, RemappedVmas] = {}
    parent.mmap_sem.down_write()
    try:
        for vma in list(parent.vmas):
            if vma.flags & VM_DONTCOPY:
                continue
            require_named(k, vma.flags, vma.nr_pages)
            if vma.flags & VM_ACCOUNT:
                vm_enough_memory(k, child, vma.nr_pages)
            flags = vma.flags & ~VM_LOCKED_MASK
            anon_vma = None if flags & VM_WIPEONFORK else vma.anon_vma
            copy = new_vma(
                k,
                child,
                vma.start,
                vma.end,
                flags,
                vma.pgoff,
                vma.mapping,
                anon_vma,
                file_writable=vma.file_writable,
            )
            if anon_vma is not None:
                copy.anon_branch = child.ident << _VADDR_BITS | vma.start
            if vma.remapped is not None:
                copy.remapped = remapped.setdefault(vma.remapped, vma.remapped.copy())
            vma_link(child, copy)
            if vma.flags & VM_NONLINEAR:
                k.rmap.vma_converted(copy)
            if not vma.flags & VM_WIPEONFORK:
                copy_page_range(k, copy, vma)
    except (NoFrameError, OSError) as error:
        exit_mmap(k, child)
        raise MemoryError(str(error)) from None
    finally:
        parent.mmap_sem.up_write()
    return child


def exit_mmap(k: Kernel, mm: Mm) -> None:
    """Take an mm down: unmap everything (dirty bits go to PG_dirty), free the page tables."""
    for vma in list(mm.vmas):
        zap_page_range(k, vma, vma.start, vma.end)
        remove_vma(k, mm, vma)
    k.rmap.mm_exit(mm)
    k.flush_tlb_mm(mm)
    mm.pt.free_all()
    mm.dead = True
    k.dirty_throttle_leaks += mm.nr_dirtied
    del k.mms[mm.ident]
    del k.asids[mm.asid]
    k.current = [None if current is mm else current for current in k.current]
