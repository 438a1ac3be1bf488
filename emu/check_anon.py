"""What check() asserts of anonymous memory: its reverse map, who shares what, and the slots on swap."""

import contextlib
import mmap
import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from emu.hw.swapops import is_swap_pte, pte_to_swp_entry, swp_entry, swp_offset
from emu.mm.kernel import Kernel
from emu.mm.memory import pte_flags, pte_pfns
from emu.mm_types.page import PG_DIRTY, PG_SWAPCACHE, PG_WRITEBACK
from emu.mm_types.vma import VM_ACCOUNT, VmArea

Violations = Iterator[str]


def equal(what: str, kept: object, real: object) -> Violations:
    """Yield a line if what is kept is not what there is."""
    if kept != real:
        yield f"{what}: kept {kept}, really {real}"


def check_anon_vmas(k: Kernel) -> Violations:
    """Compare which VMAs an anon_vma lists with those that have it."""
    filed = {id(vma): anon_vma for anon_vma in k.anon_vmas.values() for vma in anon_vma.vmas}
    known: set[int] = set()
    for mm in k.mms.values():
        for vma in mm.vmas:
            known.add(id(vma))
            if filed.get(id(vma)) is not vma.anon_vma:
                yield f"{mm!r}: {vma!r} is filed under {filed.get(id(vma))}, has {vma.anon_vma}"
    if set(filed) - known:
        yield "an anon_vma lists a VMA that no mm has"
    for anon_vma in k.anon_vmas.values():
        if not anon_vma.vmas:
            yield f"{anon_vma!r} outlived its VMAs"


def check_private(k: Kernel, vma: VmArea, vaddr: int, pte: int, where: str) -> Violations:
    """Compare an anonymous PTE with the reverse map; who may write has the page alone, and never the zero page."""
    pfn, mem_map = k.fmt.pte_pfn(pte), k.mem_map
    flags, writable = mem_map.flags[pfn], k.fmt.pte_write(pte)
    if pfn == k.zero_pfn:
        if writable or k.fmt.pte_dirty(pte) or vma.mapping is not None:
            yield f"{where} may write to the zero page, or shows it in a file"
        return
    family = vma.anon_vma.ident if vma.anon_vma is not None else 0
    if (mem_map.mapping[pfn], mem_map.index[pfn]) != (family, vma.linear_pgoff(vaddr)):
        yield f"{where} of {vma!r}, anon_vma {family}, maps {mem_map.describe(pfn)}"
    users = mem_map.mapcount[pfn]
    if flags & PG_SWAPCACHE:
        users += k.swap.swap_count(mem_map.private[pfn]) - 1
    if writable and users > 1:
        yield f"{where} is writable, its page has {users} users: {mem_map.describe(pfn)}"


def _count_users(k: Kernel, users: Counter[int]) -> Violations:
    """Count who names each slot, into `users`."""
    users.update(k.swap.cache.keys())
    for mapping in k.mappings.values():
        users.update(mapping.swapped.values())
        for pgoff in mapping.swapped:
            if mapping.pages.lookup(pgoff):
                yield f"{mapping!r} has page {pgoff} in memory and on swap"
    for mm in k.mms.values():
        swapped = 0
        for vma in mm.vmas:
            entries = [
                pte_to_swp_entry(k.fmt, pte)
                for pte in mm.pt.entries(vma.start, vma.end)[1].tolist()
                if is_swap_pte(k.fmt, pte)
            ]
            if entries and vma.anon_vma is None:
                yield f"{mm!r}: {vma!r} has swap PTEs and no anon_vma"
            swapped += len(entries)
            users.update(entries)
        yield from equal(f"{mm!r} swap_ents", mm.swap_ents, swapped)


def check_swap(k: Kernel) -> Violations:
    """Count who uses each slot: the swap PTEs and the swap cache, and nobody else."""
    users = Counter[int]()
    yield from _count_users(k, users)
    kept = {
        swp_entry(area.swap_type, offset): int(area.swap_map[offset])
        for area in k.swap.areas.values()
        for offset in np.flatnonzero(area.swap_map).tolist()
        if offset
    }
    for entry in kept.keys() | users.keys():
        yield from equal(f"users of swap entry {entry:#x}", kept.get(entry, 0), users[entry])
    for entry, pfn in k.swap.cache.items():
        if not k.mem_map.flags[pfn] & PG_SWAPCACHE or k.mem_map.private[pfn] != entry:
            yield f"the swap cache has for entry {entry:#x} {k.mem_map.describe(pfn)}"
    for area in k.swap.areas.values():
        used = sum(1 for entry in kept if k.swap.area_of(entry) is area)
        yield from equal(f"swap area {area.swap_type} inuse_pages", area.inuse_pages, used)
    yield from _check_slots(k)
    cached = int(np.count_nonzero(k.mem_map.flags_array & PG_SWAPCACHE))
    yield from equal("pages with PG_swapcache", cached, len(k.swap.cache))
    yield from equal("nr_swapcached", k.vmstat.nr_swapcached, len(k.swap.cache))


def _check_slots(k: Kernel) -> Violations:
    """Compare pages of the swap cache with their slots: what nothing calls dirty may be dropped at any time."""
    dirty: set[int] = set()
    for mm in k.mms.values():
        for vma in mm.vmas:
            if vma.anon_vma is not None:
                _, ptes = mm.pt.entries(vma.start, vma.end)
                dirty.update(pte_pfns(k, ptes[pte_flags(k, ptes)[1]]).tolist())
    slot = mmap.mmap(-1, k.page_size)
    for entry, pfn in k.swap.cache.items():
        if k.mem_map.flags[pfn] & (PG_DIRTY | PG_WRITEBACK) or pfn in dirty:
            continue
        # A slot that cannot be read says nothing.
        with contextlib.suppress(OSError):
            os.preadv(k.swap.area_of(entry).fd, [slot], swp_offset(entry) << k.page_shift)
            if slot[:] != bytes(k.ram.frame(pfn)):
                yield f"not what swap entry {entry:#x} holds: {k.mem_map.describe(pfn)}"


def check_committed(k: Kernel) -> Violations:
    """Compare Committed_AS with what is promised: VM_ACCOUNT mappings and shared anonymous memory."""
    promised = sum(vma.nr_pages for mm in k.mms.values() for vma in mm.vmas if vma.flags & VM_ACCOUNT)
    promised += sum(inode.nr_accounted for inode in k.inodes.values())
    yield from equal("vm_committed_as", k.vm_committed_as, promised)
