"""Page tables in emulated RAM, the seam through which the kernel changes PTEs, and the flush that it then owes.

`set_pte` and its bulk forms `set_ptes` and `exchange_ptes` are the only ways to change a PTE: they tell the
reverse-map strategy of the VMA. The hardware itself sets accessed and dirty bits behind the kernel's back, as real
hardware does.

The table walk of the kernel is shortened by a dictionary of leaf tables: where a leaf lies never changes
while it exists, so `leaves` holds views of the very frames that the hardware walks.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from emu.errors import KernelBug
from emu.hw.physmem import PhysMem
from emu.hw.pte import PteFormat
from emu.hw.pte_bulk import exchange

if TYPE_CHECKING:
    from emu.mm_types.mm import Mm
    from emu.mm_types.vma import VmArea

U64Array = npt.NDArray[np.uint64]


class NoFrameError(MemoryError):
    """No frame for a page table (pte_alloc failed): the caller turns it into ENOMEM or a fault's OOM."""


class PageTable:
    """The page table of one mm: tables of `fmt` in the frames of `ram`.

    `alloc` hands out a frame (-1: none) and `free` takes it back. Cost: `get` O(1); a new leaf O(levels).
    """

    def __init__(self, ram: PhysMem, fmt: PteFormat, alloc: Callable[[], int], free: Callable[[int], None]) -> None:
        self.ram = ram
        self.fmt = fmt
        self._alloc = alloc
        self._free = free
        self.page_shift = fmt.page_shift
        leaf = fmt.levels[-1]
        self.leaf_shift = leaf.shift + leaf.bits
        self.leaf_mask = (1 << leaf.bits) - 1
        self.nr_leaf_entries = 1 << leaf.bits
        self._words: npt.NDArray[np.uint64] | npt.NDArray[np.uint32] = ram.u64 if fmt.pte_bytes == 8 else ram.u32
        self._view = self._words.data
        self._words_per_frame = ram.page_size // fmt.pte_bytes
        self.leaves: dict[int, memoryview] = {}
        self.leaf_pfns: dict[int, int] = {}
        # Keys of leaves whose parent entry maps a large page instead; the leaf waits, filled, for the split.
        self.huge: set[int] = set()
        # (level, vaddr >> span of that level) -> [pfn of the table, entries in use]
        self._tables: dict[tuple[int, int], list[int]] = {}
        self.root_pfn = self._new_table()
        self._tables[0, 0] = [self.root_pfn, 0]

    @property
    def nr_upper(self) -> int:
        """How many frames hold tables above the leaves."""
        return len(self._tables)

    def table_pfns(self) -> list[int]:
        """Return every frame that holds a table."""
        return [table[0] for table in self._tables.values()] + list(self.leaf_pfns.values())

    def table_pfn(self, level: int, region: int) -> int:
        """Return the table of `level` for the addresses from ``region << its span`` on, 0 if none is walked there."""
        if level == len(self.fmt.levels) - 1:
            return 0 if region in self.huge else self.leaf_pfns.get(region, 0)
        table = self._tables.get((level, region))
        return 0 if table is None else table[0]

    def miscounted(self) -> list[str]:
        """Return a line for each upper table whose entries are not the tables and large pages below it (for check)."""
        below: dict[tuple[int, int], int] = {}
        last = len(self.fmt.levels) - 1
        for level, region in [*((last, key) for key in self.leaf_pfns), *(name for name in self._tables if name[0])]:
            name = (level - 1, region >> self.fmt.levels[level - 1].bits) if level > 1 else (0, 0)
            below[name] = below.get(name, 0) + 1
        found = []
        for name, (pfn, nr_used) in self._tables.items():
            start = pfn * self._words_per_frame
            nr_entries = int(np.count_nonzero(self._words[start : start + (1 << self.fmt.levels[name[0]].bits)]))
            if not nr_entries == nr_used == below.get(name, 0):
                found.append(f"table {name}: {nr_entries} entries, {nr_used} counted, {below.get(name, 0)} below it")
        return found

    def _new_table(self) -> int:
        pfn = self._alloc()
        if pfn < 0:
            raise NoFrameError("no frame for a page table")
        self.ram.zero_frame(pfn)
        return pfn

    def _key(self, level: int, vaddr: int) -> tuple[int, int]:
        """Name the table at `level` that translates `vaddr`."""
        shift, bits = self.fmt.levels[level]
        return level, vaddr >> (shift + bits)

    def get(self, vaddr: int) -> int:
        """Return the PTE at `vaddr`, 0 where there is no table."""
        leaf = self.leaves.get(vaddr >> self.leaf_shift)
        return 0 if leaf is None else leaf[vaddr >> self.page_shift & self.leaf_mask]

    def leaf(self, vaddr: int) -> memoryview:
        """Return the leaf table for `vaddr`, made if need be (pte_alloc_map); NoFrameError if it cannot be."""
        found = self.leaves.get(vaddr >> self.leaf_shift)
        return self._new_leaf(vaddr) if found is None else found

    def _new_leaf(self, vaddr: int) -> memoryview:
        last = len(self.fmt.levels) - 1
        parent = self._tables[0, 0]
        for level in range(1, last):
            key = self._key(level, vaddr)
            table = self._tables.get(key)
            if table is None:
                table = [self._new_table(), 0]
                self._tables[key] = table
                self._link(parent, level - 1, vaddr, table[0])
            parent = table
        pfn = self._new_table()
        self._link(parent, last - 1, vaddr, pfn)
        key_leaf = vaddr >> self.leaf_shift
        start = pfn * self._words_per_frame
        self.leaf_pfns[key_leaf] = pfn
        self.leaves[key_leaf] = leaf = self._view[start : start + self.nr_leaf_entries]
        return leaf

    def _link(self, parent: list[int], level: int, vaddr: int, pfn: int) -> None:
        place = parent[0] * self._words_per_frame + self.fmt.index(vaddr, level)
        self._view[place] = self.fmt.mk_table(pfn, level)
        parent[1] += 1

    def map_huge(self, vaddr: int, ptes: U64Array, huge_pte: int) -> None:
        """Map a large page where there was no leaf: its small PTEs are put aside in the leaf for a split to come.

        What the kernel reads are always the small PTEs (Linux deposits a page table for the same reason: a split must
        not fail). They are accessed and dirty from the start, since the hardware marks the large entry only.
        NoFrameError if there is no frame for the leaf.
        """
        self.leaf(vaddr)
        key = vaddr >> self.leaf_shift
        start = self.leaf_pfns[key] * self._words_per_frame
        self._words[start : start + self.nr_leaf_entries] = ptes.astype(self._words.dtype)
        self._view[self._parent_place(vaddr)] = huge_pte
        self.huge.add(key)

    def split_huge(self, vaddr: int) -> None:
        """Let small PTEs translate again what a large page does, if one does; translations stay as they were."""
        key = vaddr >> self.leaf_shift
        if key in self.huge:
            level = len(self.fmt.levels) - 2
            self._view[self._parent_place(vaddr)] = self.fmt.mk_table(self.leaf_pfns[key], level)
            self.huge.discard(key)

    def _parent_place(self, vaddr: int) -> int:
        """Return where in RAM, in words of an entry, the entry above the leaf of `vaddr` lies."""
        level = len(self.fmt.levels) - 2
        parent = self._tables[self._key(level, vaddr) if level else (0, 0)]
        return parent[0] * self._words_per_frame + self.fmt.index(vaddr, level)

    def leaf_keys(self, start: int, end: int) -> list[int]:
        """Return the keys (vaddr >> leaf_shift) of the leaf tables that hold addresses of [start, end), ascending."""
        first, last = start >> self.leaf_shift, (end - 1) >> self.leaf_shift
        if last - first < len(self.leaves):
            return [key for key in range(first, last + 1) if key in self.leaves]
        return sorted(key for key in self.leaves if first <= key <= last)

    def spans(self, start: int, end: int) -> Iterator[tuple[int, U64Array]]:
        """Yield (vaddr of the first PTE, PTEs as a uint64 copy) for each leaf table within [start, end)."""
        for key in self.leaf_keys(start, end):
            base = key << self.leaf_shift
            low = max(start, base)
            high = min(end, base + (self.nr_leaf_entries << self.page_shift))
            place = self.leaf_pfns[key] * self._words_per_frame
            first = place + ((low - base) >> self.page_shift)
            yield low, self._words[first : first + ((high - low) >> self.page_shift)].astype(np.uint64)

    def entries(self, start: int, end: int) -> tuple[U64Array, U64Array]:
        """Return (vaddrs, PTEs) of all entries in [start, end) that are not none, ascending."""
        vaddrs: list[U64Array] = []
        ptes: list[U64Array] = []
        for low, span in self.spans(start, end):
            used = np.flatnonzero(span)
            vaddrs.append((used.astype(np.uint64) << np.uint64(self.page_shift)) + np.uint64(low))
            ptes.append(span[used])
        if not vaddrs:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        return np.concatenate(vaddrs), np.concatenate(ptes)

    def _places(self, vaddrs: U64Array) -> npt.NDArray[np.int64]:
        """Return where in RAM, in words of an entry, the PTEs of `vaddrs` lie; their leaves must exist."""
        keys = (vaddrs >> np.uint64(self.leaf_shift)).astype(np.int64)
        # One look-up for each run of one leaf. A table from the first key to the last would not do: a sparse mapping
        # may span most of 2**57 bytes.
        starts = np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1))
        bases = [self.leaf_pfns[key] * self._words_per_frame for key in keys[starts].tolist()]
        slots = (vaddrs >> np.uint64(self.page_shift)).astype(np.int64) & self.leaf_mask
        places: npt.NDArray[np.int64] = np.repeat(bases, np.diff(starts, append=len(keys))) + slots
        return places

    def leaf_bases(self, first: int, last: int) -> U64Array:
        """Return where the leaf tables of keys first to last begin in RAM, in entries; 0 where there is none."""
        bases = np.zeros(last - first + 1, np.uint64)
        for key in self.leaf_keys(first << self.leaf_shift, (last + 1) << self.leaf_shift):
            bases[key - first] = self.leaf_pfns[key] * self._words_per_frame
        return bases

    def exchange_many(self, bases: U64Array, first: int, vaddrs: U64Array, ptes: U64Array) -> tuple[U64Array, int]:
        """Write PTEs, in order, and return what they were, and that or-ed together; for exchange_ptes only.

        `bases`: leaf_bases from key `first` on; every leaf must exist.
        """
        olds = np.empty(len(vaddrs), np.uint64)
        seen = exchange(
            self.ram.u64,
            bases,
            np.uint64(first),
            np.uint64(self.leaf_shift),
            np.uint64(self.page_shift),
            np.uint64(self.leaf_mask),
            np.uint64(self.fmt.pte_bytes == 4),
            vaddrs,
            ptes,
            olds,
        )
        return olds, int(seen)

    def put_many(self, vaddrs: U64Array, ptes: U64Array) -> None:
        """Write PTEs; for set_ptes only."""
        self._words[self._places(vaddrs)] = ptes.astype(self._words.dtype)

    def free_range(self, start: int, end: int) -> int:
        """Free the tables wholly within [start, end) and return how many (free_pgtables).

        Their PTEs must be none. The caller then flushes what the hardware caches of upper levels.
        """
        freed = 0
        span = 1 << self.leaf_shift
        for key in self.leaf_keys(start, end):
            base = key << self.leaf_shift
            if start <= base and base + span <= end:
                self._free_leaf(key)
                freed += 1
        return freed

    def _free_leaf(self, key: int) -> None:
        pfn = self.leaf_pfns.pop(key)
        start = pfn * self._words_per_frame
        if np.any(self._words[start : start + self.nr_leaf_entries]):
            raise KernelBug(f"leaf table for {key << self.leaf_shift:#x} is freed with PTEs in it")
        del self.leaves[key]
        self._free(pfn)
        vaddr = key << self.leaf_shift
        for level in range(len(self.fmt.levels) - 2, -1, -1):
            name = self._key(level, vaddr) if level else (0, 0)
            table = self._tables[name]
            self._view[table[0] * self._words_per_frame + self.fmt.index(vaddr, level)] = 0
            table[1] -= 1
            if table[1] or not level:
                return
            self._free(table[0])
            del self._tables[name]

    def free_all(self) -> None:
        """Free every table, the root too (exit_mmap)."""
        for pfn in self.table_pfns():
            self._free(pfn)
        self.leaves.clear()
        self.leaf_pfns.clear()
        self._tables.clear()


def set_pte(mm: "Mm", vma: "VmArea", vaddr: int, old: int, new: int) -> None:
    """Write one PTE and tell the VMA's reverse map; its leaf table must exist (set_pte_at)."""
    pt = mm.pt
    if pt.huge:
        pt.split_huge(vaddr)
    pt.leaves[vaddr >> pt.leaf_shift][vaddr >> pt.page_shift & pt.leaf_mask] = new
    if vma.pte_changed is not None:
        vma.pte_changed(mm, vma, vaddr, old, new)


def set_ptes(mm: "Mm", vma: "VmArea", vaddrs: U64Array, olds: U64Array, news: U64Array) -> None:
    """Write many PTEs of one VMA, each vaddr once, and tell its reverse map once; the leaf tables must exist."""
    if len(vaddrs):
        for key in mm.pt.huge.intersection((vaddrs >> np.uint64(mm.pt.leaf_shift)).tolist()) if mm.pt.huge else ():
            mm.pt.split_huge(key << mm.pt.leaf_shift)
        mm.pt.put_many(vaddrs, news)
        if vma.ptes_changed is not None:
            vma.ptes_changed(mm, vma, vaddrs, olds, news)


def exchange_ptes(
    mm: "Mm", vma: "VmArea", bases: U64Array, first: int, vaddrs: U64Array, news: U64Array
) -> tuple[U64Array, int]:
    """Write many PTEs of one VMA in order and tell its reverse map once; return the old ones, and them or-ed.

    A vaddr may occur twice: the old PTE of its second occurrence is the new one of its first.
    """
    olds, seen = mm.pt.exchange_many(bases, first, vaddrs, news)
    if vma.ptes_changed is not None:
        vma.ptes_changed(mm, vma, vaddrs, olds, news)
    return olds, seen


class TlbGather:
    """The TLB flush owed for changed PTEs: a context manager, flushed at the latest when it is left.

    `flush_range(mm, vaddrs or None)` does it; None means everything of this mm. Linux flushes all beyond
    tlb_single_page_flush_ceiling (33) pages: v4.0 arch/x86/mm/tlb.c: flush_tlb_mm_range().
    """

    CEILING = 33

    def __init__(self, mm: "Mm", flush_mm: Callable[["Mm", list[int] | None], None]) -> None:
        self._mm = mm
        self._flush_mm = flush_mm
        self._vaddrs: list[int] = []
        self._all = False

    def add(self, vaddr: int) -> None:
        """Owe the flush of one page."""
        if len(self._vaddrs) < self.CEILING:
            self._vaddrs.append(vaddr)
        else:
            self._all = True

    def add_all(self) -> None:
        """Owe the flush of everything of this mm."""
        self._all = True

    def flush(self) -> None:
        """Pay what is owed."""
        if self._all:
            self._flush_mm(self._mm, None)
        elif self._vaddrs:
            self._flush_mm(self._mm, self._vaddrs)
        self._vaddrs = []
        self._all = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.flush()
