"""page_mkclean and clear_page_dirty_for_io: write-protect a page's PTEs so that the next store is seen.

Order, without which writes are lost: every PTE that is writable or dirty loses both bits, every TLB that may hold it
is flushed, the dirty bits are folded into PG_dirty, and only then is PG_dirty cleared and are the bytes read.

Source: Linux v2.6.20 mm/rmap.c: page_mkclean(), page_mkclean_one(); mm/page-writeback.c:
clear_page_dirty_for_io().
"""

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.events import EventKind
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_DIRTY, PG_LOCKED
from emu.mm_types.page_tree import TAG_DIRTY
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VM_SHARED, VmArea


def page_mkclean(k: Kernel, mapping: AddressSpace, pfn: int) -> int:
    """Write-protect and clean every PTE that maps a locked page; return how many there were to clean."""
    if not k.mem_map.flags[pfn] & PG_LOCKED:
        raise KernelBug(f"page_mkclean of an unlocked page: {k.mem_map.describe(pfn)}")
    vmstat = k.vmstat
    vmstat.mkclean_calls += 1
    if not k.mem_map.mapcount[pfn]:
        return 0
    cost = k.rmap.cost
    pte_visits, node_visits = cost.pte_visits, cost.node_visits
    cleaned = 0

    def one(mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
        return page_mkclean_one(k, mm, vma, vaddr, pte)

    mapping.i_mmap_lock.down_write()
    try:
        for mm, vma, vaddr, pte in linear_ptes(k, mapping, pfn):
            cleaned += page_mkclean_one(k, mm, vma, vaddr, pte)
        if mapping.i_mmap_nonlinear:
            cleaned += k.rmap.mkclean(pfn, mapping, one)
        pte_visits = cost.pte_visits - pte_visits
        node_visits = cost.node_visits - node_visits
        k.locks.visits.total += pte_visits + node_visits
    finally:
        mapping.i_mmap_lock.up_write()
    vmstat.mkclean_pte_visits += pte_visits
    vmstat.mkclean_node_visits += node_visits
    vmstat.mkclean_cleaned += cleaned
    if k.events is not None:
        k.emit(EventKind.MKCLEAN, mapping=mapping.ident, pfn=pfn, pgoff=k.mem_map.index[pfn], arg=cleaned)
    return cleaned


def page_mkclean_one(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
    """Take write and dirty off one PTE of a shared mapping and flush it; False if it had neither."""
    fmt = k.fmt
    if not vma.flags & VM_SHARED or not (fmt.pte_write(pte) or fmt.pte_dirty(pte)):
        return False
    set_pte(mm, vma, vaddr, pte, fmt.pte_mkclean(fmt.pte_wrprotect(pte)))
    k.flush_tlb_page(mm, vaddr)
    return True


def linear_ptes(k: Kernel, mapping: AddressSpace, pfn: int) -> list[tuple[Mm, VmArea, int, int]]:
    """Return (mm, vma, vaddr, pte) for each PTE of a linear VMA that maps the page (page_check_address).

    What is visited is counted as the strategies count (emu.mm.rmap.base): i_mmap's nodes, and each PTE read.
    """
    if not mapping.i_mmap:
        return []
    fmt = k.fmt
    found = []
    pgoff = k.mem_map.index[pfn]
    cost, visits = k.rmap.cost, mapping.i_mmap.visits
    vmas = mapping.i_mmap.stab(pgoff)
    cost.node_visits += mapping.i_mmap.visits - visits
    cost.pte_visits += len(vmas)
    for vma in vmas:
        vaddr = vma.vma_address(pgoff)
        pte = vma.mm.pt.get(vaddr)
        if fmt.pte_present(pte) and fmt.pte_pfn(pte) == pfn:
            found.append((vma.mm, vma, vaddr, pte))
    return found


def clear_page_dirty_for_io(k: Kernel, mapping: AddressSpace, pfn: int) -> bool:
    """Take PG_dirty off a locked page that is about to be written; False if it was not dirty.

    The DIRTY tag stays until set_page_writeback, so that a sync that runs meanwhile still finds the page.
    """
    mem_map = k.mem_map
    if mapping.account_dirty and page_mkclean(k, mapping, pfn):
        # Fold the PTEs' dirty bits: set_page_dirty() of a page that is dirty already costs nothing.
        k.set_page_dirty(k, mapping, pfn)
    flags = mem_map.flags[pfn]
    if not flags & PG_DIRTY:
        return False
    mem_map.flags[pfn] = flags & ~PG_DIRTY
    if mapping.account_dirty:
        k.vmstat.nr_dirty -= 1
    k.kthreads.audit_wanted = True
    return True


def cancel_dirty_page(k: Kernel, mapping: AddressSpace, pfn: int) -> None:
    """Take PG_dirty off a page whose bytes are no longer wanted (truncated); nothing is written."""
    flags = k.mem_map.flags[pfn]
    if flags & PG_DIRTY:
        k.mem_map.flags[pfn] = flags & ~PG_DIRTY
        mapping.pages.clear_tag(k.mem_map.index[pfn], TAG_DIRTY)
        if mapping.account_dirty:
            k.vmstat.nr_dirty -= 1
            mapping.bdi.account_page_cleaned()
