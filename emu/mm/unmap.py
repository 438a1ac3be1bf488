"""page_referenced and try_to_unmap: what reclaim asks of the reverse map.

In nonlinear VMAs the strategy is asked first; where it does not find every PTE, the cluster scan goes on until nobody
maps the page or its budget is spent.

Source: Linux v2.6.20 mm/rmap.c: try_to_unmap_file(), try_to_unmap_one(), try_to_unmap_cluster(),
page_referenced_file(); what an mlocked page gets, v2.6.28: SWAP_MLOCK, page_referenced_one(). Clusters count from the
start of the VMA; Linux aligns them to addresses, so that the end of a VMA that starts within one is never scanned.
"""

from enum import Enum

from emu.mm.anon_vma import anon_ptes
from emu.mm.kernel import Kernel
from emu.mm.mapcount import page_remove_rmap
from emu.mm.mkclean import linear_ptes
from emu.mm.page_alloc import put_page
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_ANON, PG_REFERENCED
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VM_LOCKED, VM_NONLINEAR, VmArea

CLUSTER_PAGES = 32
"""Linux: CLUSTER_SIZE, in pages."""


class SwapResult(Enum):
    """How try_to_unmap went (SWAP_*)."""

    SUCCESS = 0
    AGAIN = 1
    FAIL = 2
    MLOCK = 3


def page_referenced(k: Kernel, pfn: int) -> int:
    """Count, and forget, the accesses to a page through the PTEs that the reverse map finds cheaply."""
    referenced = 0
    mem_map = k.mem_map
    mapping = k.mappings.get(mem_map.mapping[pfn])
    if mem_map.mapcount[pfn]:
        if mapping is not None:
            referenced = _page_referenced_file(k, mapping, pfn)
        elif mem_map.flags[pfn] & PG_ANON:
            referenced = sum(_page_referenced_one(k, mm, vma, vaddr, pte) for mm, vma, vaddr, pte in anon_ptes(k, pfn))
    if mem_map.flags[pfn] & PG_REFERENCED:
        mem_map.flags[pfn] &= ~PG_REFERENCED
        referenced += 1
    return referenced


def _page_referenced_one(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
    k.vmstat.referenced_pte_visits += 1
    # A locked mapping's is not "referenced", which would keep it active: try_to_unmap is to find the lock.
    if vma.flags & VM_LOCKED or not k.fmt.pte_young(pte):
        return False
    set_pte(mm, vma, vaddr, pte, k.fmt.pte_mkold(pte))
    k.flush_tlb_page(mm, vaddr)
    return True


def _page_referenced_file(k: Kernel, mapping: AddressSpace, pfn: int) -> int:
    referenced, cost = 0, k.rmap.cost

    def one(mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
        return _page_referenced_one(k, mm, vma, vaddr, pte)

    mapping.i_mmap_lock.down_write()
    try:
        before = cost.pte_visits + cost.node_visits
        for mm, vma, vaddr, pte in linear_ptes(k, mapping, pfn):
            referenced += one(mm, vma, vaddr, pte)
        if mapping.i_mmap_nonlinear:
            referenced += k.rmap.referenced(pfn, mapping, one)
        k.locks.visits.total += cost.pte_visits + cost.node_visits - before
    finally:
        mapping.i_mmap_lock.up_write()
    return referenced


def try_to_unmap(k: Kernel, mapping: AddressSpace, pfn: int) -> SwapResult:
    """Take a locked file page out of every page table, as far as it may go."""
    k.vmstat.unmap_calls += 1
    state = {"result": SwapResult.SUCCESS}
    fmt = k.fmt

    def one(mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
        """Do try_to_unmap_one()."""
        k.vmstat.unmap_pte_visits += 1
        if vma.flags & VM_LOCKED:
            state["result"] = SwapResult.MLOCK
            return False
        if fmt.pte_young(pte):
            set_pte(mm, vma, vaddr, pte, fmt.pte_mkold(pte))
            k.flush_tlb_page(mm, vaddr)
            if state["result"] is SwapResult.SUCCESS:
                state["result"] = SwapResult.FAIL
            return False
        unmap_one(k, mm, vma, vaddr, pte)
        return True

    mapping.i_mmap_lock.down_write()
    try:
        cost = k.rmap.cost
        before, in_clusters = cost.pte_visits + cost.node_visits, 0
        for mm, vma, vaddr, pte in linear_ptes(k, mapping, pfn):
            one(mm, vma, vaddr, pte)
            if state["result"] is not SwapResult.SUCCESS:
                # The page stays: what else maps it keeps its PTE.
                break
        if state["result"] is SwapResult.SUCCESS and mapping.i_mmap_nonlinear and k.mem_map.mapcount[pfn]:
            k.rmap.unmap(pfn, mapping, one)
            if state["result"] is SwapResult.SUCCESS and not k.rmap.finds_all and k.mem_map.mapcount[pfn]:
                in_clusters = k.vmstat.unmap_pte_visits
                state["result"] = _scan_clusters(k, mapping, pfn)
                in_clusters = k.vmstat.unmap_pte_visits - in_clusters
        # All that was read, whether it was the page's or not.
        k.locks.visits.total += cost.pte_visits + cost.node_visits - before + in_clusters
    finally:
        mapping.i_mmap_lock.up_write()
    if not k.mem_map.mapcount[pfn]:
        return SwapResult.SUCCESS
    return SwapResult.AGAIN if state["result"] is SwapResult.SUCCESS else state["result"]


def unmap_one(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> None:
    """Take one present PTE of a file page away; where the page is not the linear one, a file PTE remembers it."""
    fmt = k.fmt
    pfn = fmt.pte_pfn(pte)
    pgoff = k.mem_map.index[pfn]
    new = 0
    if vma.flags & VM_NONLINEAR and vma.linear_pgoff(vaddr) != pgoff:
        new = fmt.pgoff_to_pte(pgoff)
    set_pte(mm, vma, vaddr, pte, new)
    k.flush_tlb_page(mm, vaddr)
    mapping = k.mappings.get(k.mem_map.mapping[pfn])
    if fmt.pte_dirty(pte) and mapping is not None:
        k.set_page_dirty(k, mapping, pfn)
    page_remove_rmap(k, mm, pfn)
    put_page(k, pfn)


def _scan_clusters(k: Kernel, mapping: AddressSpace, pfn: int) -> SwapResult:
    """Unmap clusters of the nonlinear VMAs, whatever pages they map, until the budget of mapcount PTEs is spent."""
    vmas = [vma for vma in mapping.i_mmap_nonlinear if not vma.flags & VM_LOCKED]
    if not vmas:
        return SwapResult.MLOCK if mapping.i_mmap_nonlinear else SwapResult.FAIL
    cluster = CLUSTER_PAGES << k.page_shift
    budget = k.mem_map.mapcount[pfn]
    longest = max(vma.end - vma.start for vma in vmas)
    upto = max(*(vma.scan_cursor for vma in vmas), cluster)
    while upto <= longest + cluster - 1:
        for vma in vmas:
            while vma.scan_cursor < min(upto, vma.end - vma.start):
                budget -= _try_to_unmap_cluster(k, vma, vma.scan_cursor)
                vma.scan_cursor += cluster
                if budget <= 0 or not k.mem_map.mapcount[pfn]:
                    return SwapResult.SUCCESS
            vma.scan_cursor = upto
        upto += cluster
    # All of them were walked: start over the next time.
    for vma in vmas:
        vma.scan_cursor = 0
    return SwapResult.SUCCESS


def _try_to_unmap_cluster(k: Kernel, vma: VmArea, cursor: int) -> int:
    """Unmap the PTEs of one cluster that were not accessed; return how many."""
    mm, fmt = vma.mm, k.fmt
    start = vma.start + cursor
    end = min(start + (CLUSTER_PAGES << k.page_shift), vma.end)
    unmapped = 0
    for vaddr in range(start, end, k.page_size):
        pte = mm.pt.get(vaddr)
        k.vmstat.unmap_pte_visits += 1
        if not fmt.pte_present(pte):
            continue
        if fmt.pte_young(pte):
            set_pte(mm, vma, vaddr, pte, fmt.pte_mkold(pte))
            k.flush_tlb_page(mm, vaddr)
            continue
        unmap_one(k, mm, vma, vaddr, pte)
        unmapped += 1
    return unmapped
