"""i_mmap: which VMAs of a file map a given pgoff.

A hierarchy of grids in place of a balanced tree: a VMA of n pages is filed at level ceil(log2 n) under each of the
one or two cells of 2**level pages that it overlaps, so that a query looks at one cell a level. Insert and remove
are O(1), a query O(levels in use + VMAs in those cells).

It answers what Linux v2.6.20 mm/prio_tree.c and v4.0 mm/interval_tree.c answer.
"""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from emu.errors import KernelBug


class Interval(Protocol):
    """What is filed: a first pgoff and a number of pages, which must not change while it is filed."""

    @property
    def pgoff(self) -> int:
        """The first page."""
        ...

    @property
    def nr_pages(self) -> int:
        """The length in pages, at least 1."""
        ...


T = TypeVar("T", bound=Interval)


class IntervalTree(Generic[T]):
    """A set of intervals of pgoffs, asked for those that hold one pgoff or overlap a range.

    `visits` is an odometer of the nodes that a balanced tree would visit in `insert`, `remove` and `stab`: a way down
    for each, and what `stab` finds at its end.
    """

    def __init__(self) -> None:
        # level -> cell -> the intervals filed there, in order of insertion
        self._levels: dict[int, dict[int, dict[int, T]]] = {}
        self._nr = 0
        self.visits = 0

    def __len__(self) -> int:
        return self._nr

    def insert(self, item: T) -> None:
        """File an interval; KernelBug if it is filed already."""
        level, first, last = _cells(item)
        cells = self._levels.get(level)
        if cells is None:
            cells = self._levels[level] = {}
        name = id(item)
        for cell in range(first, last + 1):
            filed = cells.get(cell)
            if filed is None:
                cells[cell] = {name: item}
            elif name in filed:
                raise KernelBug(f"interval at pgoff {item.pgoff} is filed twice")
            else:
                filed[name] = item
        self._nr += 1
        self.visits += self._nr.bit_length()

    def remove(self, item: T) -> None:
        """Take an interval out; KernelBug if it is not there."""
        level, first, last = _cells(item)
        cells = self._levels.get(level, {})
        for cell in range(first, last + 1):
            filed = cells.get(cell)
            if filed is None or filed.pop(id(item), None) is None:
                raise KernelBug(f"interval at pgoff {item.pgoff} is not filed")
            if not filed:
                del cells[cell]
        if not cells:
            del self._levels[level]
        self.visits += self._nr.bit_length()
        self._nr -= 1

    def stab(self, pgoff: int) -> list[T]:
        """Return the intervals that hold `pgoff`."""
        found = []
        for level, cells in self._levels.items():
            filed = cells.get(pgoff >> level)
            if filed is not None:
                found += [i for i in filed.values() if i.pgoff <= pgoff < i.pgoff + i.nr_pages]
        self.visits += self._nr.bit_length() + max(len(found) - 1, 0)
        return found

    def overlapping(self, start: int, stop: int) -> list[T]:
        """Return the intervals that share a page with [start, stop)."""
        found: dict[int, T] = {}
        for level, cells in self._levels.items():
            first, last = start >> level, (stop - 1) >> level
            names = range(first, last + 1) if last - first < len(cells) else list(cells)
            for cell in names:
                if first <= cell <= last:
                    found.update(cells.get(cell, {}))
        return [i for i in found.values() if i.pgoff < stop and start < i.pgoff + i.nr_pages]

    def __iter__(self) -> Iterator[T]:
        """Yield every interval once."""
        seen: dict[int, T] = {}
        for cells in self._levels.values():
            for filed in cells.values():
                seen.update(filed)
        return iter(list(seen.values()))


def _cells(item: Interval) -> tuple[int, int, int]:
    """Return the level of an interval and the first and last cell that it overlaps there."""
    first = item.pgoff
    last = first + item.nr_pages - 1
    level = (last - first).bit_length()
    return level, first >> level, last >> level
