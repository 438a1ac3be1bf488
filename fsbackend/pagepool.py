"""A pool of mmap-backed numpy memory in blocks of 128 KiB, each with room for a request's header before it.

A write request of 128 KiB that the kernel sends is read so that its bytes lie in a block, page aligned. Such a
block can become a part of a file as it is: nothing is copied, and the thread that read it takes another.
"""

import ctypes
import mmap
import threading

import numpy as np

BLOCK_NBYTES = 128 << 10
HEADER_NBYTES = 80
"""struct fuse_in_header (40 bytes) and struct fuse_write_in (40), protocol 7.9 and later."""
REQUEST_NBYTES = HEADER_NBYTES + BLOCK_NBYTES
"""The least that the kernel lets a filesystem with max_write of 128 KiB read at once."""
SLAB_BLOCKS = 64
KEPT_SLABS = 16
_STRIDE = BLOCK_NBYTES + mmap.PAGESIZE


class Block:
    """128 KiB of memory, `memory`; `request` is the same with the header's room, at `address`.

    `taken`: its memory became a part of a file, for good; whoever had it needs another.
    """

    __slots__ = ("address", "memory", "pool", "request", "slab", "taken")

    def __init__(self, pool: "PagePool", slab: int, request: memoryview, address: int) -> None:
        self.pool = pool
        self.slab = slab
        self.memory = request[HEADER_NBYTES:]
        self.request = request
        self.address = address
        self.taken = False

    def hand_over(self) -> "Block":
        """Return the same memory as its new owner's block.

        It is another object, since the new owner may free it, and a third have it from the pool, before the old
        owner looks whether his is taken.
        """
        self.taken = True
        return Block(self.pool, self.slab, self.request, self.address)

    def free(self) -> None:
        """Give it back to its pool."""
        self.pool.take_back(self)


class PagePool:
    """Blocks cut from slabs of 8 MiB of anonymous memory; O(1) alloc and free.

    Memory that was used is kept for the next writer, up to 128 MiB: the first touch of a page costs several
    times the copy into it. `trim` returns it to the machine bit by bit.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Block]] = {}
        self._lock = threading.Lock()
        self._next_slab = 0
        self._idle: dict[int, None] = {}
        self.nr_slabs = 0

    def alloc(self) -> Block:
        """Return a block (junk)."""
        with self._lock:
            for slab, blocks in self._free.items():
                self._idle.pop(slab, None)
                block = blocks.pop()
                if not blocks:
                    del self._free[slab]
                return block
            return self._grow()

    def _grow(self) -> Block:
        memory = mmap.mmap(-1, SLAB_BLOCKS * _STRIDE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = np.frombuffer(memory, dtype=np.uint8).data
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        slab, self._next_slab = self._next_slab, self._next_slab + 1
        starts = range(mmap.PAGESIZE - HEADER_NBYTES, SLAB_BLOCKS * _STRIDE, _STRIDE)
        blocks = [Block(self, slab, view[start : start + REQUEST_NBYTES], address + start) for start in starts]
        self._free[slab] = blocks
        self.nr_slabs += 1
        return blocks.pop()

    def take_back(self, block: Block) -> None:
        """Take a block back (Block.free)."""
        with self._lock:
            blocks = self._free.setdefault(block.slab, [])
            blocks.append(block)
            if len(blocks) == SLAB_BLOCKS:
                self._idle[block.slab] = None
                if len(self._idle) > KEPT_SLABS:
                    self._release()

    def _release(self) -> None:
        slab, _ = self._idle.popitem()
        del self._free[slab]
        self.nr_slabs -= 1

    def trim(self) -> None:
        """Return half of the memory that nobody uses."""
        with self._lock:
            for _ in range((len(self._idle) + 1) // 2):
                self._release()
