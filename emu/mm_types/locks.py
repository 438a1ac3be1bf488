"""The emulated kernel's locks: nobody waits, but who took what, for how many visits, is counted.

One thread runs the emulated kernel, so a lock never blocks; it checks that it is used in pairs and counts
acquisitions and the visits (PTEs, nodes, VMAs looked at) made while it was held. From these counts contention
can be simulated later.
"""

from dataclasses import dataclass

from emu.errors import KernelBug


@dataclass(slots=True)
class LockStat:
    """Acquisitions of one class of locks (all mmap_sems, all i_mmap_locks ...) and the visits under them."""

    name: str
    nr_read: int = 0
    nr_write: int = 0
    visits_read: int = 0
    visits_write: int = 0
    visits_max: int = 0

    def taken(self, visits: int = 0, *, write: bool = True) -> None:
        """Count one acquisition that was released after `visits`, of a lock that is held nowhere else meanwhile."""
        if write:
            self.nr_write += 1
            self.visits_write += visits
        else:
            self.nr_read += 1
            self.visits_read += visits
        self.visits_max = max(self.visits_max, visits)

    def snapshot(self) -> dict[str, int]:
        """Return the counts by name."""
        return {
            "nr_read": self.nr_read,
            "nr_write": self.nr_write,
            "visits_read": self.visits_read,
            "visits_write": self.visits_write,
            "visits_max": self.visits_max,
        }


class Visits:
    """The machine's one odometer of visits; a lock reads it when taken and when released."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


class RwSem:
    """A reader-writer semaphore (mmap_sem) or, with writers only, a mutex or spinlock (i_mmap_lock)."""

    __slots__ = ("_from", "_stat", "_visits", "readers", "writer")

    def __init__(self, stat: LockStat, visits: Visits) -> None:
        self._stat = stat
        self._visits = visits
        self.readers = 0
        self.writer = False
        self._from = 0

    def down_read(self) -> None:
        """Take it for reading; KernelBug if a writer holds it."""
        if self.writer:
            raise KernelBug(f"down_read({self._stat.name}) while it is held for writing")
        if not self.readers:
            self._from = self._visits.total
        self.readers += 1
        self._stat.nr_read += 1

    def up_read(self) -> None:
        """Release one reader's hold."""
        if self.readers <= 0:
            raise KernelBug(f"up_read({self._stat.name}) without down_read")
        self.readers -= 1
        if not self.readers:
            held = self._visits.total - self._from
            stat = self._stat
            stat.visits_read += held
            stat.visits_max = max(stat.visits_max, held)

    def down_write(self) -> None:
        """Take it for writing; KernelBug if anybody holds it."""
        if self.writer or self.readers:
            raise KernelBug(f"down_write({self._stat.name}): readers={self.readers} writer={self.writer}")
        self.writer = True
        self._from = self._visits.total
        self._stat.nr_write += 1

    def up_write(self) -> None:
        """Release the writer's hold."""
        if not self.writer:
            raise KernelBug(f"up_write({self._stat.name}) without down_write")
        self.writer = False
        held = self._visits.total - self._from
        stat = self._stat
        stat.visits_write += held
        stat.visits_max = max(stat.visits_max, held)


class Locks:
    """The classes of locks that are counted; `rmap_lock` is what a strategy takes for one page or one bucket.

    The nodes of a strategy are counted under its own lock (vma_lock or rmap_lock), all other visits (PTEs, the way down
    the VMA tree) under whatever is held meanwhile.
    """

    def __init__(self) -> None:
        self.visits = Visits()
        self.mmap_sem = LockStat("mmap_sem")
        self.i_mmap_lock = LockStat("i_mmap_lock")
        self.page_lock = LockStat("page_lock")
        self.vma_lock = LockStat("vma_lock")
        self.rmap_lock = LockStat("rmap_lock")
        self._page_locked_at = 0

    def new(self, stat: LockStat) -> RwSem:
        """Make a lock of the class `stat`."""
        return RwSem(stat, self.visits)

    def page_locked(self) -> None:
        """Count the acquisition of a page lock; the kernel holds one at a time."""
        self.page_lock.nr_write += 1
        self._page_locked_at = self.visits.total

    def page_unlocked(self) -> None:
        """Count the visits made since the page was locked."""
        held = self.visits.total - self._page_locked_at
        self.page_lock.visits_write += held
        self.page_lock.visits_max = max(self.page_lock.visits_max, held)

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return the counts by class of lock."""
        every = (self.mmap_sem, self.i_mmap_lock, self.page_lock, self.vma_lock, self.rmap_lock)
        return {stat.name: stat.snapshot() for stat in every}
