"""What check() asserts of lists and orders: LRU lists and who must be on which, free frames, VMAs and their trees."""

import numpy as np

from emu.check_anon import Violations, equal
from emu.mm.kernel import Kernel
from emu.mm.memory import pte_flags, pte_pfns
from emu.mm_types.interval_tree import IntervalTree
from emu.mm_types.page import (
    ACTIVE,
    INACTIVE,
    PG_ANON,
    PG_LRU,
    PG_MLOCKED,
    PG_SWAPBACKED,
    UNEVICTABLE,
)
from emu.mm_types.vma import VM_LOCKED, VmArea


def check_lru(k: Kernel) -> Violations:
    """Each listed page is on the one list that its flags name."""
    listed = 0
    for which in (ACTIVE, INACTIVE, UNEVICTABLE):
        pages = k.lru.pages(which)
        listed += len(pages)
        yield from equal(f"length of LRU list {which}", k.lru.nr[which], len(pages))
        nr_file = sum(not k.mem_map.flags[pfn] & (PG_ANON | PG_SWAPBACKED) for pfn in pages)
        yield from equal(f"file pages on LRU list {which}", k.lru.nr_file[which], nr_file)
        for pfn in pages:
            if not k.mem_map.flags[pfn] & PG_LRU or k.lru.which(pfn) != which:
                yield f"on LRU list {which}: {k.mem_map.describe(pfn)}"
    yield from equal("pages with PG_lru", int(np.count_nonzero(k.mem_map.flags_array & PG_LRU)), listed)


def _listed_and_locked(k: Kernel) -> tuple[set[int], set[int]]:
    """Return the pages that must be on some list, and those that a locked mapping shows."""
    listed, locked = set(k.swap.cache.values()), set[int]()
    for mapping in k.mappings.values():
        listed.update(pfn for _, pfn in mapping.pages)
    for mm in k.mms.values():
        for vma in mm.vmas:
            _, ptes = mm.pt.entries(vma.start, vma.end)
            pfns = pte_pfns(k, ptes[pte_flags(k, ptes)[0]]).tolist()
            listed.update(pfn for pfn in pfns if k.mem_map.flags[pfn] & PG_ANON)
            if vma.flags & VM_LOCKED:
                locked.update(pfns)
    return listed, locked


def check_evictable(k: Kernel) -> Violations:
    """Look for pages that reclaim never finds: it must find all but what is mlocked, or has nowhere to go."""
    flags = k.mem_map.flags
    listed, locked = _listed_and_locked(k)
    for pfn in listed:
        mapping = k.mappings.get(k.mem_map.mapping[pfn])
        nowhere_to_go = mapping is not None and not mapping.evictable
        unevictable = k.lru.which(pfn) == UNEVICTABLE
        if not flags[pfn] & PG_LRU:
            yield f"on no list: {k.mem_map.describe(pfn)}"
        elif unevictable and not nowhere_to_go and not flags[pfn] & PG_MLOCKED:
            yield f"unevictable for no reason: {k.mem_map.describe(pfn)}"
        elif nowhere_to_go and not unevictable:
            yield f"evictable, with nowhere to go: {k.mem_map.describe(pfn)}"
    for pfn in np.flatnonzero(k.mem_map.flags_array & PG_MLOCKED).tolist():
        if pfn not in locked:
            yield f"mlocked, but no locked mapping has it: {k.mem_map.describe(pfn)}"


def check_free_frames(k: Kernel) -> Violations:
    """Nothing is left of a page in a free frame's struct page; and nobody wrote to the zero page."""
    mem_map = k.mem_map
    used = mem_map.flags_array.astype(np.bool_)
    for field in (mem_map.refcount_array, mem_map.mapcount_array, mem_map.mapping_array, mem_map.private_array):
        used |= field != 0
    for pfn in np.flatnonzero(used & (k.ram.allocated == 0)).tolist():
        yield f"free, but not clean: {mem_map.describe(pfn)}"
    if any(k.ram.frame(k.zero_pfn)):
        yield f"the zero page holds something: {mem_map.describe(k.zero_pfn)}"


def check_order(k: Kernel) -> Violations:
    """VMAs are found by address, linked in order, and found by file page."""
    for mm in k.mms.values():
        vmas = list(mm.vmas)
        yield from equal(f"{mm!r} map_count", mm.map_count, len(vmas))
        for below, vma, above in zip([None, *vmas][:-1], vmas, [*vmas, None][1:], strict=True):
            if (vma.vm_prev, vma.vm_next) != (below, above) or mm.vmas.find(vma.start) is not vma:
                yield f"{mm!r}: {vma!r} is out of order"
            if vma.mapping is not None and not vma.nonlinear and not _is_found(vma.mapping.i_mmap, vma):
                yield f"{mm!r}: {vma!r} is filed under other pages in i_mmap"
            if vma.anon_vma is not None and not _is_found(vma.anon_vma.vmas, vma):
                yield f"{mm!r}: {vma!r} is filed under other pages in {vma.anon_vma!r}"


def _is_found(tree: IntervalTree[VmArea], vma: VmArea) -> bool:
    """Tell whether a VMA is found by its first and its last page, at nobody's cost."""
    visits = tree.visits
    found = all(vma in tree.stab(pgoff) for pgoff in (vma.pgoff, vma.pgoff + vma.nr_pages - 1))
    tree.visits = visits
    return found
