"""Region: the memory whose stores are tracked, every page of it present, writable and dirty already.

So a store into it is one machine instruction and no fault, and what a tracker adds is all that is measured.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from emu.trackers.libc import PAGE_SIZE, Unavailable

Pages = npt.NDArray[np.int64]

MEMORIES = ("anonymous", "tmpfs", "disk")
"""Anonymous memory, a file of the kernel's own tmpfs (memfd), a file in the directory for temporary files."""

_MADV_NOHUGEPAGE = 15
_VALUE_AT = 8
"""Where in a page a store goes: one byte."""


class Region:
    """A mapping of `nr_pages` pages; leave its `with` block to unmap it."""

    def __init__(self, memory: str, nr_pages: int, directory: Path | None = None) -> None:
        self.memory = memory
        self.nr_pages = nr_pages
        self.nbytes = nr_pages * PAGE_SIZE
        with _file_of(memory, self.nbytes, directory) as fd:
            flags = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._mmap = mmap.mmap(fd, self.nbytes, flags)
        # Large pages would be tracked as one. A kernel without them refuses the advice.
        with suppress(OSError):
            self._mmap.madvise(_MADV_NOHUGEPAGE)
        self._bytes: npt.NDArray[np.uint8] | None = np.frombuffer(self._mmap, np.uint8)
        self.vaddr = int(self._bytes.ctypes.data)
        self.store(np.arange(nr_pages), 1)

    def store(self, pages: Pages, value: int) -> None:
        """Store one byte into each page, in that order."""
        assert self._bytes is not None
        self._bytes[pages * PAGE_SIZE + _VALUE_AT] = value

    def holds(self, pages: Pages, value: int) -> bool:
        """Tell whether the stores are there."""
        assert self._bytes is not None
        return bool((self._bytes[pages * PAGE_SIZE + _VALUE_AT] == value).all())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._bytes = None
        self._mmap.close()


@contextmanager
def _file_of(memory: str, nbytes: int, directory: Path | None) -> Iterator[int]:
    """Open a file of that length that has no name (any more), or -1 for anonymous memory."""
    if memory == "anonymous":
        yield -1
    elif memory == "tmpfs":
        fd = os.memfd_create("fremap-trackers", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, nbytes)
            yield fd
        finally:
            os.close(fd)
    elif memory == "disk":
        with tempfile.TemporaryFile(prefix="fremap-trackers-", dir=directory) as file:
            file.truncate(nbytes)
            yield file.fileno()
    else:
        raise Unavailable(f"no memory {memory!r}; there are {', '.join(MEMORIES)}")


def filesystem_of(directory: Path | None) -> str:
    """Return the type of the filesystem that temporary files lie on, from /proc/self/mountinfo."""
    where = Path(directory or tempfile.gettempdir()).resolve()
    best, found = -1, "?"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4])
        # Of those mounted over each other the last one counts.
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), after.split()[0]
    return found
