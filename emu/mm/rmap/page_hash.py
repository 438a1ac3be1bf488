"""PageHash: a multimap from pfn to (mm, virtual page), in at most 24 bytes an entry.

Chains of the PTEs of one page hang in a hash table of pages. The table grows bucket by bucket (linear hashing) and
nodes come from small slabs, so that what is allocated stays close to what is used, also at the peak.

A node takes 20 bytes: key (asid and virtual page number, 8), pfn (4), next (4), back (4). The first node of a page
hangs in its bucket through `back`, which holds the next page's first node there; the others hold the previous
node of the page, so that a node found can be taken out in O(1). A bucket takes 4 bytes and serves two pages.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

SLAB: Final = 16
_SLAB_SHIFT: Final = 4
_SLAB_MASK: Final = SLAB - 1
NODE_NBYTES: Final = 20
BUCKET_NBYTES: Final = 4
_LOAD: Final = 2
_NIL: Final = 0xFFFFFFFF
VPN_BITS: Final = 44


class PageHash:
    """A multimap pfn -> key; keys are (asid << 44) | virtual page number.

    Cost: add O(1); remove and get O(entries of that page + pages in its bucket, 2 on average). `visits` counts the
    nodes and buckets that the last operation read or wrote (emu.mm.rmap.base), an added node and those that a growing
    table moves among them.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything and free all slabs."""
        self._keys: list[memoryview] = []
        self._pfns: list[memoryview] = []
        self._next: list[memoryview] = []
        self._back: list[memoryview] = []
        self._free = _NIL
        self._buckets: list[memoryview] = []
        self._nr_buckets = 0
        self._level_buckets = 1
        self._nr_pages = 0
        self.nr_entries = 0
        self.visits = 0

    @property
    def nbytes(self) -> int:
        """The bytes allocated: whole slabs of nodes and of buckets."""
        return SLAB * (len(self._keys) * NODE_NBYTES + len(self._buckets) * BUCKET_NBYTES)

    def add(self, pfn: int, key: int) -> None:
        """Add an entry; the caller knows that it is not there yet."""
        node = self._new_node()
        high, low = node >> _SLAB_SHIFT, node & _SLAB_MASK
        self._keys[high][low] = key
        self._pfns[high][low] = pfn
        first, _ = self._find(pfn)
        self.visits += 1
        if first == _NIL:
            self._next[high][low] = _NIL
            self._nr_pages += 1
            if self._nr_pages > _LOAD * self._nr_buckets:
                self._grow()
            bucket = self._bucket(pfn)
            self._back[high][low] = self._buckets[bucket >> _SLAB_SHIFT][bucket & _SLAB_MASK]
            self._buckets[bucket >> _SLAB_SHIFT][bucket & _SLAB_MASK] = node
        else:
            # Behind the first, so that the bucket need not change.
            second = self._next[first >> _SLAB_SHIFT][first & _SLAB_MASK]
            self._next[high][low] = second
            self._back[high][low] = first
            self._next[first >> _SLAB_SHIFT][first & _SLAB_MASK] = node
            if second != _NIL:
                self._back[second >> _SLAB_SHIFT][second & _SLAB_MASK] = node
                self.visits += 1
        self.nr_entries += 1

    def remove(self, pfn: int, key: int) -> bool:
        """Remove an entry; False if it is not there."""
        first, before = self._find(pfn)
        node = first
        while node != _NIL and self._keys[node >> _SLAB_SHIFT][node & _SLAB_MASK] != key:
            node = self._next[node >> _SLAB_SHIFT][node & _SLAB_MASK]
            self.visits += 1
        if node == _NIL:
            return False
        high, low = node >> _SLAB_SHIFT, node & _SLAB_MASK
        after, back = self._next[high][low], self._back[high][low]
        if node != first:
            self._next[back >> _SLAB_SHIFT][back & _SLAB_MASK] = after
            if after != _NIL:
                self._back[after >> _SLAB_SHIFT][after & _SLAB_MASK] = back
                self.visits += 1
        else:
            # `back` is the bucket's next page; the page's second node, if any, takes the place of the first.
            if after != _NIL:
                self._back[after >> _SLAB_SHIFT][after & _SLAB_MASK] = back
                self.visits += 1
                heir = after
            else:
                heir = back
                self._nr_pages -= 1
            self._unhook(pfn, before, heir)
        self._next[high][low] = self._free
        self._free = node
        self.nr_entries -= 1
        if not self.nr_entries:
            visits = self.visits
            self.clear()
            self.visits = visits
        return True

    def get(self, pfn: int) -> list[int]:
        """Return the keys of a page, the newest ones behind the oldest."""
        node, _ = self._find(pfn)
        keys = []
        while node != _NIL:
            high, low = node >> _SLAB_SHIFT, node & _SLAB_MASK
            keys.append(self._keys[high][low])
            node = self._next[high][low]
        self.visits += max(len(keys) - 1, 0)
        return keys

    def take(self, pfn: int) -> list[int]:
        """Remove all entries of a page at once and return their keys."""
        first, before = self._find(pfn)
        if first == _NIL:
            return []
        keys = []
        node = last = first
        while node != _NIL:
            high, low = node >> _SLAB_SHIFT, node & _SLAB_MASK
            keys.append(self._keys[high][low])
            last, node = node, self._next[high][low]
        self.visits += len(keys) - 1
        self._unhook(pfn, before, self._back[first >> _SLAB_SHIFT][first & _SLAB_MASK])
        self._nr_pages -= 1
        self._next[last >> _SLAB_SHIFT][last & _SLAB_MASK] = self._free
        self._free = first
        self.nr_entries -= len(keys)
        if not self.nr_entries:
            visits = self.visits
            self.clear()
            self.visits = visits
        return keys

    def _unhook(self, pfn: int, before: int, heir: int) -> None:
        """Let `heir` take a page's place in its bucket: the page's second node, another page's first, or none."""
        if before == _NIL:
            bucket = self._bucket(pfn)
            self._buckets[bucket >> _SLAB_SHIFT][bucket & _SLAB_MASK] = heir
        else:
            self._back[before >> _SLAB_SHIFT][before & _SLAB_MASK] = heir

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield every (pfn, key)."""
        for bucket in range(self._nr_buckets):
            page = self._buckets[bucket >> _SLAB_SHIFT][bucket & _SLAB_MASK]
            while page != _NIL:
                node = page
                while node != _NIL:
                    high, low = node >> _SLAB_SHIFT, node & _SLAB_MASK
                    yield self._pfns[high][low], self._keys[high][low]
                    node = self._next[high][low]
                page = self._back[page >> _SLAB_SHIFT][page & _SLAB_MASK]

    def _find(self, pfn: int) -> tuple[int, int]:
        """Return (first node of the page, first node of the page before it in the bucket), each _NIL if none.

        Visits: the bucket, and the first nodes of the pages in it, up to this page's own.
        """
        self.visits = 1
        if not self._nr_buckets:
            return _NIL, _NIL
        bucket = self._bucket(pfn)
        page, before = self._buckets[bucket >> _SLAB_SHIFT][bucket & _SLAB_MASK], _NIL
        while page != _NIL and self._pfns[page >> _SLAB_SHIFT][page & _SLAB_MASK] != pfn:
            before = page
            page = self._back[page >> _SLAB_SHIFT][page & _SLAB_MASK]
            self.visits += 1
        self.visits += page != _NIL
        return page, before

    def _bucket(self, pfn: int) -> int:
        """Return the bucket of a page: linear hashing, the buckets of this round split up to nr_buckets."""
        spread = pfn * 0x9E3779B1 & 0xFFFFFFFF
        spread ^= spread >> 15
        bucket = spread & (2 * self._level_buckets - 1)
        return bucket if bucket < self._nr_buckets else bucket & (self._level_buckets - 1)

    def _grow(self) -> None:
        """Add one bucket and move to it what belongs there from the bucket that is split."""
        new = self._nr_buckets
        if new >> _SLAB_SHIFT == len(self._buckets):
            self._buckets.append(np.full(SLAB, _NIL, np.uint32).data)
        self._nr_buckets = new + 1
        if not new:
            return
        if new == 2 * self._level_buckets:
            self._level_buckets = new
        old = new - self._level_buckets
        self.visits += 2
        page = self._buckets[old >> _SLAB_SHIFT][old & _SLAB_MASK]
        self._buckets[old >> _SLAB_SHIFT][old & _SLAB_MASK] = _NIL
        while page != _NIL:
            high, low = page >> _SLAB_SHIFT, page & _SLAB_MASK
            after = self._back[high][low]
            bucket = self._bucket(self._pfns[high][low])
            self.visits += 1
            self._back[high][low] = self._buckets[bucket >> _SLAB_SHIFT][bucket & _SLAB_MASK]
            self._buckets[bucket >> _SLAB_SHIFT][bucket & _SLAB_MASK] = page
            page = after

    def _new_node(self) -> int:
        if self._free == _NIL:
            base = len(self._keys) << _SLAB_SHIFT
            self._keys.append(np.zeros(SLAB, np.uint64).data)
            self._pfns.append(np.zeros(SLAB, np.uint32).data)
            self._back.append(np.zeros(SLAB, np.uint32).data)
            links = np.arange(base + 1, base + SLAB + 1, dtype=np.uint32)
            links[-1] = _NIL
            self._next.append(links.data)
            self._free = base
        node = self._free
        self._free = self._next[node >> _SLAB_SHIFT][node & _SLAB_MASK]
        return node
