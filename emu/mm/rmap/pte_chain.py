"""Strategy `pte_chain`: each page knows the PTEs that map it, as in Linux 2.5: "an extra pointer per page".

Every page mapped by a nonlinear VMA pays a pointer (4 bytes where addresses have 32 bits, else 8), clean or dirty; one
that is mapped more than once pays cache lines of them. page_mkclean and reclaim visit just the page's own PTEs.

Source: Linux v2.5.59 mm/rmap.c: page_add_rmap(), page_remove_rmap(), struct pte_chain.
"""

from collections.abc import Iterator

from emu.mm.kernel import Kernel
from emu.mm.rmap.chained import ChainedPages
from emu.mm.rmap.chains import CACHE_LINE
from emu.mm.rmap.tracking import PresentPtes
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VmArea


class PteChain(PresentPtes):
    """Finds every PTE of a page at once."""

    name = "pte_chain"

    def __init__(self, k: Kernel) -> None:
        super().__init__(k)
        self._chains = ChainedPages(self.word_nbytes, CACHE_LINE)

    def _add(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        self._chains.add(pfn, self._key(vma.mm, vaddr))
        self._touched()

    def _remove(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        self._chains.remove(pfn, self._key(vma.mm, vaddr))
        self._touched()

    def _touched(self) -> None:
        """Account what the last operation read, under the lock of one page's chain."""
        visits = self._chains.visits
        self.cost.node_visits += visits
        self.cost.set_bytes(self._chains.nbytes)
        self._k.locks.rmap_lock.taken(visits)

    def _places(self, pfn: int, mapping: AddressSpace) -> list[tuple[Mm, int]]:
        del mapping
        keys = self._chains.get(pfn)
        self.cost.node_visits += self._chains.visits
        return [self._place_of_key(one) for one in keys]

    def check(self, k: Kernel) -> Iterator[str]:
        """Compare the chains with the page tables."""
        real: dict[int, list[int]] = {}
        for pfn, mm, vaddr in self._really_present(k):
            real.setdefault(pfn, []).append(self._key(mm, vaddr))
        for pfn in range(1, k.ram.nr_frames):
            kept = self._chains.get(pfn)
            if sorted(kept) != sorted(real.get(pfn, [])):
                yield f"pte_chain of pfn {pfn}: {kept}, PTEs: {real.get(pfn, [])}"
