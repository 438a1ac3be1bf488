"""SEEK_DATA and SEEK_HOLE: where a file has bytes, in its pages in RAM or in the store's file under them.

The store's own filesystem knows its holes; what is dirty and not in it yet counts as data, by whole pages. What is
left of a real file under an override ends at `kept_nbytes`.
"""

import errno
import os
from typing import NamedTuple

from fsbackend.cachedfile import CachedFile
from fsbackend.node import FileData
from fsbackend.pages import CHUNK_SHIFT, PAGE_SHIFT, PageMap, bit_runs
from fsbackend.ramfile import RamFile
from fsbackend.ramoverride import RamOverride


def _kept_from(pages: PageMap, offset: int) -> tuple[int, int] | None:
    """Return the first run of pages in RAM that ends behind an offset, as (start, end) in bytes."""
    found: tuple[int, int] | None = None
    for index in sorted(index for index in pages.chunks if index >= offset >> CHUNK_SHIFT):
        chunk, base = pages.chunks[index], index << CHUNK_SHIFT
        for first, count in bit_runs(chunk.dirty | chunk.writeback):
            start, end = base + (first << PAGE_SHIFT), base + (first + count << PAGE_SHIFT)
            if end <= offset:
                continue
            if found is not None and start > found[1]:
                return found
            found = (start if found is None else found[0], end)
    return found


def _store_seek(data: FileData, offset: int, whence: int) -> int | None:
    """Ask the store's filesystem; None: behind its last byte, or no data there."""
    if not isinstance(data, CachedFile):
        return None
    limit = data.kept_nbytes if isinstance(data, RamOverride) else data.nbytes
    if offset >= limit:
        return None
    try:
        found = os.lseek(data.fd, offset, whence)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
    if found >= limit:
        return limit if whence == os.SEEK_HOLE else None
    return found


class Found(NamedTuple):
    """What lseek(2) finds, None for ENXIO; and the hole that it tells of, from and to, for who knows of more bytes."""

    offset: int | None
    hole: tuple[int, int] | None


def seek(data: FileData, offset: int, whence: int) -> Found:
    """Find the first byte of data, or of a hole, from an offset on; the end of the file is a hole."""
    assert isinstance(data, CachedFile | RamFile)
    with data.lock:
        end = data.nbytes
        if not 0 <= offset < end:
            return Found(None, None)
        if whence == os.SEEK_DATA:
            found = min(_data_from(data, offset), end)
            return Found(found if found < end else None, (offset, found) if found > offset else None)
        found = min(_hole_from(data, offset), end)
        return Found(found, (found, min(_data_from(data, found), end)) if found < end else None)


def _data_from(data: CachedFile | RamFile, offset: int) -> int:
    in_store, in_ram = _store_seek(data, offset, os.SEEK_DATA), _kept_from(data.pages, offset)
    candidates = [in_store] if in_store is not None else []
    if in_ram is not None:
        candidates.append(max(in_ram[0], offset))
    return min(candidates, default=data.nbytes)


def _hole_from(data: CachedFile | RamFile, offset: int) -> int:
    while offset < data.nbytes:
        in_store = _store_seek(data, offset, os.SEEK_HOLE)
        if in_store is not None and in_store > offset:
            offset = in_store
        in_ram = _kept_from(data.pages, offset)
        if in_ram is None or in_ram[0] > offset:
            break
        offset = in_ram[1]
    return offset
