"""Where the elements lie that an index of arrays, lists or masks means.

numpy says it itself: the same index applied to each axis's coordinates gives the coordinates of every element meant.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


def is_advanced(key: object) -> bool:
    """Tell whether an index copies (arrays, lists, masks) rather than makes a view (integers, slices)."""
    return any(not _makes_view(one) for one in (key if isinstance(key, tuple) else (key,)))


def _makes_view(one: object) -> bool:
    if isinstance(one, (slice, int, np.integer, type(None), type(...))):
        return not isinstance(one, bool)
    return hasattr(one, "__index__") and not isinstance(one, (np.ndarray, np.bool_))


def place_of_one(ghost: Array, key: object) -> int | None:
    """Return the distance of the element that plain integers within bounds mean; None for any other index.

    The usual index of a program's inner loop; numpy's own way through a view costs some microseconds more.
    """
    keys = key if type(key) is tuple else (key,)
    if len(keys) != ghost.ndim:
        return None
    distance = 0
    for one, length, stride in zip(keys, ghost.shape, ghost.strides, strict=True):
        if not isinstance(one, (int, np.integer)) or isinstance(one, bool) or not -length <= one < length:
            return None
        place = int(one)
        distance += (place + length if place < 0 else place) * stride
    return distance


def locate(ghost: Array, key: Any) -> Offsets:
    """Return the distances in bytes from the ghost's first element, in the shape of the index's result.

    Raises
    ------
    IndexError
        As numpy does, with its words.

    """
    coordinates = _plain_coordinates(ghost.shape, key)
    if coordinates is None:
        return _any_index(ghost, key)
    try:
        found = np.broadcast_arrays(*coordinates)
    except ValueError:
        return _any_index(ghost, key)
    total = np.zeros((), np.int64)
    for coordinate, stride in zip(found, ghost.strides, strict=False):
        total = total + coordinate * stride
    rest = len(coordinates)
    for length, stride in zip(ghost.shape[rest:], ghost.strides[rest:], strict=True):
        total = total[..., None] + np.arange(length, dtype=np.int64) * stride
    return total


def _plain_coordinates(shape: tuple[int, ...], key: Any) -> Sequence[Offsets] | None:
    """Return coordinates along the first axes if the index is a fitting mask or integer arrays alone, else None."""
    keys = key if isinstance(key, tuple) else (key,)
    if any(isinstance(one, (slice, type(None), type(...), bool, np.bool_)) for one in keys):
        return None
    arrays = [np.asarray(one) for one in keys]
    first = arrays[0]
    if len(arrays) == 1 and first.dtype == np.bool_:
        fits = first.ndim and first.shape == shape[: first.ndim]
        return np.nonzero(first) if fits else None
    if len(arrays) > len(shape) or any(array.dtype.kind not in "iu" for array in arrays):
        return None
    return _wrapped(shape, arrays)


def _wrapped(shape: tuple[int, ...], arrays: list[Array]) -> Sequence[Offsets] | None:
    """Return integer coordinates with negative ones counted from the end; None if one lies outside."""
    lengths = shape[: len(arrays)]
    for places, length in zip(arrays, lengths, strict=True):
        if places.size and (places.min() < -length or places.max() >= length):
            return None
    signed = [places.astype(np.int64) for places in arrays]
    return [np.where(places < 0, places + length, places) for places, length in zip(signed, lengths, strict=True)]


def _any_index(ghost: Array, key: Any) -> Offsets:
    """Apply the index to each axis's coordinates: every rule and every error is numpy's own."""
    total: Offsets = np.broadcast_to(np.int64(0), ghost.shape)[key]
    for axis, (length, stride) in enumerate(zip(ghost.shape, ghost.strides, strict=True)):
        ones = [1] * ghost.ndim
        ones[axis] = length
        steps = (np.arange(length, dtype=np.int64) * stride).reshape(ones)
        total = total + np.broadcast_to(steps, ghost.shape)[key]
    return np.asarray(total, np.int64)
