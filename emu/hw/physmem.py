"""RAM: one anonymous mapping seen as numpy arrays, cut into frames that are handed out and taken back.

Rules: frame 0 is never handed out (a zero pfn in a page table is a bug worth catching, and the MMU keeps a
scratch word there). Frames come in a fixed order, fresh ones lowest first, freed ones last in first out, so a
run is repeatable. With `junk` a frame's bytes are garbage when it is handed out and again when it is taken
back: whoever relies on zeroes, or uses a frame after freeing it, is seen.
"""

import mmap

import numpy as np
import numpy.typing as npt

from emu.errors import KernelBug
from emu.units import format_size

_MIN_FRAMES = 2
_MAP_NORESERVE = 0x4000     # include/uapi/asm-generic/mman.h; Python's mmap names it only since 3.13


class PhysMem:
    """The RAM of one machine, `nbytes` rounded down to whole frames of ``1 << page_shift`` bytes.

    The host's memory is reserved only when touched, in huge pages where the host has them. OSError where it has not
    even the addresses.
    """

    def __init__(self, nbytes: int, page_shift: int, *, junk: bool = True, seed: int = 0) -> None:
        self.page_shift = page_shift
        self.page_size = 1 << page_shift
        self.nr_frames = nbytes >> page_shift
        if self.nr_frames < _MIN_FRAMES:
            raise ValueError(f"{nbytes} bytes of RAM are too few; give at least {_MIN_FRAMES << page_shift}")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        try:
            ram = mmap.mmap(-1, self.nr_frames << page_shift, flags=flags)
        except OSError as error:
            wanted = format_size(nbytes)
            raise OSError(error.errno, f"this computer cannot give {wanted} of RAM: ask for less") from None
        ram.madvise(mmap.MADV_HUGEPAGE)
        self.u8: npt.NDArray[np.uint8] = np.frombuffer(ram, np.uint8)
        self.u32: npt.NDArray[np.uint32] = np.frombuffer(ram, np.uint32)
        self.u64: npt.NDArray[np.uint64] = np.frombuffer(ram, np.uint64)
        self._view = memoryview(ram)
        self._junk = np.random.default_rng(seed).bytes(self.page_size) if junk else b""
        self._zeroes = bytes(self.page_size)
        self._allocated = bytearray(self.nr_frames)
        self._freed: list[int] = []
        self._next_fresh = 1

    @property
    def nr_free(self) -> int:
        """How many frames can still be handed out."""
        return self.nr_frames - self._next_fresh + len(self._freed)

    def alloc_frame(self) -> int:
        """Hand out a frame and return its pfn, or -1 if there is none. O(1)."""
        if self._freed:
            pfn = self._freed.pop()
        elif self._next_fresh < self.nr_frames:
            pfn = self._next_fresh
            self._next_fresh = pfn + 1
        else:
            return -1
        self._allocated[pfn] = 1
        if self._junk:
            start = pfn << self.page_shift
            self._view[start : start + self.page_size] = self._junk
        return pfn

    def alloc_run(self, nr_frames: int) -> int:
        """Hand out `nr_frames` (a power of two) adjoining frames, aligned to their number; -1 if there are none.

        Only from memory that was never handed out: freed frames are not joined again. Each is freed by itself.
        """
        first = -(-self._next_fresh // nr_frames) * nr_frames
        if first + nr_frames > self.nr_frames:
            return -1
        self._freed.extend(range(first - 1, self._next_fresh - 1, -1))
        self._next_fresh = first + nr_frames
        self._allocated[first : first + nr_frames] = bytes([1]) * nr_frames
        if self._junk:
            start = first << self.page_shift
            self._view[start : start + nr_frames * self.page_size] = self._junk * nr_frames
        return first

    def free_frame(self, pfn: int) -> None:
        """Take a frame back.

        Raises
        ------
        KernelBug
            If the frame is not handed out: a double free, or a number that is no frame.

        """
        if not 0 < pfn < self.nr_frames or not self._allocated[pfn]:
            raise KernelBug(f"free of frame {pfn}, which is not allocated ({self.nr_frames} frames)")
        self._allocated[pfn] = 0
        self._freed.append(pfn)
        if self._junk:
            start = pfn << self.page_shift
            self._view[start : start + self.page_size] = self._junk

    @property
    def allocated(self) -> npt.NDArray[np.uint8]:
        """A copy of which frames are handed out, by pfn: 1 or 0."""
        return np.array(self._allocated, np.uint8)

    def is_allocated(self, pfn: int) -> bool:
        """Tell whether the frame is handed out."""
        return 0 < pfn < self.nr_frames and bool(self._allocated[pfn])

    def frame(self, pfn: int) -> memoryview:
        """Return the frame's bytes, writable in place, for file I/O straight into RAM."""
        start = pfn << self.page_shift
        return self._view[start : start + self.page_size]

    def zero_frame(self, pfn: int) -> None:
        """Fill the frame with zeroes."""
        start = pfn << self.page_shift
        self._view[start : start + self.page_size] = self._zeroes

    def close(self) -> None:
        """Give the memory back to the host as soon as nobody else holds a view of it."""
        self._view.release()
        empty = np.zeros(0, np.uint64)
        self.u8, self.u32, self.u64 = empty.view(np.uint8), empty.view(np.uint32), empty
        self.nr_frames = 0
