"""Swap areas and the swap cache: which slots are in use, by how many, and which pages stand for them.

A slot is in use once for each swap PTE that names it, and once for the swap cache if that holds its page.

Source: Linux v2.6.20 mm/swapfile.c: scan_swap_map(), swap_duplicate(), swap_entry_free(); include/linux/swap.h:
struct swap_info_struct; mm/swap_state.c: swapper_space.
"""

import numpy as np
import numpy.typing as npt

from emu.errors import KernelBug
from emu.hw.swapops import swp_entry, swp_offset, swp_type

SWAP_MAP_BAD = 0x8000
"""The count of a slot that must not be used: the header."""


class SwapInfo:
    """One swap area: `max_slots` slots of a page each, the header's included, in the host file `fd`.

    `swap_map` holds each slot's count. Slots are handed out in rising order from where the last search ended, so that
    pages that go out together lie together.
    """

    def __init__(self, swap_type: int, name: str, fd: int, max_slots: int) -> None:
        self.swap_type = swap_type
        self.name = name
        self.fd = fd
        self.max_slots = max_slots
        self.swap_map: npt.NDArray[np.int32] = np.zeros(max_slots, np.int32)
        self.swap_map[0] = SWAP_MAP_BAD
        # The same as bytes, 1 for used: bytearray.find is the quickest search there is.
        self._used = bytearray(max_slots)
        self._used[0] = 1
        self._next = 1
        self.inuse_pages = 0
        self.closing = False

    @property
    def nr_free(self) -> int:
        """How many slots are free."""
        return self.max_slots - 1 - self.inuse_pages

    def scan_swap_map(self) -> int:
        """Take a free slot, counted once, and return it; 0 if there is none."""
        offset = self._used.find(0, self._next)
        if offset < 0:
            offset = self._used.find(0)
        if offset < 0:
            return 0
        self._next = offset + 1
        self._used[offset] = 1
        self.swap_map[offset] = 1
        self.inuse_pages += 1
        return offset

    def is_used(self, offset: int) -> bool:
        """Tell whether a slot holds a page of somebody's; False beyond the area, and of the header."""
        return 0 < offset < self.max_slots and bool(self._used[offset])

    def change_count(self, offset: int, change: int) -> int:
        """Count a slot's users up or down and return how many there are; the last one frees it."""
        if not self.is_used(offset):
            raise KernelBug(f"slot {offset} of swap area {self.swap_type} is not in use")
        count = int(self.swap_map[offset]) + change
        self.swap_map[offset] = count
        if not count:
            self._used[offset] = 0
            self.inuse_pages -= 1
        return count


class Swap:
    """All areas of a machine, by number, and the swap cache: entry -> pfn."""

    def __init__(self) -> None:
        self.areas: dict[int, SwapInfo] = {}
        self.cache: dict[int, int] = {}

    @property
    def total_pages(self) -> int:
        """Slots in all (SwapTotal), without the headers."""
        return sum(area.max_slots - 1 for area in self.areas.values())

    @property
    def nr_free(self) -> int:
        """Slots that can be handed out (SwapFree)."""
        return sum(area.nr_free for area in self.areas.values() if not area.closing)

    def get_swap_page(self) -> int:
        """Take a slot of the first area that has one, and return its entry; 0 if swap is full."""
        for swap_type, area in self.areas.items():
            offset = 0 if area.closing else area.scan_swap_map()
            if offset:
                return swp_entry(swap_type, offset)
        return 0

    def area_of(self, entry: int) -> SwapInfo:
        """Return the area of an entry; KernelBug if there is none."""
        area = self.areas.get(swp_type(entry))
        if area is None:
            raise KernelBug(f"swap entry {entry:#x} names area {swp_type(entry)}, which is not in use")
        return area

    def swap_count(self, entry: int) -> int:
        """Return how many use a slot, the swap cache included."""
        return int(self.area_of(entry).swap_map[swp_offset(entry)])

    def swap_duplicate(self, entry: int) -> None:
        """Count one more user of a slot."""
        self.area_of(entry).change_count(swp_offset(entry), 1)

    def swap_free(self, entry: int) -> int:
        """Count one user less; return how many are left."""
        return self.area_of(entry).change_count(swp_offset(entry), -1)

    def vm_swap_full(self) -> bool:
        """Tell whether swap is more than half full: then no slot is kept for a page that is in memory."""
        return self.nr_free * 2 < self.total_pages
