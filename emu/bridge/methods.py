"""Methods of ndarray that read or change elements: on copies in host memory, or in place."""

import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from emu.bridge.ghost import Array
from emu.bridge.locate import locate
from emu.bridge.operand import Operand, on_host

_ON_A_COPY = frozenset({
    "all", "any", "argmax", "argmin", "argpartition", "argsort", "astype", "choose", "clip", "compress", "conj",
    "conjugate", "cumprod", "cumsum", "dot", "flatten", "max", "mean", "min", "nonzero", "prod", "repeat", "round",
    "searchsorted", "std", "sum", "take", "tobytes", "tofile", "tolist", "trace", "var",
})  # fmt: skip
"""Methods that only read: they are ndarray's, called on what was loaded."""


class ArrayMethods(Operand):
    """What a MappedArray can do besides being indexed and viewed."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Return ndarray's method of that name if it only reads: it runs on what is loaded, and stores into `out`."""
        if name not in _ON_A_COPY:
            raise AttributeError(f"a MappedArray has no {name!r}; np.asarray(it) is a copy that has")

        def method(*args: Any, out: Any = None, **kwargs: Any) -> Any:
            given = {key: on_host(one) for key, one in kwargs.items()}
            result = getattr(self.window.load(), name)(*[on_host(one) for one in args], **given)
            if out is None:
                return result
            out[...] = result
            return out

        return method

    # -- in place ------------------------------------------------------------------------------------------

    def fill(self, value: Any) -> None:
        """Store one value into all elements."""
        self.window.store(on_host(value))

    def sort(self, axis: int = -1, kind: Any = None, order: Any = None) -> None:
        """Sort in place: loaded, sorted, stored."""
        self._change(lambda loaded: loaded.sort(axis, kind, order))

    def partition(self, kth: Any, axis: int = -1, kind: Any = "introselect", order: Any = None) -> None:
        """Partition in place: loaded, partitioned, stored."""
        self._change(lambda loaded: loaded.partition(kth, axis, kind, order))

    def put(self, indices: Any, values: Any, mode: Any = "raise") -> None:
        """Store values at flat indices, as ndarray.put; touches those elements only."""
        ghost = self.window.ghost
        chosen = np.asarray(np.arange(ghost.size).take(np.asarray(on_host(indices)), mode=mode)).ravel()
        if chosen.size:
            places = locate(ghost, np.unravel_index(chosen, ghost.shape))
            self.window.store_places(places, np.resize(np.asarray(on_host(values)), chosen.shape))

    def byteswap(self, inplace: bool = False) -> Any:
        """Return a copy with the bytes of each element reversed, or reverse them in place."""
        if not inplace:
            return self.window.load().byteswap()
        self._change(lambda loaded: loaded.byteswap(inplace=True))
        return self

    def _change(self, change: Callable[[Array], object]) -> None:
        self.window.check_writable()
        loaded = self.window.load()
        change(loaded)
        self.window.store(loaded)

    def flush(self) -> None:
        """msync(MS_SYNC) the pages of the mapping that the elements lie on."""
        self.window.flush()

    # -- copies --------------------------------------------------------------------------------------------

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return a copy in host memory, loaded through the MMU. ValueError for copy=False: there is no other way."""
        if copy is False:
            raise ValueError("elements in emulated memory can only be copied; leave copy=False out")
        loaded = self.window.load()
        return loaded if dtype is None else loaded.astype(dtype, copy=False)

    def copy(self, order: Any = "C") -> Array:
        """Return a copy in host memory."""
        return self.window.load().copy(order)

    def __copy__(self) -> Array:
        return self.window.load()

    def __deepcopy__(self, memo: Any) -> Array:
        return self.window.load()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle a MappedArray: it is a place in a machine's memory; pickle np.asarray of it")

    def item(self, *args: Any) -> Any:
        """Return one element as a Python object; loads it alone."""
        ghost = self.window.ghost
        index = args[0] if len(args) == 1 else args
        if not args:
            if ghost.size != 1:
                raise ValueError("can only convert an array of size 1 to a Python scalar")
            index = 0
        if not isinstance(index, tuple):
            at = operator.index(index)
            if not -ghost.size <= at < ghost.size:
                raise IndexError(f"index {at} is out of bounds for size {ghost.size}")
            index = tuple(int(one) for one in np.unravel_index(at % ghost.size, ghost.shape))
        if len(index) != ghost.ndim:
            raise ValueError("incorrect number of indices for array")
        return np.asarray(self.like(ghost[(*index, ...)]).window.load_one()).item()

    # -- as a scalar, as text --------------------------------------------------------------------------------

    def __contains__(self, value: object) -> bool:
        return value in self.window.load()

    def __bool__(self) -> bool:
        return bool(self.window.load())

    def __int__(self) -> int:
        return int(self.window.load())

    def __float__(self) -> float:
        return float(self.window.load())

    def __complex__(self) -> complex:
        return complex(self.window.load())

    def __index__(self) -> int:
        return operator.index(self.window.load())

    def __str__(self) -> str:
        return str(self.window.load())

    def __format__(self, spec: str) -> str:
        return format(self.window.load(), spec)
