"""RemappedVmas: how many VMAs remap_file_pages made of one mapping, where remaps make VMAs."""

from collections.abc import Callable


class RemappedVmas:
    """The VMAs of one mm that show what one mmap call mapped, the first among them: the others are what remaps cost.

    VMAs carry it on as they are split, moved and copied; `tell` hears by how many the others became more or fewer.
    """

    __slots__ = ("_nr", "_tell")

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._nr = 0
        self._tell = tell

    def add(self, nr_vmas: int) -> None:
        """Count VMAs that came, or went, if negative."""
        before = max(self._nr - 1, 0)
        self._nr += nr_vmas
        self._tell(max(self._nr - 1, 0) - before)

    def copy(self) -> "RemappedVmas":
        """Return one for a copy of the mapping, in the mm of a child."""
        return RemappedVmas(self._tell)
