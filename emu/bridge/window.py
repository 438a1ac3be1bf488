"""Window: some bytes of a mapping, by way of a ghost, and how they are loaded and stored."""

from typing import Any, Self, cast

import numpy as np

from emu.bridge.ghost import Array, address_of, extent_of, reserve
from emu.bridge.locate import Offsets
from emu.bridge.transfer import BatchOwner, gather, load_layout, run_offsets, scatter, store_layout
from emu.mapping import Mapping

_ACCESS_READ = 1


class Window:
    """Those bytes of a mapping that a ghost stands for.

    `origin` is the host address that stands for the mapping's first byte, `ghost` an array over addresses from there
    on, `writable` whether stores are allowed from here; the mapping may refuse them even so.
    """

    __slots__ = ("_end", "_offset", "ghost", "mapping", "origin", "writable")

    def __init__(self, mapping: Mapping, origin: int, ghost: Array, *, writable: bool) -> None:
        self.mapping = mapping
        self.origin = origin
        self.ghost = ghost
        self.writable = writable
        # Looked up once they are needed: most windows are only steps on the way to another.
        self._end: int | None = None
        self._offset: int | None = None

    @classmethod
    def over(cls, mapping: Mapping) -> Self:
        """Return a window of all bytes of a mapping."""
        ghost = reserve(len(mapping))
        return cls(mapping, address_of(ghost), ghost, writable=mapping.access != _ACCESS_READ)

    def narrow(self, ghost: Array, *, writable: bool = True) -> "Window":
        """Return the window that a view of the ghost stands for."""
        # A stride of 0 repeats an element: numpy makes such views read-only, too.
        repeats = any(not stride and length > 1 for stride, length in zip(ghost.strides, ghost.shape, strict=True))
        return Window(self.mapping, self.origin, ghost, writable=writable and self.writable and not repeats)

    @property
    def offset(self) -> int:
        """Bytes from the mapping's start to the first element."""
        if self._offset is None:
            self._offset = address_of(self.ghost) - self.origin
        return self._offset

    @property
    def vaddr(self) -> int:
        """The address of the first element, now: it follows `mapping.resize`."""
        return self.mapping.vaddr + self.offset

    def owner(self) -> BatchOwner:
        """Return whom to ask for bytes; ValueError if the mapping is closed or has become too short."""
        nbytes = len(self.mapping)
        if self._end is None:
            self._end = extent_of(self.ghost)[1] - self.origin if self.ghost.size else 0
        if self._end > nbytes:
            raise ValueError(f"the mapping has been resized to {nbytes} bytes, and this view ends at byte {self._end}")
        return cast("BatchOwner", self.mapping.process)

    def check_writable(self) -> None:
        """Raise what numpy raises for a store into a read-only array."""
        if not self.writable:
            raise ValueError("assignment destination is read-only")

    def load(self) -> Array:
        """Load all elements: a new array in host memory."""
        return load_layout(self.owner(), self.vaddr, self.ghost)

    def load_one(self, distance: int = 0) -> Any:
        """Load the element `distance` bytes from the first; returns numpy's scalar, a structure's read-only: a copy."""
        dtype = self.ghost.dtype
        if not dtype.itemsize:
            return np.empty((), dtype)[()]
        data = self.owner().load(self.mapping.vaddr + self.offset + distance, dtype.itemsize)
        return np.frombuffer(data, dtype, 1)[0]

    def store_one(self, distance: int, value: Any) -> None:
        """Store the element `distance` bytes from the first, converted as numpy does."""
        self.check_writable()
        converted = np.empty(1, self.ghost.dtype)
        converted[0] = value
        if _has_gaps(self.ghost.dtype):
            self._store_places(np.array([distance]), converted)
        elif converted.itemsize:
            self.owner().store(self.mapping.vaddr + self.offset + distance, converted.view(np.uint8).data)

    def store(self, content: Any) -> None:
        """Store into all elements, broadcast and converted as numpy does in `a[...] = content`."""
        self.check_writable()
        ghost = self.ghost
        if isinstance(content, np.ndarray) and content.shape == ghost.shape and content.dtype == ghost.dtype:
            self._store(content)
            return
        converted = np.empty(ghost.shape, ghost.dtype)
        converted[...] = content
        self._store(converted)

    def _store(self, content: Array) -> None:
        dtype = self.ghost.dtype
        if _has_gaps(dtype):
            # What lies between the fields of such a type belongs to others.
            for name in dtype.names or ():
                self.narrow(self.ghost[name]).store(content[name])
        else:
            store_layout(self.owner(), self.vaddr, self.ghost, content)

    def load_places(self, offsets: Offsets) -> Array:
        """Load the elements at distances from the first one, in bytes; returns a new array of that shape."""
        dtype = self.ghost.dtype
        if not dtype.itemsize:
            return np.empty(offsets.shape, dtype)
        items = gather(self.owner(), self.vaddr, offsets.reshape(-1), dtype.itemsize)
        loaded: Array = items.reshape(-1).view(dtype).reshape(offsets.shape)
        return loaded

    def store_places(self, offsets: Offsets, content: Any) -> None:
        """Store elements at distances from the first one, in C order: of two at one place the later wins."""
        self.check_writable()
        converted = np.empty(offsets.shape, self.ghost.dtype)
        converted[...] = content
        self._store_places(offsets.reshape(-1), converted.reshape(-1))

    def _store_places(self, offsets: Offsets, flat: Array) -> None:
        dtype = self.ghost.dtype
        if not dtype.itemsize:
            return
        if not _has_gaps(dtype):
            items = np.ascontiguousarray(flat).view(np.uint8).reshape(len(flat), dtype.itemsize)
            scatter(self.owner(), self.vaddr, offsets, items)
            return
        for name in dtype.names or ():
            field = self.narrow(self.ghost[name])
            # A field of an array type has axes of its own.
            rank = self.ghost.ndim
            inner = run_offsets(field.ghost.shape[rank:], field.ghost.strides[rank:])
            field.store_places(offsets[:, None] + inner, flat[name].reshape(len(flat), -1))

    def flush(self) -> None:
        """msync(MS_SYNC) the pages of the mapping that the elements lie on."""
        page_size = self.owner().page_size
        first, end = (at - self.origin for at in extent_of(self.ghost))
        if end > first:
            start = first // page_size * page_size
            self.mapping.flush(start, min(-(-end // page_size) * page_size, len(self.mapping)) - start)


def _has_gaps(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type is a structure with bytes that no field owns."""
    return dtype.names is not None and sum(dtype[name].itemsize for name in dtype.names) != dtype.itemsize
