"""What strategies share that follow every present PTE of nonlinear VMAs: the notice taken of changes, and the walk.

A PTE is named by a key of 4 bytes on formats with 32-bit addresses, of 8 elsewhere: asid and virtual page number, in
place of a pointer to the PTE, which takes as much.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm.rmap.base import NothingKept, PteVisitor
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.pgtable import U64Array
from emu.mm_types.vma import VmArea


class PresentPtes(NothingKept):
    """Hears of every PTE that comes to map a page or ceases to, in nonlinear VMAs of files.

    Subclasses give `_add` and `_remove`, and say with `_places` where a page is mapped.
    """

    finds_all = True

    def __init__(self, k: Kernel) -> None:
        super().__init__(k)
        fmt = k.fmt
        self._present = fmt.present_mask | fmt.protnone_mask
        self._pfn_mask, self._pfn_shift = fmt.pfn_mask, fmt.pfn_shift
        self._page_shift = k.page_shift
        self._vpn_bits = 20 if self.word_nbytes == 4 else 52

    def _add(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        raise KernelBug(f"{type(self).__name__} keeps nothing of pfn {pfn} at {vaddr:#x} in {vma!r}")

    def _remove(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        raise KernelBug(f"{type(self).__name__} keeps nothing of pfn {pfn} at {vaddr:#x} in {vma!r}")

    def _places(self, pfn: int, mapping: AddressSpace) -> Iterable[tuple[Mm, int]]:
        """Return the (mm, vaddr) of every PTE that maps the page, and count the nodes that told."""
        raise KernelBug(f"{type(self).__name__} does not know where pfn {pfn} of {mapping!r} is mapped")

    def watches(self, vma: VmArea) -> bool:
        """Watch every nonlinear VMA."""
        return vma.nonlinear and vma.mapping is not None

    def pte_changed(self, mm: Mm, vma: VmArea, vaddr: int, old: int, new: int) -> None:
        """Follow a PTE from the page that it mapped to the page that it maps."""
        del mm
        was, now = old & self._present, new & self._present
        if was and now and not (old ^ new) & self._pfn_mask:
            return
        if was:
            self._remove((old & self._pfn_mask) >> self._pfn_shift, vma, vaddr)
        if now:
            self._add((new & self._pfn_mask) >> self._pfn_shift, vma, vaddr)

    def ptes_changed(self, mm: Mm, vma: VmArea, vaddrs: U64Array, olds: U64Array, news: U64Array) -> None:
        """Do the same for many; those that map nothing, before and after, cost nothing."""
        concerned = ((olds | news) & np.uint64(self._present)) != 0
        for place in np.flatnonzero(concerned).tolist():
            self.pte_changed(mm, vma, int(vaddrs[place]), int(olds[place]), int(news[place]))

    def vma_converted(self, vma: VmArea) -> None:
        """Take over the PTEs that the VMA has."""
        vaddrs, ptes = self._ptes_of(vma)
        self.ptes_changed(vma.mm, vma, vaddrs, np.zeros_like(ptes), ptes)

    def _key(self, mm: Mm, vaddr: int) -> int:
        return mm.asid << self._vpn_bits | vaddr >> self._page_shift

    def _place_of_key(self, key: int) -> tuple[Mm, int]:
        """Return the (mm, vaddr) that a key names."""
        return self._k.asids[key >> self._vpn_bits], (key & (1 << self._vpn_bits) - 1) << self._page_shift

    def mkclean(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit the page's PTEs."""
        return self._visit(pfn, mapping, one)

    def unmap(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit the page's PTEs."""
        return self._visit(pfn, mapping, one)

    def referenced(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit the page's PTEs."""
        return self._visit(pfn, mapping, one)

    def _visit(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Read each PTE and call `one` for it; a KernelBug if it does not map the page."""
        hits = 0
        for mm, vaddr in list(self._places(pfn, mapping)):
            vma = mm.vmas.find(vaddr)
            pte = mm.pt.get(vaddr)
            self.cost.pte_visits += 1
            if vma is None or vaddr < vma.start or not pte & self._present or self._pfn_of(pte) != pfn:
                raise KernelBug(f"{type(self).__name__}: {vaddr:#x} of {mm!r} has PTE {pte:#x}, not pfn {pfn}")
            hits += one(mm, vma, vaddr, pte)
        return hits

    def _pfn_of(self, pte: int) -> int:
        return (pte & self._pfn_mask) >> self._pfn_shift

    def _really_present(self, k: Kernel) -> Iterator[tuple[int, Mm, int]]:
        """Yield (pfn, mm, vaddr) of every present PTE in watched VMAs, for check()."""
        for mm in k.mms.values():
            for vma in mm.vmas:
                if self.watches(vma):
                    vaddrs, ptes = mm.pt.entries(vma.start, vma.end)
                    for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
                        if pte & self._present:
                            yield self._pfn_of(pte), mm, vaddr
