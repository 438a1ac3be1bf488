"""/proc/self/pagemap: a word for each page of the address space, and what its bits say about stores."""

import os

import numpy as np
import numpy.typing as npt

from emu.trackers import libc
from emu.trackers.base import Tracker
from emu.trackers.libc import PAGE_SIZE, Unavailable
from emu.trackers.region import Pages, Region

_CHUNK_PAGES = 1 << 16


def read_bit(region: Region, bit: int) -> tuple[npt.NDArray[np.bool_], int]:
    """Return one bit of every page's word, and how many bytes were read to know it."""
    found = np.empty(region.nr_pages, np.bool_)
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for first in range(0, region.nr_pages, _CHUNK_PAGES):
            count = min(_CHUNK_PAGES, region.nr_pages - first)
            data = os.pread(fd, 8 * count, (region.vaddr // PAGE_SIZE + first) * 8)
            if len(data) != 8 * count:
                raise OSError(f"/proc/self/pagemap gave {len(data)} bytes of {8 * count}")
            found[first : first + count] = np.frombuffer(data, np.uint64) >> np.uint64(bit) & np.uint64(1)
    finally:
        os.close(fd)
    return found, 8 * region.nr_pages


class SoftDirty(Tracker):
    """clear_refs write-protects every PTE of the process and clears its soft-dirty bit; a store's fault sets it."""

    name = "soft_dirty"
    title = "soft-dirty bits, clear_refs and pagemap"

    def attach(self) -> None:
        """See whether the bit follows a store: kernels without CONFIG_MEM_SOFT_DIRTY take the write and do nothing."""
        try:
            self.arm()
        except OSError as error:
            raise Unavailable(f"/proc/self/clear_refs: {error.strerror}") from None
        self.region.store(np.array([0]), 1)
        if not self.collect().tolist() == [0]:
            raise Unavailable("built without CONFIG_MEM_SOFT_DIRTY: a store does not show in /proc/self/pagemap")

    def arm(self) -> None:
        """Clear the soft-dirty bits of all memory of the process: the kernel does it for nothing less."""
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:  # noqa: PTH123 - a control file
            file.write(b"4")

    def collect(self) -> Pages:
        """Return the pages with bit 55 in /proc/self/pagemap."""
        dirty, self.user_bytes = read_bit(self.region, libc.PAGEMAP_SOFT_DIRTY_BIT)
        return np.flatnonzero(dirty)

    def detach(self) -> None:
        """Nothing to undo."""
