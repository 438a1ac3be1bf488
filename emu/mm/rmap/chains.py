"""FrameWords: one word a frame, allocated a slab at a time; ChainBlocks: lists of words in small blocks.

What pte_chain and slot_chain are made of: a page that one PTE maps keeps its word in place (Linux 2.5 called that
PG_direct); a page that more map keeps there the number of its first block.
"""

from typing import Final

import numpy as np

CACHE_LINE: Final = 64
_SLAB_SHIFT: Final = 9
_SLAB: Final = 1 << _SLAB_SHIFT


class FrameWords:
    """An array of words by pfn, 0 where nothing was stored; slabs of 512 words come when they are needed."""

    def __init__(self, word_nbytes: int) -> None:
        self._dtype = np.uint32 if word_nbytes == 4 else np.uint64
        self._word_nbytes = word_nbytes
        self._slabs: dict[int, memoryview] = {}
        self._used: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """The bytes allocated."""
        return len(self._slabs) * _SLAB * self._word_nbytes

    def get(self, pfn: int) -> int:
        """Return the word of a frame."""
        slab = self._slabs.get(pfn >> _SLAB_SHIFT)
        return 0 if slab is None else slab[pfn & (_SLAB - 1)]

    def put(self, pfn: int, word: int) -> None:
        """Set the word of a frame; a slab of zeroes is given back."""
        high = pfn >> _SLAB_SHIFT
        slab = self._slabs.get(high)
        if slab is None:
            slab = self._slabs[high] = np.zeros(_SLAB, self._dtype).data
            self._used[high] = 0
        old = slab[pfn & (_SLAB - 1)]
        slab[pfn & (_SLAB - 1)] = word
        self._used[high] += bool(word) - bool(old)
        if not self._used[high]:
            del self._slabs[high], self._used[high]


class ChainBlocks:
    """Lists of words in blocks: the first word of a block links to the next one, the others are entries.

    New entries go to the first block; a removed one is replaced by one of the first block, so only that is not full.
    Source of the idea: Linux v2.5.59 mm/rmap.c: struct pte_chain. Cost: add O(1); remove O(entries before it).
    """

    def __init__(self, word_nbytes: int, block_nbytes: int) -> None:
        self._dtype = np.uint32 if word_nbytes == 4 else np.uint64
        self.block_nbytes = block_nbytes
        self.entries_per_block = block_nbytes // word_nbytes - 1
        self._blocks: list[memoryview] = []
        self._free: list[int] = []
        self.visits = 0

    @property
    def nbytes(self) -> int:
        """The bytes of the blocks in use."""
        return (len(self._blocks) - len(self._free)) * self.block_nbytes

    def new(self, following: int) -> int:
        """Return the number (from 1) of an empty block that links to `following` (0: none)."""
        if self._free:
            number = self._free.pop()
        else:
            self._blocks.append(np.zeros(self.entries_per_block + 1, self._dtype).data)
            number = len(self._blocks)
        block = self._blocks[number - 1]
        block[0] = following
        for slot in range(1, self.entries_per_block + 1):
            block[slot] = 0
        return number

    def add(self, first: int, word: int) -> int:
        """Add an entry to the list that starts at block `first`; return its first block now."""
        block = self._blocks[first - 1]
        self.visits = 1
        for slot in range(1, self.entries_per_block + 1):
            if not block[slot]:
                block[slot] = word
                return first
        number = self.new(first)
        self._blocks[number - 1][1] = word
        self.visits += 1
        return number

    def remove(self, first: int, word: int) -> tuple[int, bool]:
        """Remove an entry; return (first block now, 0 if the list is empty; whether it was there)."""
        self.visits = 0
        number = first
        while number:
            block = self._blocks[number - 1]
            self.visits += 1
            for slot in range(1, self.entries_per_block + 1):
                if block[slot] == word:
                    return self._fill_hole(first, block, slot), True
            number = block[0]
        return first, False

    def _fill_hole(self, first: int, block: memoryview, slot: int) -> int:
        head = self._blocks[first - 1]
        last = max(one for one in range(1, self.entries_per_block + 1) if head[one])
        block[slot] = head[last]
        head[last] = 0
        if last > 1:
            return first
        following = int(head[0])
        self._free.append(first)
        # The next one is the first now; a walk that ended in the block that went has not seen it yet.
        self.visits += bool(following) and block is head
        return following

    def words(self, first: int) -> list[int]:
        """Return the entries of a list."""
        found: list[int] = []
        self.visits = 0
        while first:
            block = self._blocks[first - 1]
            self.visits += 1
            found += [word for word in block[1:].tolist() if word]
            first = block[0]
        return found

    def only_word(self, first: int) -> int:
        """Return the entry of a list that has just one, else 0."""
        block = self._blocks[first - 1]
        return 0 if block[0] or block[2] else int(block[1])

    def free(self, first: int) -> None:
        """Give back the one block of a list."""
        self._free.append(first)
