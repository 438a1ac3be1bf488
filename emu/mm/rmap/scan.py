"""Strategy `scan`: every PTE of every nonlinear VMA of the file is read, each time.

Correct and without memory; one page_mkclean costs as many visits as all nonlinear VMAs of the file have PTEs, which a
local user can make as many as he likes. The walk is vectorised; what it reads is counted PTE by PTE, as a kernel
would pay it.
"""

from collections.abc import Iterator

import numpy as np

from emu.mm.rmap.base import NothingKept, PteVisitor
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VmArea


class ScanRmap(NothingKept):
    """Finds everything by reading everything."""

    name = "scan"
    finds_all = True

    def _ptes(self, pfn: int, mapping: AddressSpace) -> Iterator[tuple[Mm, VmArea, int, int]]:
        """Yield (mm, vma, vaddr, pte) of the page, after a walk over all PTEs there are."""
        fmt = self._k.fmt
        present = np.uint64(fmt.present_mask | fmt.protnone_mask)
        frame, mask = np.uint64(pfn << fmt.pfn_shift), np.uint64(fmt.pfn_mask)
        for vma in list(mapping.i_mmap_nonlinear):
            for low, span in vma.mm.pt.spans(vma.start, vma.end):
                self.cost.pte_visits += len(span)
                hits = np.flatnonzero(((span & mask) == frame) & ((span & present) != 0))
                for slot in hits.tolist():
                    yield vma.mm, vma, low + (slot << self._k.page_shift), int(span[slot])

    def _each(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        return sum(one(mm, vma, vaddr, pte) for mm, vma, vaddr, pte in list(self._ptes(pfn, mapping)))

    def mkclean(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit every PTE of the file's nonlinear VMAs."""
        return self._each(pfn, mapping, one)

    def unmap(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit every PTE of the file's nonlinear VMAs."""
        return self._each(pfn, mapping, one)

    def referenced(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit every PTE of the file's nonlinear VMAs."""
        return self._each(pfn, mapping, one)
