"""Strategy `shadow`: each nonlinear VMA has a table shaped like a page table, indexed by pgoff, giving the address.

An entry is 4 bytes: the page number within the VMA, plus one; tables are pages, made when a pgoff in them is first
mapped. A window over a small part of a large file pays a table for few entries. A file page shown at several addresses
of one VMA keeps the others in a list: two words each, a link and a number. A look-up reads an entry of the upper table
and one of a lower one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm.rmap.tracking import PresentPtes
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VmArea

ENTRY_NBYTES = 4
EXTRA_WORDS = 2
_WALK = 2
"""Entries that the way to a page's entry reads, one a level."""


@dataclass(slots=True)
class ShadowTable:
    """One VMA's table: leaf tables by pgoff // entries a leaf, with how many entries are used; further addresses."""

    leaves: dict[int, memoryview] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    extra: dict[int, list[int]] = field(default_factory=dict)
    nr_extra: int = 0


class Shadow(PresentPtes):
    """Finds the addresses of a file page in each VMA by one table walk a VMA."""

    name = "shadow"

    def __init__(self, k: Kernel) -> None:
        super().__init__(k)
        self._leaf_entries = k.page_size // ENTRY_NBYTES
        self._leaf_shift = self._leaf_entries.bit_length() - 1
        self._upper_entries = k.page_size // self.word_nbytes
        self._extra_nbytes = EXTRA_WORDS * self.word_nbytes
        self._tables: dict[int, ShadowTable] = {}

    def has_room(self, nr_pages: int) -> bool:
        """Tell whether the 4 bytes of an entry can number the pages of a VMA of that size."""
        return nr_pages < 1 << 8 * ENTRY_NBYTES

    def _table(self, vma: VmArea) -> ShadowTable:
        assert isinstance(vma.rmap_data, ShadowTable)
        return vma.rmap_data

    def _looked(self, visits: int, *, write: bool) -> None:
        """Account one look into a VMA's table, under that VMA's lock."""
        self.cost.node_visits += visits
        self._k.locks.vma_lock.taken(visits, write=write)

    def _set_bytes(self) -> None:
        nbytes = 0
        for table in self._tables.values():
            leaves = len(table.leaves)
            uppers = len({key // self._upper_entries for key in table.leaves}) if leaves else 0
            nbytes += (leaves + uppers) * self._k.page_size + table.nr_extra * self._extra_nbytes
        self.cost.set_bytes(nbytes)

    def _open(self, vma: VmArea) -> None:
        vma.rmap_data = table = ShadowTable()
        self._tables[id(table)] = table

    def _add(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        table = self._table(vma)
        pgoff = self._k.mem_map.index[pfn]
        key, slot = pgoff >> self._leaf_shift, pgoff & (self._leaf_entries - 1)
        leaf = table.leaves.get(key)
        self._looked(_WALK + bool(leaf is not None and leaf[slot]), write=True)
        if leaf is None:
            leaf = table.leaves[key] = np.zeros(self._leaf_entries, np.uint32).data
            table.used[key] = 0
            self._set_bytes()
        number = ((vaddr - vma.start) >> self._page_shift) + 1
        if leaf[slot]:
            table.extra.setdefault(pgoff, []).append(number)
            table.nr_extra += 1
            self._set_bytes()
        else:
            leaf[slot] = number
            table.used[key] += 1

    def _remove(self, pfn: int, vma: VmArea, vaddr: int) -> None:
        table = self._table(vma)
        pgoff = self._k.mem_map.index[pfn]
        key, slot = pgoff >> self._leaf_shift, pgoff & (self._leaf_entries - 1)
        number = ((vaddr - vma.start) >> self._page_shift) + 1
        leaf = table.leaves.get(key)
        others = table.extra.get(pgoff)
        if leaf is None or not (leaf[slot] == number or (others and number in others)):
            raise KernelBug(f"shadow: {vma!r} has no entry for pgoff {pgoff} at {vaddr:#x}")
        if others:
            if leaf[slot] == number:
                self._looked(_WALK + 1, write=True)
                leaf[slot] = others.pop()
            else:
                place = others.index(number)
                self._looked(_WALK + place + 1, write=True)
                del others[place]
            table.nr_extra -= 1
            if not others:
                del table.extra[pgoff]
            self._set_bytes()
            return
        self._looked(_WALK, write=True)
        leaf[slot] = 0
        table.used[key] -= 1
        if not table.used[key]:
            del table.leaves[key], table.used[key]
            self._set_bytes()

    def vma_converted(self, vma: VmArea) -> None:
        """Make a table and enter the PTEs that there are."""
        self._open(vma)
        super().vma_converted(vma)

    def _rebuild(self, *vmas: VmArea) -> None:
        """Give pages of VMAs new numbers after their borders changed; costs a visit a PTE."""
        for vma in vmas:
            if isinstance(vma.rmap_data, ShadowTable):
                self._tables.pop(id(vma.rmap_data), None)
            self._open(vma)
            super().vma_converted(vma)
        self._set_bytes()

    def vma_split(self, vma: VmArea, new: VmArea) -> None:
        """Give each part a table of its own."""
        self._rebuild(vma, new)

    def vma_merged(self, vma: VmArea, gone: VmArea) -> None:
        """Make one table for both."""
        self._tables.pop(id(gone.rmap_data), None)
        self._rebuild(vma)

    def vma_closed(self, vma: VmArea) -> None:
        """Free the table."""
        self._tables.pop(id(vma.rmap_data), None)
        vma.rmap_data = None
        self._set_bytes()

    def _places(self, pfn: int, mapping: AddressSpace) -> Iterator[tuple[Mm, int]]:
        pgoff = self._k.mem_map.index[pfn]
        key, slot = pgoff >> self._leaf_shift, pgoff & (self._leaf_entries - 1)
        for vma in list(mapping.i_mmap_nonlinear):
            table = self._table(vma)
            leaf = table.leaves.get(key)
            numbers = [leaf[slot], *table.extra.get(pgoff, ())] if leaf is not None and leaf[slot] else []
            self._looked(_WALK + max(len(numbers) - 1, 0), write=False)
            for number in numbers:
                yield vma.mm, vma.start + (number - 1 << self._page_shift)

    def check(self, k: Kernel) -> Iterator[str]:
        """Compare the tables with the page tables."""
        real: dict[int, list[tuple[int, int]]] = {}
        for pfn, mm, vaddr in self._really_present(k):
            real.setdefault(pfn, []).append((mm.ident, vaddr))
        visits = self.cost.node_visits
        for mapping in k.mappings.values():
            for pgoff, pfn in mapping.pages:
                kept = sorted((mm.ident, vaddr) for mm, vaddr in self._places(pfn, mapping))
                if kept != sorted(real.get(pfn, [])):
                    yield f"shadow of pgoff {pgoff}: {kept}, PTEs: {real.get(pfn, [])}"
        self.cost.node_visits = visits
