"""A file's pages that are in RAM: a sparse map over blocks of memory.

A `PageMap` holds a file's pages in chunks of 32, each with one bit a page for dirty and for under writeback, so
that a request of 128 KiB costs one copy and a few integer operations, whatever it covers. Only pages whose bit
is set have meaning; the rest of a chunk's memory is junk.

A map does not lock: its owner calls it under the file's lock. The pool of blocks is shared, and does.
"""

from collections.abc import Callable, Iterator

from fsbackend.pagepool import BLOCK_NBYTES, Block, PagePool

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
CHUNK_SHIFT = 17
CHUNK_SIZE = 1 << CHUNK_SHIFT
PAGES_PER_CHUNK = CHUNK_SIZE >> PAGE_SHIFT
assert CHUNK_SIZE == BLOCK_NBYTES

Fill = Callable[[int, memoryview], None]
"""Called with a byte offset (page aligned) and a page of memory: puts there what the file holds."""


class Chunk:
    """The memory of 32 pages and, by bit, which of them are dirty and which are under writeback."""

    __slots__ = ("block", "dirty", "memory", "writeback")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.memory = block.memory
        self.dirty = 0
        self.writeback = 0


def bit_runs(mask: int) -> Iterator[tuple[int, int]]:
    """Yield (first bit, number of bits) of each run of ones."""
    while mask:
        first = (mask & -mask).bit_length() - 1
        rest = mask >> first
        count = (~rest & (rest + 1)).bit_length() - 1
        yield first, count
        mask = rest >> count << count + first


def span_mask(first: int, stop: int) -> int:
    """Return the bits of pages [first, stop) of one chunk."""
    return (1 << stop) - (1 << first)


class PageMap:
    """A file's pages that are in RAM, by offset. Bits say dirty or under writeback; a page has at least one."""

    __slots__ = ("chunks", "nr_pages", "pool")

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.chunks: dict[int, Chunk] = {}
        self.nr_pages = 0

    def write(self, offset: int, data: memoryview, fill: Fill) -> int:
        """Copy `data` to `offset`, filling the rest of pages it covers in part; return pages newly dirty."""
        nr_new, done, end = 0, 0, offset + len(data)
        if not data:
            return 0
        self._prepare(offset, end, fill)
        while offset < end:
            start = offset & (CHUNK_SIZE - 1)
            stop = min(CHUNK_SIZE, start + end - offset)
            chunk = self.chunks[offset >> CHUNK_SHIFT]
            chunk.memory[start:stop] = data[done : done + stop - start]
            mask = span_mask(start >> PAGE_SHIFT, (stop - 1 >> PAGE_SHIFT) + 1)
            nr_new += (mask & ~chunk.dirty).bit_count()
            self.nr_pages += (mask & ~(chunk.dirty | chunk.writeback)).bit_count()
            chunk.dirty |= mask
            done += stop - start
            offset += stop - start
        return nr_new

    def _prepare(self, offset: int, end: int, fill: Fill) -> None:
        """Do what of a write can fail, before it changes anything: get memory, fill pages that it covers in part."""
        first, last = offset >> CHUNK_SHIFT, end - 1 >> CHUNK_SHIFT
        try:
            for index in range(first, last + 1):
                if index not in self.chunks:
                    self.chunks[index] = Chunk(self.pool.alloc())
            if offset & (PAGE_SIZE - 1):
                self._fill(offset, fill)
            if end & (PAGE_SIZE - 1) and offset <= end & ~(PAGE_SIZE - 1):
                self._fill(end, fill)
        except BaseException:
            for index in range(first, last + 1):
                if index in self.chunks:
                    self._drop_if_empty(index, self.chunks[index])
            raise

    def adopt(self, offset: int, block: Block) -> int:
        """Make a block that holds the bytes of one whole chunk a part of the file; return the pages newly dirty.

        Nothing is copied. What was there before must not be under writeback.
        """
        index = offset >> CHUNK_SHIFT
        chunk = self.chunks.get(index)
        block = block.hand_over()
        if chunk is None:
            chunk = self.chunks[index] = Chunk(block)
        else:
            chunk.block.free()
            chunk.block, chunk.memory = block, block.memory
        nr_new = PAGES_PER_CHUNK - chunk.dirty.bit_count()
        self.nr_pages += nr_new
        chunk.dirty = span_mask(0, PAGES_PER_CHUNK)
        return nr_new

    def _fill(self, offset: int, fill: Fill) -> None:
        """Have the whole page of an offset in memory, if it is not there."""
        chunk = self.chunks[offset >> CHUNK_SHIFT]
        start = offset & (CHUNK_SIZE - PAGE_SIZE)
        if not (chunk.dirty | chunk.writeback) >> (start >> PAGE_SHIFT) & 1:
            fill(offset & ~(PAGE_SIZE - 1), chunk.memory[start : start + PAGE_SIZE])

    def _kept(self, offset: int, nbytes: int) -> Iterator[tuple[int, memoryview]]:
        """Yield (where in the range, the bytes) for each run of pages in it that are dirty or under writeback."""
        end = offset + nbytes
        for index in self._indices(offset, end):
            chunk = self.chunks[index]
            base = index << CHUNK_SHIFT
            for first, count in bit_runs(chunk.dirty | chunk.writeback):
                start = max(base + (first << PAGE_SHIFT), offset)
                stop = min(base + (first + count << PAGE_SHIFT), end)
                if start < stop:
                    yield start - offset, chunk.memory[start - base : stop - base]

    def overlay(self, offset: int, out: memoryview) -> None:
        """Copy the pages that are here over `out`, which begins at `offset` of the file."""
        for place, kept in self._kept(offset, len(out)):
            out[place : place + len(kept)] = kept

    def patch(self, offset: int, data: memoryview) -> None:
        """Copy `data` into those pages it touches that are here; the others stay absent."""
        for place, kept in self._kept(offset, len(data)):
            kept[:] = data[place : place + len(kept)]

    def covers(self, offset: int, nbytes: int) -> bool:
        """Return whether every page of the range is here."""
        end = offset + nbytes
        while offset < end:
            chunk = self.chunks.get(offset >> CHUNK_SHIFT)
            start = offset & (CHUNK_SIZE - 1)
            stop = min(CHUNK_SIZE, start + end - offset)
            mask = span_mask(start >> PAGE_SHIFT, (stop - 1 >> PAGE_SHIFT) + 1)
            if chunk is None or mask & ~(chunk.dirty | chunk.writeback):
                return False
            offset += stop - start
        return True

    def any_writeback(self, offset: int, end: int) -> bool:
        """Return whether a page of the byte range is under writeback."""
        for index in self._indices(offset, end):
            if self.chunks[index].writeback & self._mask_within(index, offset, end):
                return True
        return False

    def drop(self, offset: int, end: int) -> int:
        """Forget the pages wholly inside [offset, end); return how many of them were dirty.

        None of them may be under writeback.
        """
        first_byte = offset + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1)
        end &= ~(PAGE_SIZE - 1)
        nr_dropped = 0
        if first_byte >= end:
            return 0
        for index in self._indices(first_byte, end):
            chunk = self.chunks[index]
            mask = self._mask_within(index, first_byte, end) & chunk.dirty
            chunk.dirty &= ~mask
            nr_dropped += mask.bit_count()
            self.nr_pages -= mask.bit_count()
            self._drop_if_empty(index, chunk)
        return nr_dropped

    def zero(self, offset: int, end: int) -> None:
        """Zero the byte range in those pages that are here."""
        for index in self._indices(offset, end):
            chunk = self.chunks[index]
            base = index << CHUNK_SHIFT
            for first, count in bit_runs(chunk.dirty | chunk.writeback):
                start = max(base + (first << PAGE_SHIFT), offset)
                stop = min(base + (first + count << PAGE_SHIFT), end)
                if start < stop:
                    chunk.memory[start - base : stop - base] = bytes(stop - start)

    def dirty_runs(self, start: int = 0) -> Iterator[tuple[int, int, int]]:
        """Yield (chunk index, first page in it, number of pages) of each dirty run, in file order."""
        for index in sorted(self.chunks):
            if index >= start:
                for first, count in bit_runs(self.chunks[index].dirty):
                    yield index, first, count

    def start_writeback(self, index: int, first: int, count: int) -> memoryview:
        """Move a run from dirty to writeback and return its memory."""
        chunk = self.chunks[index]
        mask = span_mask(first, first + count)
        chunk.dirty &= ~mask
        chunk.writeback |= mask
        return chunk.memory[first << PAGE_SHIFT : first + count << PAGE_SHIFT]

    def end_writeback(self, index: int, first: int, count: int, *, failed: bool) -> int:
        """End a run's writeback; if it failed the pages are dirty again. Return how many turned dirty so."""
        chunk = self.chunks[index]
        mask = span_mask(first, first + count)
        chunk.writeback &= ~mask
        if failed:
            nr_again = (mask & ~chunk.dirty).bit_count()
            chunk.dirty |= mask
            return nr_again
        self.nr_pages -= (mask & ~chunk.dirty).bit_count()
        self._drop_if_empty(index, chunk)
        return 0

    def clear(self) -> int:
        """Forget every page; return how many were dirty. None may be under writeback."""
        nr_dirty = sum(chunk.dirty.bit_count() for chunk in self.chunks.values())
        for chunk in self.chunks.values():
            chunk.block.free()
        self.chunks.clear()
        self.nr_pages = 0
        return nr_dirty

    def nr_dirty(self) -> int:
        """Count the dirty pages."""
        return sum(chunk.dirty.bit_count() for chunk in self.chunks.values())

    def _mask_within(self, index: int, offset: int, end: int) -> int:
        base = index << CHUNK_SHIFT
        start, stop = max(offset - base, 0), min(end - base, CHUNK_SIZE)
        return span_mask(start >> PAGE_SHIFT, (stop - 1 >> PAGE_SHIFT) + 1)

    def _indices(self, offset: int, end: int) -> list[int]:
        first, last = offset >> CHUNK_SHIFT, end - 1 >> CHUNK_SHIFT
        if last - first > len(self.chunks):
            return sorted(index for index in self.chunks if first <= index <= last)
        return [index for index in range(first, last + 1) if index in self.chunks]

    def _drop_if_empty(self, index: int, chunk: Chunk) -> None:
        if not chunk.dirty | chunk.writeback:
            del self.chunks[index]
            chunk.block.free()
