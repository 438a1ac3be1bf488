"""Strategy `slot_chain`: pte_chain with half the pointer, fremap's own.

Each nonlinear VMA gets a range of 31-bit slot numbers, one a page; a page keeps the 4-byte slot of the PTE that maps
it. Which range a slot lies in, and so which mm and address, is found by bisection over the ranges, of which there are
as many as nonlinear VMAs. That gives reclaim in O(1), as pte_chain does, at 4 bytes a mapped page on every format.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sortedcontainers import SortedDict

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm.rmap.chained import ChainedPages
from emu.mm.rmap.tracking import PresentPtes
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VmArea

RANGE_WORDS = 5
RANGE_SLOTS_NBYTES = 8
"""A range in a kernel: tree node (three words), mm and start (two), first slot and length (4 bytes each)."""

BLOCK_NBYTES = 12
"""A chain block: a link and two slots. Small, since a remap in progress maps many a page twice."""

_NR_SLOTS = 1 << 31


@dataclass(slots=True)
class SlotRange:
    """Slots [first, first + nr_pages) stand for the pages of `mm` from `start`, which are all of one VMA."""

    first: int
    nr_pages: int
    mm: Mm
    start: int


class SlotChain(PresentPtes):
    """Finds every PTE of a page at once, by 4-byte slot numbers."""

    name = "slot_chain"

    def __init__(self, k: Kernel) -> None:
        super().__init__(k)
        self._chains = ChainedPages(4, BLOCK_NBYTES)
        self._ranges: SortedDict = SortedDict()
        self._range_nbytes = RANGE_WORDS * self.word_nbytes + RANGE_SLOTS_NBYTES

    def _touched(self) -> None:
        """Account what the last operation read, under the lock of one page's chain."""
        visits = self._chains.visits
        self.cost.node_visits += visits
        self._k.locks.rmap_lock.taken(visits)
        self._set_bytes()

    def _set_bytes(self) -> None:
        self.cost.set_bytes(self._chains.nbytes + len(self._ranges) * self._range_nbytes)

    def _down(self) -> None:
        """Count one way down the tree of ranges."""
        self.cost.node_visits += len(self._ranges).bit_length()

    def has_room(self, nr_pages: int) -> bool:
        """Look for a gap among the slots."""
        return self._gap(nr_pages)[0] >= 0

    def _gap(self, nr_pages: int) -> tuple[int, int]:
        """Return (first slot of the first gap of that size, or -1; ranges looked at); slot 0 is never given."""
        first, looked = 1, 0
        for one in self._ranges.values():
            looked += 1
            if one.first - first >= nr_pages:
                break
            first = one.first + one.nr_pages
        return (first if first + nr_pages <= _NR_SLOTS else -1), looked

    def _new_range(self, vma: VmArea) -> None:
        """Give a VMA slots from the first gap that holds them."""
        first, looked = self._gap(vma.nr_pages)
        self.cost.node_visits += looked
        if first < 0:
            raise KernelBug(f"slot_chain: no {vma.nr_pages} slots left of {_NR_SLOTS}, and nobody asked")
        given = SlotRange(first, vma.nr_pages, vma.mm, vma.start)
        self._ranges[first] = given
        self._down()
        vma.rmap_data = [given]

    def _slot(self, vma: VmArea, vaddr: int) -> int:
        ranges = vma.rmap_data
        assert isinstance(ranges, list)
        for one in ranges:
            self.cost.node_visits += 1
            page = (vaddr - one.start) >> self._page_shift
            if 0 <= page < one.nr_pages:
                slot: int = one.first + page
                return slot
        raise KernelBug(f"slot_chain: {vma!r} has no slot for {vaddr:#x}")

    def _place_of_slot(self, slot: int) -> tuple[Mm, int]:
        one: SlotRange = self._ranges.peekitem(self._ranges.bisect_right(slot) - 1)[1]
        self._down()
        return one.mm, one.start + (slot - one.first << self._page_shift)

    def _add(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        self._chains.add(pfn, self._slot(vma, vaddr))
        self._touched()

    def _remove(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        self._chains.remove(pfn, self._slot(vma, vaddr))
        self._touched()

    def vma_converted(self, vma: VmArea) -> None:
        """Give the VMA slots and take over its PTEs."""
        self._new_range(vma)
        super().vma_converted(vma)
        self._set_bytes()

    def vma_split(self, vma: VmArea, new: VmArea) -> None:
        """Give each part the slots of its own pages; a range that reaches across the border becomes two."""
        assert isinstance(vma.rmap_data, list)
        lower: list[SlotRange] = []
        upper: list[SlotRange] = []
        for one in vma.rmap_data:
            self.cost.node_visits += 1
            nr_below = (new.start - one.start) >> self._page_shift
            if 0 < nr_below < one.nr_pages:
                above = SlotRange(one.first + nr_below, one.nr_pages - nr_below, one.mm, new.start)
                self._ranges[above.first] = above
                self._down()
                upper.append(above)
                one.nr_pages = nr_below
            (lower if nr_below > 0 else upper).append(one)
        vma.rmap_data, new.rmap_data = lower, upper
        self._set_bytes()

    def vma_merged(self, vma: VmArea, gone: VmArea) -> None:
        """Let the whole use the slots of both parts; two ranges that continue each other become one."""
        assert isinstance(vma.rmap_data, list)
        assert isinstance(gone.rmap_data, list)
        last: SlotRange = vma.rmap_data[-1]
        first: SlotRange = gone.rmap_data[0]
        if last.first + last.nr_pages == first.first:
            last.nr_pages += first.nr_pages
            self._down()
            del self._ranges[first.first]
            gone.rmap_data = gone.rmap_data[1:]
        vma.rmap_data = vma.rmap_data + gone.rmap_data
        self._set_bytes()

    def vma_closed(self, vma: VmArea) -> None:
        """Give the VMA's slots back."""
        assert isinstance(vma.rmap_data, list)
        for one in vma.rmap_data:
            self._down()
            del self._ranges[one.first]
        vma.rmap_data = None
        self._set_bytes()

    def _places(self, pfn: int, mapping: AddressSpace) -> list[tuple[Mm, int]]:
        del mapping
        slots = self._chains.get(pfn)
        self.cost.node_visits += self._chains.visits
        return [self._place_of_slot(one) for one in slots]

    def check(self, k: Kernel) -> Iterator[str]:
        """Compare the slots with the page tables."""
        real: dict[int, list[tuple[int, int]]] = {}
        for pfn, mm, vaddr in self._really_present(k):
            real.setdefault(pfn, []).append((mm.ident, vaddr))
        for pfn in range(1, k.ram.nr_frames):
            kept = [(mm.ident, vaddr) for mm, vaddr in map(self._place_of_slot, self._chains.get(pfn))]
            if sorted(kept) != sorted(real.get(pfn, [])):
                yield f"slot_chain of pfn {pfn}: {kept}, PTEs: {real.get(pfn, [])}"
