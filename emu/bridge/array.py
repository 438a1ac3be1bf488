"""MappedArray: a numpy array whose elements lie in emulated memory.

Indexing, slicing, fields, `reshape`, `view` and the like make views, as numpy's do, and move nothing. What reads or
writes elements goes through the process's MMU, by whole ranges or batches: an index, an assignment, a ufunc (`out=`,
`where=` and in-place operators included), a numpy function, a method. What numpy computes it computes on copies, as a
CPU does in its registers; the results are stored back where the program says so, and nowhere else.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from emu.bridge.flat import Flat
from emu.bridge.functions import call_function, call_ufunc
from emu.bridge.ghost import Array
from emu.bridge.locate import is_advanced, locate, place_of_one
from emu.bridge.methods import ArrayMethods
from emu.bridge.operand import on_host
from emu.bridge.window import Window
from emu.mapping import Mapping


class MappedArray(ArrayMethods, NDArrayOperatorsMixin):
    """An array over a mapping, with the arguments of numpy.ndarray.

    Parameters
    ----------
    mapping
        Where the bytes lie: of a Process, or of a HostProcess. Elements are found through the mapping at each access,
        so what remap_file_pages moves in is what is seen.
    dtype
        Any but object; structures, other byte orders and strings too.
    shape
        As many elements as fit, in one dimension, if not given.
    offset
        Bytes from the mapping's start to the first element.
    strides, order
        As numpy.ndarray takes them.

    Raises
    ------
    TypeError, ValueError
        As numpy.ndarray: the buffer is too small, the strides do not fit, the dtype holds Python objects.

    """

    __slots__ = ()

    __hash__ = None  # type: ignore[assignment] # as ndarray's

    def __init__(
        self,
        mapping: Mapping,
        dtype: npt.DTypeLike = np.uint8,
        shape: int | Sequence[int] | None = None,
        offset: int = 0,
        strides: Sequence[int] | None = None,
        order: Any = "C",
    ) -> None:
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise ValueError("cannot create an array of Python objects over a mapping")
        everything = Window.over(mapping)
        # numpy takes a negative offset, and would read what lies before the buffer.
        if not 0 <= offset <= len(mapping):
            raise ValueError(f"offset {offset} lies outside the mapping of {len(mapping)} bytes")
        if shape is None:
            if not kind.itemsize:
                raise ValueError(f"{kind!r} has no bytes: give a shape")
            shape = (len(mapping) - offset) // kind.itemsize
        ghost: Array = np.ndarray(
            shape, kind, buffer=everything.ghost.data, offset=offset, strides=strides, order=order
        )
        self.window = everything.narrow(ghost)

    def like(self, ghost: Array, *, writable: bool = True) -> "MappedArray":
        """Return the view of the same mapping that a view of the ghost stands for."""
        view = MappedArray.__new__(MappedArray)
        view.window = self.window.narrow(ghost, writable=writable)
        return view

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def mapping(self) -> Mapping:
        """Where the bytes lie."""
        return self.window.mapping

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths."""
        return self.window.ghost.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self.window.ghost.dtype

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from an element to the next, along each axis."""
        return self.window.ghost.strides

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self.window.ghost.ndim

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.window.ghost.size

    @property
    def itemsize(self) -> int:
        """Bytes in an element."""
        return self.window.ghost.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in all elements."""
        return self.window.ghost.nbytes

    @property
    def writable(self) -> bool:
        """Whether it may be stored to; the mapping may refuse even so."""
        return self.window.writable

    @property
    def offset(self) -> int:
        """Bytes from the mapping's start to the first element."""
        return self.window.offset

    @property
    def vaddr(self) -> int:
        """The address of the first element, now."""
        return self.window.vaddr

    def __repr__(self) -> str:
        where = "closed" if self.mapping.closed else f"vaddr={self.vaddr:#x}"
        return f"<MappedArray shape={self.shape}, dtype={self.dtype}, {where}>"

    # -- indexing ------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """Return a view for integers, slices and fields; for a single element or an advanced index what is loaded."""
        ghost = self.window.ghost
        distance = place_of_one(ghost, key)
        if distance is not None:
            return self.window.load_one(distance)
        key = _key_on_host(key)
        if _is_field(key):
            return self.like(ghost[key])
        if is_advanced(key):
            return self.window.load_places(locate(ghost, key))[()]
        view, single = self._basic(key)
        return view.window.load_one() if single else view

    def _basic(self, key: Any) -> tuple["MappedArray", bool]:
        """Return the view that integers and slices mean, and whether it is a single element."""
        keys = key if isinstance(key, tuple) else (key,)
        has_rest = any(one is Ellipsis for one in keys)
        # With an ellipsis numpy makes a view of a single element, too, instead of reading it.
        ghost: Array = self.window.ghost[key if has_rest else (*keys, ...)]
        return self.like(ghost), not has_rest and not ghost.ndim

    def __setitem__(self, key: Any, value: Any) -> None:
        """Store, converted and broadcast as numpy does. The value is loaded first: the two may overlap."""
        self.window.check_writable()
        content = on_host(value)
        ghost = self.window.ghost
        distance = place_of_one(ghost, key)
        if distance is not None:
            self.window.store_one(distance, content)
            return
        key = _key_on_host(key)
        if _is_field(key):
            self.like(ghost[key]).window.store(content)
        elif is_advanced(key):
            self.window.store_places(locate(ghost, key), content)
        else:
            self._basic(key)[0].window.store(content)

    def __len__(self) -> int:
        return len(self.window.ghost)

    def __iter__(self) -> Iterator[Any]:
        """Yield what each index along the first axis gives, loaded when its turn comes."""
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[at] for at in range(len(self)))

    # -- views ---------------------------------------------------------------------------------------------

    @property
    def T(self) -> "MappedArray":  # noqa: N802 - numpy's name
        """The transposed view."""
        return self.like(self.window.ghost.T)

    @property
    def real(self) -> "MappedArray":
        """A view of the real parts."""
        return self.like(self.window.ghost.real)

    @property
    def flat(self) -> Flat:
        """Its elements by their number in C order."""
        return Flat(self)

    @flat.setter
    def flat(self, values: Any) -> None:
        Flat(self)[:] = values

    @property
    def imag(self) -> "MappedArray":
        """A view of the imaginary parts. TypeError unless complex: there is no memory of zeros to view."""
        if self.dtype.kind != "c":
            raise TypeError("real elements have no imaginary parts in memory")
        return self.like(self.window.ghost.imag)

    def reshape(self, *shape: Any, order: Any = "C") -> "MappedArray":
        """Return a view of another shape. ValueError where numpy would have to copy: use np.asarray(a).reshape."""
        wanted = shape[0] if len(shape) == 1 else shape
        return self.like(np.reshape(self.window.ghost, wanted, order=order, copy=False))

    def ravel(self, order: Any = "C") -> Any:
        """Return a flat view, or a copy in host memory where numpy copies."""
        return np.ravel(self, order)

    def transpose(self, *axes: Any) -> "MappedArray":
        """Return a view with its axes in another order."""
        return self.like(self.window.ghost.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> "MappedArray":
        """Return a view with two axes swapped."""
        return self.like(self.window.ghost.swapaxes(axis1, axis2))

    def squeeze(self, axis: Any = None) -> "MappedArray":
        """Return a view without axes of length one."""
        return self.like(self.window.ghost.squeeze(axis))

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "MappedArray":
        """Return a read-only view of the diagonal, as numpy does."""
        return self.like(self.window.ghost.diagonal(offset, axis1, axis2), writable=False)

    def view(self, dtype: npt.DTypeLike) -> "MappedArray":
        """Return a view of the same bytes as another type."""
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError("cannot view a mapping as Python objects")
        return self.like(self.window.ghost.view(kind))

    # As ndarray's: what cannot be compared is unequal, where the ufunc would raise.

    def __eq__(self, other: object) -> Any:
        return self.window.load() == on_host(other)

    def __ne__(self, other: object) -> Any:
        return self.window.load() != on_host(other)

    # -- what numpy asks -----------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Load the inputs, compute, store where `out` says."""
        return call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Make a view where numpy's function makes one; else load, compute, store what it changes."""
        return call_function(func, args, kwargs)


def _key_on_host(key: Any) -> Any:
    """Load the parts of an index that are arrays in emulated memory."""
    if isinstance(key, tuple):
        return tuple(one.window.load() if isinstance(one, MappedArray) else one for one in key)
    return key.window.load() if isinstance(key, MappedArray) else key


def _is_field(key: object) -> bool:
    return isinstance(key, str) or (isinstance(key, list) and bool(key) and all(isinstance(one, str) for one in key))
