"""Flat: `ndarray.flat` of an array in emulated memory: its elements by their number in C order."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from emu.bridge.ghost import Array
from emu.bridge.locate import Offsets, locate
from emu.bridge.operand import Operand, on_host


class Flat:
    """The elements of an array one after the other, whatever its shape and strides; nothing is copied to make it."""

    __slots__ = ("_base",)

    def __init__(self, base: Operand) -> None:
        self._base = base

    def _places(self, key: Any) -> Offsets:
        ghost = self._base.window.ghost
        chosen = np.asarray(np.arange(ghost.size)[on_host(key)])
        return locate(ghost, np.unravel_index(chosen, ghost.shape))

    def __getitem__(self, key: Any) -> Any:
        """Load the elements meant: an element, or a new flat array."""
        return self._base.window.load_places(self._places(key))[()]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Store into the elements meant; values are repeated or cut as numpy does."""
        self._base.window.check_writable()
        places = self._places(key)
        if places.size:
            self._base.window.store_places(places, np.resize(np.asarray(on_host(value)), places.shape))

    def __len__(self) -> int:
        return self._base.window.ghost.size

    def __iter__(self) -> Iterator[Any]:
        """Yield the elements, loaded all at once."""
        return iter(self._base.window.load().ravel())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return a flat copy. ValueError for copy=False."""
        if copy is False:
            raise ValueError("elements in emulated memory can only be copied; leave copy=False out")
        loaded = self._base.window.load().ravel()
        return loaded if dtype is None else loaded.astype(dtype, copy=False)
