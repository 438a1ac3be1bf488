"""The interface of a reverse-map strategy: how the PTEs of a page are found in nonlinear VMAs.

Linear VMAs stay on i_mmap under every strategy and are not its business. The kernel tells a strategy what changes
and asks it three questions of a page; it answers by calling `one(mm, vma, vaddr, pte)` for each PTE that it
finds, which may change that very PTE (and so call back into `pte_changed`).

Strategies know the kernel's state, never each other. What an operation costs is counted alike for all of them, and for
i_mmap. A visit is one PTE, or one node of a structure, that is read or written, once however often it is touched:

- a node is a frame's word and a block of a chain (pte_chain, slot_chain), a range of slots, a run (range_tree), an
  entry of a table and one of a list (shadow), a bucket and an entry (dirty_index), a VMA in i_mmap;
- a way down a balanced tree of n nodes visits bit_length(n), be it to find, to enter or to take out; what else is found
  at its end is a visit each. In a list or chain all that is passed is visited, and what is found;
- an update visits, beside the way there, the node itself and each other one whose links change or that moves as a table
  grows. Where a remap makes VMAs, what it changes in i_mmap and in the mm's tree of VMAs is its update;
- nobody pays for heads (the list of a file's nonlinear VMAs, roots), page tables above the PTE, the look-up of the VMA
  that holds an address, struct page, the allocator, and the turns that keep a tree balanced.

Bytes are those that a kernel would allocate, by the size of a pointer of the format.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from emu.hw.pte import PteFormat
from emu.mm.kernel import Kernel
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.pgtable import U64Array
from emu.mm_types.vma import VmArea

# What a strategy calls for each PTE it finds; returns whether that PTE was affected.
PteVisitor = Callable[[Mm, VmArea, int, int], bool]


@dataclass(slots=True)
class RmapCost:
    """What the reverse map has cost: visits so far, those of i_mmap among them, and its bytes now and at the peak."""

    pte_visits: int = 0
    node_visits: int = 0
    nbytes: int = 0
    nbytes_peak: int = 0

    def set_bytes(self, nbytes: int) -> None:
        """Note what is allocated now."""
        self.nbytes = nbytes
        self.nbytes_peak = max(self.nbytes_peak, nbytes)


def pointer_nbytes(fmt: PteFormat) -> int:
    """Return how many bytes a pointer, and an unsigned long, has in a kernel for a page-table format."""
    return 4 if fmt.va_bits <= 32 else 8


class RmapStrategy(Protocol):
    """One answer to "which PTEs of nonlinear VMAs map this page?".

    `name` is what --rmap takes. `finds_all` tells whether `unmap` reaches every PTE; if not, reclaim follows it with
    the cluster scan. `remap_spans_vmas`: where remaps make VMAs, whether one call may span several, and maps anew even
    what is there already. `cost` is live.
    """

    name: str
    finds_all: bool
    remap_spans_vmas: bool
    cost: RmapCost

    def remaps_with_vmas(self, mapping: AddressSpace) -> bool:
        """Tell whether remap_file_pages makes ordinary VMAs for this file instead of a nonlinear one."""
        ...

    def watches(self, vma: VmArea) -> bool:
        """Tell whether PTE changes of this VMA must be reported to `pte_changed` and `ptes_changed`."""
        ...

    def has_room(self, nr_pages: int) -> bool:
        """Tell whether the pages of another nonlinear VMA of that size can be named; no remap may begin if not."""
        ...

    def pte_changed(self, mm: Mm, vma: VmArea, vaddr: int, old: int, new: int) -> None:
        """Take note of one changed PTE of a watched VMA."""
        ...

    def ptes_changed(self, mm: Mm, vma: VmArea, vaddrs: U64Array, olds: U64Array, news: U64Array) -> None:
        """Take note of many changed PTEs of a watched VMA, each vaddr once."""
        ...

    def vma_converted(self, vma: VmArea) -> None:
        """Take over a VMA that has just become nonlinear, with the PTEs that it has."""
        ...

    def vma_split(self, vma: VmArea, new: VmArea) -> None:
        """Take note that `new` was cut off `vma`; both have their final borders."""
        ...

    def vma_merged(self, vma: VmArea, gone: VmArea) -> None:
        """Take note that `vma` now covers `gone`, too, which is no more."""
        ...

    def vma_closed(self, vma: VmArea) -> None:
        """Forget a VMA; its PTEs are gone already."""
        ...

    def mm_exit(self, mm: Mm) -> None:
        """Forget an mm; its VMAs are closed already."""
        ...

    def mkclean(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Call `one` for each PTE of nonlinear VMAs that maps the page and is writable or dirty; return its hits."""
        ...

    def unmap(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Call `one` for the PTEs of nonlinear VMAs that map the page, as far as the strategy knows them."""
        ...

    def referenced(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Call `one` for the PTEs of nonlinear VMAs that map the page, as far as it is cheap."""
        ...

    def check(self, k: Kernel) -> Iterator[str]:
        """Yield a line for each violation of the strategy's invariant (for check.py; may be slow)."""
        ...


class NothingKept:
    """What a strategy does that keeps no structure: nothing, for every notice."""

    finds_all = False
    remap_spans_vmas = False

    def __init__(self, k: Kernel) -> None:
        self._k = k
        self.cost = RmapCost()
        self.word_nbytes = pointer_nbytes(k.fmt)

    def _ptes_of(self, vma: VmArea) -> tuple[U64Array, U64Array]:
        """Read the PTEs that a VMA has: (vaddrs, ptes), a visit each."""
        vaddrs, ptes = vma.mm.pt.entries(vma.start, vma.end)
        self.cost.pte_visits += len(ptes)
        return vaddrs, ptes

    def remaps_with_vmas(self, mapping: AddressSpace) -> bool:
        """Nonlinear VMAs it is."""
        del mapping
        return False

    def watches(self, vma: VmArea) -> bool:
        """No PTE change is of interest."""
        del vma
        return False

    def has_room(self, nr_pages: int) -> bool:
        """Name nothing, so always."""
        del nr_pages
        return True

    def pte_changed(self, mm: Mm, vma: VmArea, vaddr: int, old: int, new: int) -> None:
        """Keep nothing."""

    def ptes_changed(self, mm: Mm, vma: VmArea, vaddrs: U64Array, olds: U64Array, news: U64Array) -> None:
        """Keep nothing."""

    def vma_converted(self, vma: VmArea) -> None:
        """Keep nothing."""

    def vma_split(self, vma: VmArea, new: VmArea) -> None:
        """Keep nothing."""

    def vma_merged(self, vma: VmArea, gone: VmArea) -> None:
        """Keep nothing."""

    def vma_closed(self, vma: VmArea) -> None:
        """Keep nothing."""

    def mm_exit(self, mm: Mm) -> None:
        """Keep nothing."""

    def mkclean(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Find nothing."""
        del pfn, mapping, one
        return 0

    def unmap(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Find nothing: reclaim's cluster scan does it."""
        del pfn, mapping, one
        return 0

    def referenced(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Find nothing: the cluster scan passes over young PTEs."""
        del pfn, mapping, one
        return 0

    def check(self, k: Kernel) -> Iterator[str]:
        """Nothing is kept, nothing can be wrong."""
        del k
        return iter(())
