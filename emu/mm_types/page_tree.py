"""pgoff -> page for one file, with tags: what the kernel's page cache radix tree answers.

Two levels: an ordered dictionary of chunks, each a pair of arrays for CHUNK consecutive pgoffs. A look-up costs
one dictionary access and one array read; a search by tag is vectorised within a chunk and skips chunks without it.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from sortedcontainers import SortedDict

from emu.errors import KernelBug

CHUNK_SHIFT: Final = 10
CHUNK: Final = 1 << CHUNK_SHIFT
_MASK: Final = CHUNK - 1

TAG_DIRTY: Final = 1
TAG_WRITEBACK: Final = 2


class _Chunk:
    """CHUNK slots: pfn (0 = no page) and tags, with how many slots are in use and how many carry each tag."""

    __slots__ = ("nr_pages", "nr_tagged", "pfn", "pfn_array", "tags", "tags_array")

    def __init__(self) -> None:
        self.pfn_array: npt.NDArray[np.int32] = np.zeros(CHUNK, np.int32)
        self.tags_array: npt.NDArray[np.uint8] = np.zeros(CHUNK, np.uint8)
        self.pfn = self.pfn_array.data
        self.tags = self.tags_array.data
        self.nr_pages = 0
        self.nr_tagged = {TAG_DIRTY: 0, TAG_WRITEBACK: 0}


class PageTree:
    """Pages of one file by pgoff; tags DIRTY and WRITEBACK.

    Cost: `lookup`, `insert`, `delete`, tag changes O(1) (O(log chunks) for the first page of a chunk); searches
    O(chunks in range + pages found).
    """

    def __init__(self) -> None:
        self._chunks: SortedDict = SortedDict()
        self._get = self._chunks.get
        self.nr_pages = 0
        self.nr_tagged = {TAG_DIRTY: 0, TAG_WRITEBACK: 0}

    def lookup(self, pgoff: int) -> int:
        """Return the pfn of the page at `pgoff`, 0 if there is none (find_get_page)."""
        chunk = self._get(pgoff >> CHUNK_SHIFT)
        return 0 if chunk is None else chunk.pfn[pgoff & _MASK]

    def lookup_many(self, pgoffs: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Return the pfns at many pgoffs, 0 where there is no page."""
        found = np.zeros(len(pgoffs), np.int32)
        keys = pgoffs >> CHUNK_SHIFT
        for key in np.unique(keys):
            chunk = self._get(int(key))
            if chunk is not None:
                here = keys == key
                found[here] = chunk.pfn_array[pgoffs[here] & _MASK]
        return found

    def insert(self, pgoff: int, pfn: int) -> None:
        """Add a page; KernelBug if the slot is taken."""
        key = pgoff >> CHUNK_SHIFT
        chunk = self._get(key)
        if chunk is None:
            chunk = self._chunks[key] = _Chunk()
        slot = pgoff & _MASK
        if chunk.pfn[slot]:
            raise KernelBug(f"page cache slot {pgoff} holds pfn {chunk.pfn[slot]}, not free for {pfn}")
        chunk.pfn[slot] = pfn
        chunk.nr_pages += 1
        self.nr_pages += 1

    def delete(self, pgoff: int) -> None:
        """Remove the page at `pgoff` and its tags; KernelBug if there is none."""
        key = pgoff >> CHUNK_SHIFT
        chunk = self._get(key)
        slot = pgoff & _MASK
        if chunk is None or not chunk.pfn[slot]:
            raise KernelBug(f"page cache slot {pgoff} is empty")
        for tag in (TAG_DIRTY, TAG_WRITEBACK):
            self.clear_tag(pgoff, tag)
        chunk.pfn[slot] = 0
        chunk.nr_pages -= 1
        self.nr_pages -= 1
        if not chunk.nr_pages:
            del self._chunks[key]

    def set_tag(self, pgoff: int, tag: int) -> None:
        """Tag the page at `pgoff`; KernelBug if there is none."""
        chunk = self._get(pgoff >> CHUNK_SHIFT)
        slot = pgoff & _MASK
        if chunk is None or not chunk.pfn[slot]:
            raise KernelBug(f"tag {tag} for the empty slot {pgoff}")
        if not chunk.tags[slot] & tag:
            chunk.tags[slot] |= tag
            chunk.nr_tagged[tag] += 1
            self.nr_tagged[tag] += 1

    def clear_tag(self, pgoff: int, tag: int) -> None:
        """Take a tag off the page at `pgoff`, if it has it."""
        chunk = self._get(pgoff >> CHUNK_SHIFT)
        if chunk is None:
            return
        slot = pgoff & _MASK
        if chunk.tags[slot] & tag:
            chunk.tags[slot] &= ~tag
            chunk.nr_tagged[tag] -= 1
            self.nr_tagged[tag] -= 1

    def tags(self, pgoff: int) -> int:
        """Return the tags at `pgoff`."""
        chunk = self._get(pgoff >> CHUNK_SHIFT)
        return 0 if chunk is None else int(chunk.tags[pgoff & _MASK])

    def find_tagged(self, tag: int, start: int, stop: int, limit: int) -> list[int]:
        """Return up to `limit` pgoffs in [start, stop) that carry the tag, ascending (find_get_pages_tag)."""
        found: list[int] = []
        for key in self._chunks.irange(start >> CHUNK_SHIFT, (stop - 1) >> CHUNK_SHIFT):
            chunk = self._chunks[key]
            if not chunk.nr_tagged[tag]:
                continue
            base = key << CHUNK_SHIFT
            pgoffs = np.flatnonzero(chunk.tags_array & tag) + base
            if start > base or stop < base + CHUNK:
                pgoffs = pgoffs[(pgoffs >= start) & (pgoffs < stop)]
            found.extend(pgoffs[: limit - len(found)].tolist())
            if len(found) >= limit:
                break
        return found

    def find_pages(self, start: int, stop: int, limit: int) -> list[tuple[int, int]]:
        """Return up to `limit` pairs (pgoff, pfn) in [start, stop), ascending (find_get_pages)."""
        found: list[tuple[int, int]] = []
        for key in self._chunks.irange(start >> CHUNK_SHIFT, (stop - 1) >> CHUNK_SHIFT):
            chunk = self._chunks[key]
            base = key << CHUNK_SHIFT
            slots = np.flatnonzero(chunk.pfn_array)
            pgoffs = slots + base
            inside = (pgoffs >= start) & (pgoffs < stop)
            pairs = zip(pgoffs[inside].tolist(), chunk.pfn_array[slots[inside]].tolist(), strict=True)
            found.extend(pairs)
            if len(found) >= limit:
                return found[:limit]
        return found

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield every (pgoff, pfn), ascending."""
        for key, chunk in list(self._chunks.items()):
            base = key << CHUNK_SHIFT
            for slot in np.flatnonzero(chunk.pfn_array).tolist():
                yield base + slot, chunk.pfn[slot]
