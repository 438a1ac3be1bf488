"""VmaTree: an mm's VMAs in the order of their addresses, each linked to its neighbours.

A B-tree of two levels: leaves of some hundred VMAs, and the addresses that divide them. A look-up is two bisections;
what lies next to a VMA is told by `vm_next` and `vm_prev`, without any.

Source: Linux v2.6.38 mm/mmap.c: find_vma(), __vma_link(), __vma_unlink(). Linux had a red-black tree beside the list
until v6.1, and has a B-tree (the maple tree) since.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain

from emu.errors import KernelBug
from emu.mm_types.vma import VM_GROWSDOWN, VmArea

_LEAF_MAX = 512
"""Most VMAs of a leaf; a fuller one is halved."""


class VmaTree:
    """VMAs that never overlap. Look-ups are O(log n), and O(1) for the VMA found or inserted last (mmap_cache).

    `visits` is an odometer of the nodes that a balanced tree of single VMAs would visit in `insert` and `remove`.
    """

    __slots__ = ("_borders", "_cache", "_nr", "_starts", "_vmas", "visits")

    def __init__(self) -> None:
        # Leaf i + 1 holds the VMAs that start at _borders[i] or above. No leaf is empty but the only one.
        self._borders: list[int] = []
        self._starts: list[list[int]] = [[]]
        self._vmas: list[list[VmArea]] = [[]]
        self._nr = 0
        self._cache: VmArea | None = None
        self.visits = 0

    def __len__(self) -> int:
        return self._nr

    def __iter__(self) -> Iterator[VmArea]:
        """Yield the VMAs in ascending order; copy them first if they may change meanwhile."""
        return chain.from_iterable(self._vmas)

    def find(self, vaddr: int) -> VmArea | None:
        """Return the first VMA that ends above `vaddr`; it may start above it, too (find_vma)."""
        cached = self._cache
        if cached is not None and cached.start <= vaddr < cached.end:
            return cached
        below, above = self._neighbours(vaddr)
        if below is not None and vaddr < below.end:
            self._cache = below
            return below
        return above

    def _neighbours(self, vaddr: int) -> tuple[VmArea | None, VmArea | None]:
        """Return the last VMA that starts at or below `vaddr`, and the first that starts above it."""
        leaf = bisect_right(self._borders, vaddr)
        place = bisect_right(self._starts[leaf], vaddr)
        if place:
            below = self._vmas[leaf][place - 1]
            return below, below.vm_next
        if not self._nr:
            return None, None
        above = self._vmas[leaf][0]
        return above.vm_prev, above

    def prev(self, vaddr: int) -> VmArea | None:
        """Return the last VMA that starts below `vaddr`."""
        return self._neighbours(vaddr - 1)[0]

    def overlapping(self, start: int, end: int) -> list[VmArea]:
        """Return the VMAs that share an address with [start, end), ascending."""
        found = []
        vma = self.find(start)
        while vma is not None and vma.start < end:
            found.append(vma)
            vma = vma.vm_next
        return found

    def insert(self, vma: VmArea) -> None:
        """Add a VMA and link it; KernelBug if it overlaps another."""
        start = vma.start
        below, above = self._neighbours(start)
        if (below is not None and below.end > start) or (above is not None and above.start < vma.end):
            raise KernelBug(f"{vma!r} overlaps {below!r} or {above!r}")
        leaf = bisect_right(self._borders, start)
        starts, vmas = self._starts[leaf], self._vmas[leaf]
        place = bisect_right(starts, start)
        starts.insert(place, start)
        vmas.insert(place, vma)
        if len(starts) > _LEAF_MAX:
            self._halve(leaf)
        vma.vm_prev, vma.vm_next = below, above
        if below is not None:
            below.vm_next = vma
        if above is not None:
            above.vm_prev = vma
        self._nr += 1
        self.visits += self._nr.bit_length()
        self._cache = vma

    def _halve(self, leaf: int) -> None:
        starts, vmas = self._starts[leaf], self._vmas[leaf]
        half = len(starts) // 2
        self._borders.insert(leaf, starts[half])
        self._starts[leaf : leaf + 1] = starts[:half], starts[half:]
        self._vmas[leaf : leaf + 1] = vmas[:half], vmas[half:]

    def remove(self, vma: VmArea) -> None:
        """Take a VMA out and unlink it; KernelBug if it is not there."""
        leaf = bisect_right(self._borders, vma.start)
        starts, vmas = self._starts[leaf], self._vmas[leaf]
        place = bisect_left(starts, vma.start)
        if place == len(starts) or vmas[place] is not vma:
            raise KernelBug(f"{vma!r} is not in its mm")
        del starts[place], vmas[place]
        if not starts and self._borders:
            del self._starts[leaf], self._vmas[leaf]
            del self._borders[max(leaf - 1, 0)]
        below, above = vma.vm_prev, vma.vm_next
        if below is not None:
            below.vm_next = above
        if above is not None:
            above.vm_prev = below
        vma.vm_prev = vma.vm_next = None
        self.visits += self._nr.bit_length()
        self._nr -= 1
        if self._cache is vma:
            self._cache = None

    def resize(self, vma: VmArea, start: int, end: int) -> None:
        """Move a VMA's borders, as far as its neighbours allow."""
        if start == vma.start:
            vma.end = end
            return
        self.remove(vma)
        vma.start, vma.end = start, end
        self.insert(vma)

    def gap(self, nbytes: int, lowest: int, highest: int) -> int:
        """Return the highest free range of `nbytes` in [lowest, highest), -1 if there is none (top-down)."""
        end = highest
        vma = self._vmas[-1][-1] if self._nr else None
        while vma is not None and (vma.end > end or end - vma.end < nbytes):
            end = min(end, vma.start_gap if vma.flags & VM_GROWSDOWN else vma.start)
            vma = vma.vm_prev
        start = end - nbytes
        return start if start >= lowest else -1
