"""Moving items between host arrays and emulated memory: whole ranges, or batches of accesses, never one by one.

Neighbouring bytes are moved by words of eight, as memcpy would. All of it goes through the process's MMU, faults as a
program would, and stops at the first signal with everything before it done.
"""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from emu.hw.mmu import AccessKind, kind_of
from emu.mapping_owner import MappingOwner

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

_BATCH_WORDS = 1 << 16
"""Accesses in a batch: addresses and values stay in the host's cache."""

_RANGE_NBYTES = 4096
"""Runs of so many bytes are worth a call each; shorter ones are gathered into batches."""

_LOAD_NBYTES = 1 << 16
"""How much a call loads at most: larger buffers would be new memory of the host each time, faults and all."""


class BatchOwner(MappingOwner, Protocol):
    """A process that takes whole arrays of accesses."""

    @property
    def page_size(self) -> int:
        """Bytes in a page."""

    def run(self, vaddrs: npt.ArrayLike, kinds: npt.ArrayLike, values: npt.ArrayLike | None = None) -> Words:
        """Do a whole array of accesses; returns the values."""


def _parts(nbytes: int) -> tuple[Offsets, list[int]]:
    """Cut an item into accesses of 8 bytes and at most one each of 4, 2 and 1: where they begin, how long they are."""
    sizes = [8] * (nbytes // 8) + [size for size in (4, 2, 1) if nbytes & size]
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64), sizes


def _batches(count: int, per_item: int) -> "Iterator[slice]":
    step = max(_BATCH_WORDS // per_item, 1)
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def _accesses(vaddr: int, offsets: Offsets, nbytes: int, kind: AccessKind) -> tuple[Words, npt.NDArray[np.uint8]]:
    """Return addresses and kinds of all accesses that move items of `nbytes` at `vaddr` + `offsets`, item by item."""
    starts, sizes = _parts(nbytes)
    where = (offsets[:, None] + (vaddr + starts)[None, :]).ravel().astype(np.uint64)
    kinds = np.tile(np.array([kind_of(kind, size) for size in sizes], np.uint8), len(offsets))
    return where, kinds


def gather(owner: BatchOwner, vaddr: int, offsets: Offsets, nbytes: int) -> Bytes:
    """Load items of `nbytes` bytes at `vaddr` + each of `offsets`; returns shape (len(offsets), nbytes)."""
    out = np.empty((len(offsets), nbytes), np.uint8)
    _starts, sizes = _parts(nbytes)
    nr_words = nbytes // 8
    for batch in _batches(len(offsets), max(len(sizes), 1)):
        where, kinds = _accesses(vaddr, offsets[batch], nbytes, AccessKind.LOAD)
        count = batch.stop - batch.start
        loaded = np.ascontiguousarray(owner.run(where, kinds)).view(np.uint8).reshape(count, len(sizes), 8)
        out[batch, : nr_words * 8] = loaded[:, :nr_words].reshape(count, nr_words * 8)
        at = nr_words * 8
        for place in range(nr_words, len(sizes)):
            out[batch, at : at + sizes[place]] = loaded[:, place, : sizes[place]]
            at += sizes[place]
    return out


def scatter(owner: BatchOwner, vaddr: int, offsets: Offsets, items: Bytes) -> None:
    """Store items of shape (len(offsets), nbytes) at `vaddr` + each of `offsets`, in that order."""
    nbytes = items.shape[1]
    _starts, sizes = _parts(nbytes)
    nr_words = nbytes // 8
    for batch in _batches(len(offsets), max(len(sizes), 1)):
        where, kinds = _accesses(vaddr, offsets[batch], nbytes, AccessKind.STORE)
        count = batch.stop - batch.start
        values = np.zeros((count, len(sizes), 8), np.uint8)
        values[:, :nr_words] = items[batch, : nr_words * 8].reshape(count, nr_words, 8)
        at = nr_words * 8
        for place in range(nr_words, len(sizes)):
            values[:, place, : sizes[place]] = items[batch, at : at + sizes[place]]
            at += sizes[place]
        owner.run(where, kinds, values.reshape(-1).view(np.uint64))


def _inner_run(layout: Array) -> tuple[int, int]:
    """Return how many of the last axes lie without gaps, and the bytes of such a run."""
    nbytes, axes = layout.itemsize, 0
    for length, stride in zip(reversed(layout.shape), reversed(layout.strides), strict=True):
        if length != 1 and stride != nbytes:
            break
        nbytes *= length
        axes += 1
    return axes, nbytes


def run_offsets(shape: tuple[int, ...], strides: tuple[int, ...]) -> Offsets:
    """Return the distances from the first element of all elements, in C order."""
    total = np.zeros((1,) * len(shape), np.int64)
    for axis, (length, stride) in enumerate(zip(shape, strides, strict=True)):
        ones = [1] * len(shape)
        ones[axis] = length
        total = total + (np.arange(length, dtype=np.int64) * stride).reshape(ones)
    return total.ravel()


def _in_order(layout: Array) -> tuple[Array, tuple[int, ...], Any]:
    """Turn a layout so that memory is walked upwards: the layout turned, its axes' order, and what undoes the flips."""
    flips = (*(slice(None, None, -1) if stride < 0 else slice(None) for stride in layout.strides), ...)
    axes = tuple(sorted(range(layout.ndim), key=lambda axis: -abs(layout.strides[axis])))
    return layout[flips].transpose(axes), axes, flips


def load_layout(owner: BatchOwner, vaddr: int, ghost: Array) -> Array:
    """Load what a ghost stands for, whose first element lies at `vaddr`; returns a new array of its shape.

    Elements that a stride of 0 repeats are loaded once.
    """
    once = ghost[(*(slice(1) if stride == 0 else slice(None) for stride in ghost.strides), ...)]
    turned, axes, flips = _in_order(once)
    start = vaddr + _distance(turned, ghost)
    items = _load_runs(owner, start, turned)
    straight: Array = items.view(ghost.dtype).reshape(turned.shape).transpose(np.argsort(axes))[flips]
    if once.shape != ghost.shape:
        return np.array(np.broadcast_to(straight, ghost.shape), order="C")
    return np.ascontiguousarray(straight).reshape(ghost.shape)


def _distance(ghost: Array, origin: Array) -> int:
    return int(ghost.__array_interface__["data"][0]) - int(origin.__array_interface__["data"][0])


def _load_runs(owner: BatchOwner, vaddr: int, turned: Array) -> Bytes:
    axes, nbytes = _inner_run(turned)
    outer = turned.ndim - axes
    if turned.size == 0 or turned.itemsize == 0:
        return np.empty(turned.nbytes, np.uint8)
    offsets = run_offsets(turned.shape[:outer], turned.strides[:outer])
    if outer and nbytes < _RANGE_NBYTES:
        return gather(owner, vaddr, offsets, nbytes).reshape(-1)
    items = np.empty(turned.nbytes, np.uint8)
    done = 0
    for at in offsets.tolist():
        for first in range(0, nbytes, _LOAD_NBYTES):
            count = min(_LOAD_NBYTES, nbytes - first)
            items[done : done + count] = np.frombuffer(owner.load(vaddr + at + first, count), np.uint8)
            done += count
    return items


def store_layout(owner: BatchOwner, vaddr: int, ghost: Array, content: Array) -> None:
    """Store an array of a ghost's shape and dtype where the ghost stands for, whose first element lies at `vaddr`."""
    turned, axes, flips = _in_order(ghost)
    if turned.size == 0 or turned.itemsize == 0:
        return
    start = vaddr + _distance(turned, ghost)
    straight = np.ascontiguousarray(content[flips].transpose(axes))
    run_axes, nbytes = _inner_run(turned)
    items = straight.reshape(-1).view(np.uint8).reshape(-1, nbytes)
    outer = turned.ndim - run_axes
    if outer == 0:
        owner.store(start, items.reshape(-1).data)
        return
    offsets = run_offsets(turned.shape[:outer], turned.strides[:outer])
    if nbytes < _RANGE_NBYTES:
        scatter(owner, start, offsets, items)
        return
    for at, run in zip(offsets.tolist(), items, strict=True):
        owner.store(start + at, run.data)
