"""MappedView: the interface of memoryview over emulated memory.

What an index, a slice or a cast means, and which of them are refused with which words, is decided by a real memoryview
over the ghost; only the bytes come from the machine, through the MMU.

Python 3.12 lets a class give a buffer (PEP 688): there `re`, hashlib, files and `bytes()` take a MappedView, and get a
read-only copy of the moment. On 3.11 give them `view.tobytes()`.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self, cast

import numpy as np

from emu.bridge.ghost import Array
from emu.bridge.window import Window
from emu.mapping import Mapping

_PYBUF_WRITABLE = 1
_READ_AHEAD = 4096
"""Items that iteration loads at a time."""


class MappedView:
    """A view of a mapping's bytes, with memoryview's methods; leave its `with` block, or release() it.

    Starts as all bytes of the mapping, format "B". Like a memoryview it reads and writes the memory itself: nothing is
    kept.
    """

    __slots__ = ("_readonly", "_shape", "_window")

    __hash__ = None  # type: ignore[assignment] # the bytes may change through any mapping of the file

    def __init__(self, mapping: Mapping) -> None:
        window = Window.over(mapping)
        ghost = window.ghost
        self._window = window.narrow(ghost.view("V1"))
        self._shape = memoryview(ghost.data)
        self._readonly = not window.writable

    def _of(self, ghost: Array, shape: memoryview, *, readonly: bool) -> "MappedView":
        view = MappedView.__new__(MappedView)
        view._window, view._shape, view._readonly = self._window.narrow(ghost), shape, readonly  # noqa: SLF001 - own
        return view

    # -- what it is ----------------------------------------------------------------------------------------

    @property
    def obj(self) -> Mapping:
        """The mapping."""
        self._check()
        return self._window.mapping

    @property
    def format(self) -> str:
        """The format of an item, as in struct."""
        return self._shape.format

    @property
    def itemsize(self) -> int:
        """Bytes in an item."""
        return self._shape.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in all items."""
        return self._shape.nbytes

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return self._shape.ndim

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Its lengths."""
        return self._shape.shape

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Bytes from an item to the next."""
        return self._shape.strides

    @property
    def suboffsets(self) -> tuple[int, ...] | None:
        """Empty: there are no indirections."""
        return self._shape.suboffsets

    @property
    def readonly(self) -> bool:
        """Whether stores are refused."""
        self._check()
        return self._readonly

    @property
    def c_contiguous(self) -> bool:
        """Whether the bytes lie in C order without gaps."""
        return self._shape.c_contiguous

    @property
    def f_contiguous(self) -> bool:
        """Whether the bytes lie in Fortran order without gaps."""
        return self._shape.f_contiguous

    @property
    def contiguous(self) -> bool:
        """Whether the bytes lie without gaps."""
        return self._shape.contiguous

    def _check(self) -> None:
        """Raise memoryview's ValueError if it was released."""
        _ = self._shape.nbytes

    def __len__(self) -> int:
        return len(self._shape)

    def __repr__(self) -> str:
        try:
            return f"<MappedView of {self.nbytes} bytes, format {self.format!r}, vaddr={self._window.vaddr:#x}>"
        except ValueError:
            return "<released MappedView>"

    # -- items ---------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """Return an item for an index (a tuple of them if there are more dimensions), a view for a slice."""
        # Of the ghost: a zero for an item, and memoryview's errors. It reads a page that is never written.
        found = cast("Any", self._shape)[key]
        if isinstance(found, memoryview):
            return self._of(self._window.ghost[key], found, readonly=self._readonly)
        return _items(self._one(key).load().tobytes(), self._shape.format)[0]

    def _one(self, key: Any) -> Window:
        keys = key if isinstance(key, tuple) else (key,)
        return self._window.narrow(self._window.ghost[(*keys, ...)])

    def __setitem__(self, key: Any, value: Any) -> None:
        """Store an item, or for a slice items of the same format and number."""
        self._check()
        if self._readonly:
            raise TypeError("cannot modify read-only memory")
        given = value._loaded() if isinstance(value, MappedView) else value  # noqa: SLF001 - own
        if self._shape.ndim > 1 and not isinstance(key, tuple):
            slices = "memoryview slice assignments are currently restricted to ndim = 1"
            raise NotImplementedError(slices if isinstance(key, slice) else "sub-views are not implemented")
        part = cast("Any", self._shape)[key]
        # A real memoryview of the same format converts, or refuses.
        if isinstance(part, memoryview):
            scratch = _items(bytearray(part.nbytes), part.format)
            scratch[:] = given
            window = self._window.narrow(self._window.ghost[key])
        else:
            scratch = _items(bytearray(self._shape.itemsize), self._shape.format)
            cast("Any", scratch)[0] = given
            window = self._one(key)
        window.store(np.frombuffer(scratch.tobytes(), window.ghost.dtype).reshape(window.ghost.shape))

    def __delitem__(self, key: object) -> NoReturn:
        self._check()
        raise TypeError("cannot delete memory")

    def __iter__(self) -> Iterator[Any]:
        """Yield the items, loaded a few thousand at a time when their turn comes."""
        if self._shape.ndim > 1:
            raise NotImplementedError("multi-dimensional sub-views are not implemented")
        for first in range(0, len(self), _READ_AHEAD):
            yield from self[first : first + _READ_AHEAD].tolist()

    def __contains__(self, value: object) -> bool:
        return any(value is item or value == item for item in self)

    # -- other views ---------------------------------------------------------------------------------------

    def cast(self, format: str, shape: Sequence[int] | None = None) -> "MappedView":  # noqa: A002 - memoryview's name
        """Return a view of the same bytes with another format or shape; the bytes must lie without gaps."""
        as_given: Any = self._shape
        found: memoryview = as_given.cast(format) if shape is None else as_given.cast(format, shape)
        flat = self._window.ghost.reshape(-1).view(np.uint8)
        ghost: Array = np.ndarray(found.shape or (), f"V{found.itemsize}", buffer=flat.data)
        return self._of(ghost, found, readonly=self._readonly)

    def toreadonly(self) -> "MappedView":
        """Return a view that refuses stores."""
        return self._of(self._window.ghost, self._shape.toreadonly(), readonly=True)

    # -- copies --------------------------------------------------------------------------------------------

    def _loaded(self) -> memoryview:
        """Return a memoryview of the same format and shape over a copy."""
        self._check()
        return _items(self._window.load().tobytes(), self._shape.format, self._shape.shape)

    def tobytes(self, order: Any = "C") -> bytes:
        """Return the bytes."""
        self._check()
        return self._window.load().tobytes() if self.ndim < 2 else self._loaded().tobytes(order)

    def __bytes__(self) -> bytes:
        return self.tobytes()

    def tolist(self) -> list[Any]:
        """Return the items, in lists within lists if there are more dimensions."""
        found: list[Any] = self._loaded().tolist()
        return found

    def hex(self, *sep: Any, **options: Any) -> str:
        """Return the bytes as hexadecimal digits, as bytes.hex."""
        return self.tobytes().hex(*sep, **options)

    def __eq__(self, other: object) -> bool:
        """Compare items, as memoryview does: a copy of this with another view, or with anything that has a buffer."""
        try:
            self._check()
        except ValueError:
            return self is other
        given = other._loaded() if isinstance(other, MappedView) else other
        return bool(self._loaded() == given)

    def __buffer__(self, flags: int, /) -> memoryview:
        """Give a read-only copy as a buffer (Python 3.12 calls this). BufferError if it has to be writable."""
        if flags & _PYBUF_WRITABLE:
            raise BufferError("emulated memory can only be copied into a buffer: ask for a read-only one")
        return self._loaded()

    # -- life ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """msync(MS_SYNC) the pages of the mapping that the bytes lie on."""
        self._check()
        self._window.flush()

    def release(self) -> None:
        """Let go: every further use is a ValueError. A second call does nothing."""
        self._shape.release()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle a MappedView: it is a place in a machine's memory")


def _items(data: bytes | bytearray, form: str, shape: tuple[int, ...] | None = None) -> memoryview:
    """Return a real memoryview over bytes, as items of a format and in a shape."""
    if not data:
        # cast() refuses empty views.
        whole: Any = memoryview(bytearray(16) if isinstance(data, bytearray) else bytes(16))
        return cast("memoryview", whole.cast(form)[:0])
    view: Any = memoryview(data)
    if shape is None or len(shape) == 1:
        return cast("memoryview", view.cast(form))
    return cast("memoryview", view.cast(form, list(shape)))
