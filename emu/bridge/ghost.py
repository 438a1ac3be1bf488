"""Ghosts: ordinary arrays over reserved, never written addresses, which stand for bytes of a mapping.

Every byte of a mapping has a byte of the ghost at the same distance. Slicing, transposing or casting a ghost is
numpy's own doing, with numpy's own errors, and reads nothing; where the result begins, and its strides, say which
bytes of the mapping are meant. So no rule of indexing is written a second time here.

A ghost's pages are never touched, but by accident: then they read as zeros and cost no memory. A store into them would
raise, since they are read-only.
"""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MAP_NORESERVE = 0x4000


def reserve(nbytes: int) -> Array:
    """Return a read-only ghost of `nbytes` bytes."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, max(nbytes, 1), flags=flags, prot=mmap.PROT_READ), np.uint8)[:nbytes]


def address_of(ghost: Array) -> int:
    """Return where a ghost's first element lies on the host; distances alone mean something."""
    return int(ghost.__array_interface__["data"][0])


def extent_of(ghost: Array) -> tuple[int, int]:
    """Return the first address that belongs to a ghost, and the first after it; equal if it has no elements."""
    first, end = np.lib.array_utils.byte_bounds(ghost)
    return (int(first), int(end)) if ghost.size else (address_of(ghost), address_of(ghost))
