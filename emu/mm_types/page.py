"""mem_map: one struct page a frame, kept as arrays.

Every field is a numpy array for bulk work and a memoryview of the same bytes for single pages, since a
scalar read through a memoryview costs less than one through numpy. Index 0 is never a usable page.

Who may touch what: `flags` bits LRU, ACTIVE and the links belong to LruLists; DIRTY and WRITEBACK to
page_writeback; `mapcount` to the rmap functions; `refcount` to get_page and put_page.

Source: Linux v2.6.20 include/linux/mm_types.h, include/linux/page-flags.h.
"""

from enum import IntFlag
from typing import Final

import numpy as np
import numpy.typing as npt

from emu.errors import KernelBug


class PageFlag(IntFlag):
    """Bits of page->flags; an emulated kernel's own numbers under the kernel's names."""

    LOCKED = 1 << 0
    REFERENCED = 1 << 2
    UPTODATE = 1 << 3
    DIRTY = 1 << 4
    LRU = 1 << 5
    ACTIVE = 1 << 6
    WRITEBACK = 1 << 7
    ANON = 1 << 9
    UNEVICTABLE = 1 << 10
    MLOCKED = 1 << 11
    PGTABLE = 1 << 12
    SWAPCACHE = 1 << 13
    LAZYFREE = 1 << 14
    SWAPBACKED = 1 << 15


# Plain integers for the fault path: arithmetic on IntFlag members costs ten times as much.
PG_LOCKED: Final = int(PageFlag.LOCKED)
PG_REFERENCED: Final = int(PageFlag.REFERENCED)
PG_UPTODATE: Final = int(PageFlag.UPTODATE)
PG_DIRTY: Final = int(PageFlag.DIRTY)
PG_LRU: Final = int(PageFlag.LRU)
PG_ACTIVE: Final = int(PageFlag.ACTIVE)
PG_WRITEBACK: Final = int(PageFlag.WRITEBACK)
PG_ANON: Final = int(PageFlag.ANON)
PG_UNEVICTABLE: Final = int(PageFlag.UNEVICTABLE)
PG_MLOCKED: Final = int(PageFlag.MLOCKED)
PG_PGTABLE: Final = int(PageFlag.PGTABLE)
PG_SWAPCACHE: Final = int(PageFlag.SWAPCACHE)
PG_LAZYFREE: Final = int(PageFlag.LAZYFREE)
PG_SWAPBACKED: Final = int(PageFlag.SWAPBACKED)


class MemMap:
    """The array of struct page.

    Fields, one entry a frame, indexed by pfn: `flags` (uint32, PageFlag), `refcount` and `mapcount` (int32;
    mapcount counts PTEs from 0, not from -1 as the kernel does), `mapping` (int32, the id of the
    AddressSpace or, of an anonymous page, of the AnonVma; 0 for none), `index` (int64, pgoff within the
    mapping), `private` (int64, the swap entry of a page in the swap cache).
    """

    def __init__(self, nr_frames: int) -> None:
        self.nr_frames = nr_frames
        self.flags_array: npt.NDArray[np.uint32] = np.zeros(nr_frames, np.uint32)
        self.refcount_array: npt.NDArray[np.int32] = np.zeros(nr_frames, np.int32)
        self.mapcount_array: npt.NDArray[np.int32] = np.zeros(nr_frames, np.int32)
        self.mapping_array: npt.NDArray[np.int32] = np.zeros(nr_frames, np.int32)
        self.index_array: npt.NDArray[np.int64] = np.zeros(nr_frames, np.int64)
        self.private_array: npt.NDArray[np.int64] = np.zeros(nr_frames, np.int64)
        self.flags = self.flags_array.data
        self.refcount = self.refcount_array.data
        self.mapcount = self.mapcount_array.data
        self.mapping = self.mapping_array.data
        self.index = self.index_array.data
        self.private = self.private_array.data

    def describe(self, pfn: int) -> str:
        """Return a line that shows one struct page, as dump_page() prints it."""
        flags = PageFlag(self.flags[pfn]).name or "none"
        return (
            f"page pfn={pfn} refcount={self.refcount[pfn]} mapcount={self.mapcount[pfn]}"
            f" mapping={self.mapping[pfn]} index={self.index[pfn]} flags={flags}"
        )


ACTIVE: Final = 0
INACTIVE: Final = 1
UNEVICTABLE: Final = 2
_NR_LISTS: Final = 3
_PG_NO_FILE: Final = PG_ANON | PG_SWAPBACKED


class LruLists:
    """The active, inactive and unevictable lists, doubly linked through arrays: O(1) for each operation.

    The heads are three extra slots behind the last frame. A page is on at most one list; PG_LRU says that it
    is on one, PG_ACTIVE and PG_UNEVICTABLE on which. `nr` counts a list's pages, `nr_file` those of files
    among them (page_is_file_cache): neither anonymous nor PG_SWAPBACKED, as shared anonymous memory is.

    Source: Linux v2.6.20 include/linux/mm_inline.h; the unevictable list and PG_swapbacked came with v2.6.28.
    """

    def __init__(self, mem_map: MemMap) -> None:
        nr_frames = mem_map.nr_frames
        self._flags = mem_map.flags
        self._mem_map = mem_map
        self.next_array: npt.NDArray[np.int32] = np.zeros(nr_frames + _NR_LISTS, np.int32)
        self.prev_array: npt.NDArray[np.int32] = np.zeros(nr_frames + _NR_LISTS, np.int32)
        self._next = self.next_array.data
        self._prev = self.prev_array.data
        self._heads = tuple(nr_frames + which for which in range(_NR_LISTS))
        for head in self._heads:
            self._next[head] = self._prev[head] = head
        self.nr = [0] * _NR_LISTS
        self.nr_file = [0] * _NR_LISTS

    def which(self, pfn: int) -> int:
        """Return the list that the page's flags name."""
        flags = self._flags[pfn]
        if flags & PG_UNEVICTABLE:
            return UNEVICTABLE
        return ACTIVE if flags & PG_ACTIVE else INACTIVE

    def add(self, pfn: int, which: int) -> None:
        """Put a page at the head (the young end) of a list."""
        flags = self._flags[pfn]
        if flags & PG_LRU:
            raise KernelBug(f"already on a list: {self._mem_map.describe(pfn)}")
        flags &= ~(PG_ACTIVE | PG_UNEVICTABLE)
        if which == ACTIVE:
            flags |= PG_ACTIVE
        elif which == UNEVICTABLE:
            flags |= PG_UNEVICTABLE
        self._flags[pfn] = flags | PG_LRU
        links_next, links_prev, head = self._next, self._prev, self._heads[which]
        first = links_next[head]
        links_next[pfn] = first
        links_prev[pfn] = head
        links_prev[first] = pfn
        links_next[head] = pfn
        self.nr[which] += 1
        if not flags & _PG_NO_FILE:
            self.nr_file[which] += 1

    def remove(self, pfn: int) -> None:
        """Take a page off its list; PG_ACTIVE stays, to say where it was."""
        flags = self._flags[pfn]
        if not flags & PG_LRU:
            raise KernelBug(f"on no list: {self._mem_map.describe(pfn)}")
        which = self.which(pfn)
        self.nr[which] -= 1
        if not flags & _PG_NO_FILE:
            self.nr_file[which] -= 1
        self._flags[pfn] = flags & ~PG_LRU
        before, after = self._prev[pfn], self._next[pfn]
        self._next[before] = after
        self._prev[after] = before

    def move(self, pfn: int, which: int) -> None:
        """Put a listed page at the head of another list, or of its own."""
        self.remove(pfn)
        self.add(pfn, which)

    def tail(self, which: int) -> int:
        """Return the oldest page of a list, 0 if it is empty."""
        head = self._heads[which]
        pfn = self._prev[head]
        return 0 if pfn == head else pfn

    def pages(self, which: int) -> list[int]:
        """Return a list's pages from the youngest to the oldest (for check.py and dumps)."""
        head = self._heads[which]
        found = []
        pfn = self._next[head]
        while pfn != head:
            found.append(pfn)
            pfn = self._next[pfn]
        return found
