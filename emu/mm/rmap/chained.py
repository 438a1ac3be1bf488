"""ChainedPages: page -> words, one word a mapped page, more only for pages that are mapped more than once."""

from emu.errors import KernelBug
from emu.mm.rmap.chains import ChainBlocks, FrameWords


class ChainedPages:
    """A multimap pfn -> words of 4 or 8 bytes; words are not 0 and leave their top bit free.

    A frame's word is the single entry, or, with the top bit set, the number of its first chain block, which has
    `block_nbytes`.
    """

    def __init__(self, word_nbytes: int, block_nbytes: int) -> None:
        self._chained = 1 << (8 * word_nbytes - 1)
        self._heads = FrameWords(word_nbytes)
        self._blocks = ChainBlocks(word_nbytes, block_nbytes)
        self.visits = 0

    @property
    def nbytes(self) -> int:
        """The bytes allocated: slabs of heads, and chain blocks in use."""
        return self._heads.nbytes + self._blocks.nbytes

    def add(self, pfn: int, word: int) -> None:
        """Add an entry to a page."""
        head = self._heads.get(pfn)
        self.visits = 1
        if not head:
            self._heads.put(pfn, word)
            return
        first = head ^ self._chained if head & self._chained else self._blocks.add(self._blocks.new(0), head)
        self._heads.put(pfn, self._blocks.add(first, word) | self._chained)
        self.visits += self._blocks.visits

    def remove(self, pfn: int, word: int) -> None:
        """Remove an entry of a page; KernelBug if it is not there."""
        head = self._heads.get(pfn)
        self.visits = 1
        if not head & self._chained:
            if head != word:
                raise KernelBug(f"pfn {pfn} has entry {head:#x}, not {word:#x}")
            self._heads.put(pfn, 0)
            return
        first, there = self._blocks.remove(head ^ self._chained, word)
        self.visits += self._blocks.visits
        if not there:
            raise KernelBug(f"pfn {pfn} has no entry {word:#x} in its chain")
        last = self._blocks.only_word(first)
        if last:
            self._blocks.free(first)
        self._heads.put(pfn, last or first | self._chained)

    def get(self, pfn: int) -> list[int]:
        """Return the entries of a page."""
        head = self._heads.get(pfn)
        self.visits = 1
        if not head:
            return []
        if not head & self._chained:
            return [head]
        words = self._blocks.words(head ^ self._chained)
        self.visits += self._blocks.visits
        return words

