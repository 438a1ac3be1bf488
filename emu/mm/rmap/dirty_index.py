"""Strategy `dirty_index`: an index of exactly the PTEs that page_mkclean must find.

In an accounted mapping a clean PTE is read-only, so mkclean can pass it over. The fault that makes a PTE writable is
taken anyway, and that is when it is entered: memory follows the pages written since they were last cleaned, times
their sharers, not the mapping.

Invariant: the index holds exactly the PTEs of accounted VM_NONLINEAR VMAs that are writable or dirty, keyed by
(mm, vaddr). Writable alone would lose writes: mprotect to read-only leaves a PTE dirty, and mprotect back makes a
dirty PTE writable again without a fault.
"""

from collections.abc import Iterator

import numpy as np

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm.rmap.base import NothingKept, PteVisitor
from emu.mm.rmap.page_hash import VPN_BITS, PageHash
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.pgtable import U64Array
from emu.mm_types.vma import VmArea

_VPN_MASK = (1 << VPN_BITS) - 1


class DirtyIndex(NothingKept):
    """Finds the writable or dirty PTEs of a page at once; the others are found by the cluster scan of reclaim."""

    name = "dirty_index"
    finds_all = False

    def __init__(self, k: Kernel) -> None:
        super().__init__(k)
        fmt = k.fmt
        self._present = fmt.present_mask | fmt.protnone_mask
        self._writable_or_dirty = fmt.write_mask | fmt.dirty_mask
        self._pfn_mask, self._pfn_shift = fmt.pfn_mask, fmt.pfn_shift
        self._page_shift = k.page_shift
        self._hash = PageHash()
        # Keys of entries that a mkclean in progress has taken out already.
        self._taken: set[int] = set()

    @property
    def nr_entries(self) -> int:
        """How many PTEs are indexed."""
        return self._hash.nr_entries

    def watches(self, vma: VmArea) -> bool:
        """Watch nonlinear VMAs of accounted files: only for those is mkclean ever called."""
        return vma.nonlinear and vma.mapping is not None and vma.mapping.account_dirty

    def pte_changed(self, mm: Mm, vma: VmArea, vaddr: int, old: int, new: int) -> None:
        """Move a PTE's entry with its frame, its write bit and its dirty bit."""
        del vma
        mask, present = self._writable_or_dirty, self._present
        was = old & mask and old & present
        now = new & mask and new & present
        if not was and not now:
            return
        if was and now and (old ^ new) & self._pfn_mask == 0:
            return
        key = mm.asid << VPN_BITS | vaddr >> self._page_shift
        visits = 0
        if was and key not in self._taken:
            if not self._hash.remove((old & self._pfn_mask) >> self._pfn_shift, key):
                raise KernelBug(f"dirty_index has no entry for {vaddr:#x} of {mm!r}, PTE {old:#x}")
            visits = self._hash.visits
        self._taken.discard(key)
        if now:
            self._hash.add((new & self._pfn_mask) >> self._pfn_shift, key)
            visits += self._hash.visits
        self.cost.node_visits += visits
        self.cost.set_bytes(self._hash.nbytes)
        self._k.locks.rmap_lock.taken(visits)

    def ptes_changed(self, mm: Mm, vma: VmArea, vaddrs: U64Array, olds: U64Array, news: U64Array) -> None:
        """Do the same for many; only those that were or are writable or dirty cost anything."""
        mask, present = np.uint64(self._writable_or_dirty), np.uint64(self._present)
        concerned = ((olds & mask != 0) & (olds & present != 0)) | ((news & mask != 0) & (news & present != 0))
        for place in np.flatnonzero(concerned).tolist():
            self.pte_changed(mm, vma, int(vaddrs[place]), int(olds[place]), int(news[place]))

    def vma_converted(self, vma: VmArea) -> None:
        """Enter the PTEs that are writable or dirty already."""
        if self.watches(vma):
            vaddrs, ptes = self._ptes_of(vma)
            self.ptes_changed(vma.mm, vma, vaddrs, np.zeros_like(ptes), ptes)

    def mkclean(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit just the page's indexed PTEs; their entries go all at once, since each of them is cleaned."""
        del mapping
        keys = self._hash.take(pfn)
        self._taken = set(keys)
        hits = self._visit(pfn, keys, one)
        if self._taken:
            raise KernelBug(f"dirty_index: {len(self._taken)} PTEs of pfn {pfn} were indexed but not cleaned")
        self.cost.set_bytes(self._hash.nbytes)
        return hits

    def unmap(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit the page's indexed PTEs; the read-only clean ones are left to the cluster scan."""
        del mapping
        return self._visit(pfn, self._hash.get(pfn), one)

    def _visit(self, pfn: int, keys: list[int], one: PteVisitor) -> int:
        self.cost.node_visits += self._hash.visits
        hits = 0
        for key in keys:
            mm = self._k.asids[key >> VPN_BITS]
            vaddr = (key & _VPN_MASK) << self._page_shift
            vma = mm.vmas.find(vaddr)
            pte = mm.pt.get(vaddr)
            self.cost.pte_visits += 1
            if vma is None or vaddr < vma.start or (pte & self._pfn_mask) >> self._pfn_shift != pfn:
                raise KernelBug(f"dirty_index: {vaddr:#x} of {mm!r} has PTE {pte:#x}, not pfn {pfn}")
            hits += one(mm, vma, vaddr, pte)
        return hits

    def check(self, k: Kernel) -> Iterator[str]:
        """Compare the index with what the page tables say."""
        fmt = k.fmt
        there: set[tuple[int, int]] = set()
        for mm in k.mms.values():
            for vma in mm.vmas:
                if not self.watches(vma):
                    continue
                vaddrs, ptes = mm.pt.entries(vma.start, vma.end)
                for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
                    if fmt.pte_present(pte) and (fmt.pte_write(pte) or fmt.pte_dirty(pte)):
                        there.add((fmt.pte_pfn(pte), mm.asid << VPN_BITS | vaddr >> k.page_shift))
        indexed = list(self._hash)
        if len(indexed) != self._hash.nr_entries or len(set(indexed)) != len(indexed):
            yield f"dirty_index: {len(indexed)} entries, {len(set(indexed))} different, {self.nr_entries} counted"
        for pfn, key in there - set(indexed):
            yield f"dirty_index lacks {self._named(key)}, pfn {pfn}"
        for pfn, key in set(indexed) - there:
            yield f"dirty_index has {self._named(key)}, pfn {pfn}, too many"

    def _named(self, key: int) -> str:
        return f"{(key & _VPN_MASK) << self._page_shift:#x} of asid {key >> VPN_BITS}"
