"""Page faults: handle_mm_fault and what it calls; the merged path, in which linear and nonlinear faults are one.

A fault finds the file page from the address (linear VMA) or from the file PTE (nonlinear), locks the page, and
keeps it locked until its PTE is in, so that a truncate in between must wait. In a shared writable mapping of an
accounted file a clean PTE is read-only: the first store comes here, too, and is accounted.

Source: Linux v2.6.23 mm/memory.c: handle_pte_fault(), __do_fault(), do_linear_fault(), do_nonlinear_fault(),
do_wp_page(); the page is marked dirty while it is still locked, as since v2.6.30.
"""

from emu.errors import BusError, OutOfMemory
from emu.mm.anon_memory import do_anonymous_page, do_swap_page, do_wp_private, install_anon
from emu.mm.anon_vma import anon_vma_prepare
from emu.mm.filemap import filemap_fault
from emu.mm.huge_memory import do_huge_anonymous_page
from emu.mm.kernel import Kernel
from emu.mm.mapcount import page_add_file_rmap
from emu.mm.mlock import mlock_vma_page
from emu.mm.page_alloc import NO_FRAME, alloc_page, lock_page, put_page, unlock_page
from emu.mm.page_writeback import balance_dirty_pages_ratelimited, wait_on_page_writeback
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_WRITEBACK
from emu.mm_types.pgtable import NoFrameError, set_pte
from emu.mm_types.vma import VM_LOCKED, VM_SHARED, VmArea


def handle_mm_fault(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, *, write: bool) -> bool:
    """Make the PTE at `vaddr` (any byte of the page) allow the access; return whether the fault was major.

    The VMA allows the access. Errors: BusError, OutOfMemory.
    """
    k.vmstat.pgfault += 1
    vaddr &= -k.page_size
    if vma.mapping is None and k.options.huge_pages and do_huge_anonymous_page(k, mm, vma, vaddr):
        return False
    try:
        leaf = mm.pt.leaf(vaddr)
    except NoFrameError:
        raise OutOfMemory(vaddr, "no frame for a page table") from None
    fmt = k.fmt
    pte = leaf[vaddr >> k.page_shift & mm.pt.leaf_mask]
    if not fmt.pte_present(pte):
        return _do_absent_page(k, mm, vma, vaddr, pte, write=write)
    if write and not fmt.pte_write(pte):
        return _do_wp_page(k, mm, vma, vaddr, pte)
    # Another access got here first, or a TLB held an older entry: refresh both.
    new = fmt.pte_mkyoung(pte)
    if write:
        new = fmt.pte_mkdirty(new)
    if new != pte:
        set_pte(mm, vma, vaddr, pte, new)
    k.flush_tlb_page(mm, vaddr)
    return False


def _do_absent_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int, *, write: bool) -> bool:
    """Bring in what is not present: as a none, file or swap PTE says (handle_pte_fault)."""
    if not pte:
        if vma.mapping is None:
            return do_anonymous_page(k, mm, vma, vaddr, write=write)
        return k.file_fault(k, mm, vma, vaddr, vma.linear_pgoff(vaddr), pte, write=write)
    if not k.fmt.pte_file(pte):
        return do_swap_page(k, mm, vma, vaddr, pte, write=write)
    k.vmstat.nr_nonlinear_fault += 1
    return k.file_fault(k, mm, vma, vaddr, k.fmt.pte_to_pgoff(pte), pte, write=write)


def do_fault(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pgoff: int, pte: int, *, write: bool) -> bool:
    """Map file page `pgoff` at `vaddr` (__do_fault): of a private mapping that is written, a copy."""
    if write and not vma.flags & VM_SHARED:
        return _do_private_fault(k, mm, vma, vaddr, pgoff, pte)
    pfn, major = filemap_fault(k, vma, pgoff, vaddr)
    if k.preempt is not None:
        k.preempt("fault:page_locked")
    mapping = vma.mapping
    assert mapping is not None
    if write:
        page_mkwrite(k, vma, pfn)
    if k.preempt is not None:
        k.preempt("fault:before_set_pte")
        if mm.pt.get(vaddr) != pte:
            unlock_page(k, pfn)
            put_page(k, pfn)
            return major
    frame = pfn << k.fmt.pfn_shift
    set_pte(mm, vma, vaddr, pte, frame | (vma.page_prot_write if write else vma.page_prot))
    page_add_file_rmap(k, mm, pfn)
    if write:
        k.set_page_dirty(k, mapping, pfn)
    if vma.flags & VM_LOCKED:
        mlock_vma_page(k, pfn)
    unlock_page(k, pfn)
    if k.preempt is not None:
        k.preempt("fault:installed")
    if write:
        balance_dirty_pages_ratelimited(k, mm, mapping)
    return major


def _do_private_fault(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pgoff: int, pte: int) -> bool:
    """Map a copy of file page `pgoff` for a store.

    The anon_vma and the frame come before the file is asked (v3.15 do_cow_fault): no reclaim under the page lock.
    """
    anon_vma_prepare(k, vma)
    copy = alloc_cow_page(k, vaddr)
    try:
        pfn, major = filemap_fault(k, vma, pgoff, vaddr)
    except (BusError, OutOfMemory):
        put_page(k, copy)
        raise
    if k.preempt is not None:
        k.preempt("fault:page_locked")
    finish_cow_fault(k, mm, vma, vaddr, pfn, copy, pte)
    return major


def page_mkwrite(k: Kernel, vma: VmArea, pfn: int) -> None:
    """Tell the file that a shared page is about to be written; waits where the device needs stable pages."""
    k.vmstat.nr_page_mkwrite += 1
    mapping = vma.mapping
    assert mapping is not None
    if mapping.stable_writes and k.mem_map.flags[pfn] & PG_WRITEBACK:
        wait_on_page_writeback(k, pfn)


def alloc_cow_page(k: Kernel, vaddr: int) -> int:
    """Return a frame for a private copy; called with no page locked, since reclaim may write, and so lock, any."""
    copy = alloc_page(k)
    if copy == NO_FRAME:
        raise OutOfMemory(vaddr, "no frame for a private copy")
    return copy


def finish_cow_fault(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pfn: int, copy: int, pte: int) -> None:
    """Map `copy`, filled from a locked file page, and let go of that; unless `pte` is no longer what stands there."""
    k.ram.frame(copy)[:] = k.ram.frame(pfn)
    unlock_page(k, pfn)
    put_page(k, pfn)
    if k.preempt is not None and mm.pt.get(vaddr) != pte:
        put_page(k, copy)
        return
    k.vmstat.nr_cow += 1
    install_anon(k, mm, vma, vaddr, copy, pte)


def _do_wp_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
    """Handle a store through a read-only PTE of a writable VMA: account a shared page, copy a private one."""
    k.vmstat.nr_do_wp_page += 1
    fmt = k.fmt
    pfn = fmt.pte_pfn(pte)
    mapping = vma.mapping
    if vma.flags & VM_SHARED and mapping is not None:
        lock_page(k, pfn)
        if k.preempt is not None:
            k.preempt("wp:page_locked")
        if mm.pt.get(vaddr) != pte:
            # Truncated or changed meanwhile: the access tries again.
            unlock_page(k, pfn)
            return False
        page_mkwrite(k, vma, pfn)
        set_pte(mm, vma, vaddr, pte, fmt.pte_mkwrite(fmt.pte_mkdirty(fmt.pte_mkyoung(pte))))
        k.flush_tlb_page(mm, vaddr)
        # The legacy path may have mapped a page that left its file: nobody will write what is stored there.
        if k.mem_map.mapping[pfn] == mapping.ident:
            k.set_page_dirty(k, mapping, pfn)
        unlock_page(k, pfn)
        balance_dirty_pages_ratelimited(k, mm, mapping)
        return False
    return do_wp_private(k, mm, vma, vaddr, pte)
