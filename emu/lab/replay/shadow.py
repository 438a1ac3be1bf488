"""What a file must hold after a replay, kept by nobody but us: every store into a shared mapping, in order."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from emu.lab.memtrace.words import U64Array

U8Array = npt.NDArray[np.uint8]
_NBYTES = 8 >> np.arange(16) // 4
_STORE = 1


class Shadow:
    """The bytes of one file as they must be."""

    def __init__(self, content: bytes | U8Array) -> None:
        self._bytes = np.array(np.frombuffer(content, np.uint8))
        self._stored = np.zeros(len(self._bytes), np.bool_)

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def nr_stored(self) -> int:
        """Distinct bytes stored into."""
        return int(self._stored.sum())

    def nr_stored_pages(self, page_size: int) -> int:
        """Distinct pages stored into."""
        return len(np.unique(np.flatnonzero(self._stored) // page_size))

    def store(self, places: U64Array, nbytes: npt.NDArray[np.int64], values: U64Array) -> None:
        """Take stores of 1 to 8 bytes, in order; what goes beyond the file's end is dropped, as the kernel does."""
        source = np.repeat(np.arange(len(places)), nbytes)
        number = (np.arange(len(source)) - np.repeat(np.cumsum(nbytes) - nbytes, nbytes)).astype(np.uint64)
        at = places[source] + number
        stored = (values[source] >> (number << np.uint64(3))).astype(np.uint8)
        inside = at < len(self._bytes)
        # Of a place that occurs twice, the last value remains: numpy assigns in order.
        self._bytes[at[inside]] = stored[inside]
        self._stored[at[inside]] = True

    def differing_pages(self, path: Path, page_size: int) -> list[int]:
        """Return the pages of the file on the disk that do not hold what they must."""
        found = np.frombuffer(path.read_bytes(), np.uint8)
        length = max(len(found), len(self._bytes))
        here, there = (np.zeros(-(-length // page_size) * page_size, np.uint8) for _ in range(2))
        here[: len(self._bytes)], there[: len(found)] = self._bytes, found
        wrong = (here != there).reshape(-1, page_size).any(axis=1)
        if len(found) < len(self._bytes):
            wrong[len(found) // page_size :] = True
        return [int(page) for page in np.flatnonzero(wrong)]


def cut_at_pages(
    vaddrs: U64Array, nbytes: npt.NDArray[np.int64], values: U64Array, page_size: int
) -> tuple[U64Array, npt.NDArray[np.int64], U64Array]:
    """Cut stores that reach into the next page in two, since that may show another place of the file."""
    room = page_size - (vaddrs & np.uint64(page_size - 1)).astype(np.int64)
    cut = np.flatnonzero(nbytes > room)
    if not len(cut):
        return vaddrs, nbytes, values
    head = room[cut]
    moved = head.astype(np.uint64)
    rest = nbytes[cut] - head
    sizes = nbytes.copy()
    sizes[cut] = head
    return (
        np.insert(vaddrs, cut + 1, vaddrs[cut] + moved),
        np.insert(sizes, cut + 1, rest),
        np.insert(values, cut + 1, values[cut] >> (moved << np.uint64(3))),
    )


def sizes_of_kinds(kinds: U8Array) -> npt.NDArray[np.int64]:
    """Return how many bytes the MMU's kinds move."""
    sizes: npt.NDArray[np.int64] = _NBYTES[kinds & 15].astype(np.int64)
    return sizes


def stores_of(kinds: U8Array) -> npt.NDArray[np.bool_]:
    """Tell which of the MMU's kinds are stores."""
    stores: npt.NDArray[np.bool_] = kinds & 3 == _STORE
    return stores
