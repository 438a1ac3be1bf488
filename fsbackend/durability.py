"""What of a store is not durable yet: pre-images since each file's last barrier, so that a power cut can undo.

The flusher writes unsynced bytes into the store's files. Before it does, the bytes that they replace are kept
here, page by page, until a successful fsync of the file. A cut puts back what the user chose not to survive.
Memory: one page of pre-image for each page of the durable file that was overwritten, cut off or punched since its
last fsync; holes cost nothing.
"""

import contextlib
import errno
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fsbackend.node import Node
from fsbackend.pages import PAGE_SHIFT, PAGE_SIZE


@dataclass(slots=True)
class FileJournal:
    """One file's durable size, the lowest it was truncated to since, and the durable bytes of pages replaced.

    A page that was cut off and is not in `pages` was a hole. `survivors`: pages whose last write a cut has let live
    already, before it comes to what the store's file holds.
    """

    durable_nbytes: int
    lowest_nbytes: int
    pages: dict[int, bytes] = field(default_factory=dict)
    survivors: set[int] = field(default_factory=set)


class Choice:
    """Which unsynced writes survive: none, all, or a seeded half, page by page."""

    def __init__(self, survive: str) -> None:
        """Read ``none``, ``all`` or a number; ValueError with one line."""
        self.word = survive.strip() or "none"
        self._chance: random.Random | None = None
        if self.word not in {"none", "all"}:
            try:
                self._chance = random.Random(int(self.word))  # noqa: S311 - a cut must repeat, not be secret
            except ValueError:
                raise ValueError(f"survive takes none, all or a seed, not {survive!r}") from None

    def lives(self) -> bool:
        """Draw for one unsynced write."""
        if self._chance is None:
            return self.word == "all"
        return self._chance.random() < 0.5

    def prefix(self, count: int) -> int:
        """Draw how many of `count` ordered things survive."""
        if self._chance is None:
            return count if self.word == "all" else 0
        return self._chance.randint(0, count)


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has bytes within a range, (from, to) by whole pages; the rest is holes, and reads as zeros."""
    start &= ~(PAGE_SIZE - 1)
    while start < end:
        try:
            data = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # only a hole, or nothing at all, from here on
        hole = os.lseek(fd, data, os.SEEK_HOLE) + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1)
        data &= ~(PAGE_SIZE - 1)
        if data < end:
            yield data, min(hole, end)
        start = hole


def _end(pgoff: int) -> int:
    return pgoff + 1 << PAGE_SHIFT


class WritesInProgress:
    """Writes of a file, which go side by side; its barrier begins when none is between its pre-image and its bytes.

    Else a barrier would confirm a pre-image whose write comes after it, and a cut could not undo that write.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._nr_writing: Counter[Node] = Counter()
        self._beginning: set[Node] = set()

    @contextlib.contextmanager
    def writing(self, node: Node) -> Iterator[None]:
        """Be a write of the file; waits while a barrier begins, which does no I/O but a disk cache's."""
        with self._changed:
            while node in self._beginning:
                self._changed.wait()
            self._nr_writing[node] += 1
        try:
            yield
        finally:
            with self._changed:
                self._nr_writing[node] -= 1
                if not self._nr_writing[node]:
                    del self._nr_writing[node]
                    self._changed.notify_all()

    @contextlib.contextmanager
    def none(self, node: Node) -> Iterator[None]:
        """Be where no write of the file is in progress, to begin a barrier."""
        with self._changed:
            while node in self._beginning:
                self._changed.wait()
            self._beginning.add(node)
            while node in self._nr_writing:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._beginning.discard(node)
                self._changed.notify_all()


class DurabilityJournal:
    """The files with bytes in the store that no fsync has confirmed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.writes = WritesInProgress()
        self.files: dict[Node, FileJournal] = {}

    def _file(self, node: Node, fd: int) -> FileJournal:
        journal = self.files.get(node)
        if journal is None:
            nbytes = os.fstat(fd).st_size
            journal = self.files[node] = FileJournal(nbytes, nbytes)
        return journal

    def before_write(self, node: Node, fd: int, offset: int, nbytes: int) -> None:
        """Keep what a write is about to replace."""
        with self._lock:
            journal = self._file(node, fd)
            self._keep(journal, fd, offset, min(offset + nbytes, journal.durable_nbytes))

    def before_truncate(self, node: Node, fd: int, nbytes: int) -> None:
        """Keep what a truncation is about to cut off."""
        with self._lock:
            journal = self._file(node, fd)
            self._keep_data(journal, fd, nbytes, journal.durable_nbytes)
            journal.lowest_nbytes = min(journal.lowest_nbytes, nbytes)

    def before_fallocate(self, node: Node, fd: int, offset: int, nbytes: int) -> None:
        """Keep what a hole is about to take; what is allocated reads as before."""
        with self._lock:
            journal = self._file(node, fd)
            self._keep_data(journal, fd, offset, min(offset + nbytes, journal.durable_nbytes))

    def survived(self, node: Node, pgoff: int) -> None:
        """Note, in a cut, that a page's last write has been let live: nothing older of it is asked for."""
        with self._lock:
            journal = self.files.get(node)
            if journal is not None:
                journal.survivors.add(pgoff)

    def _keep_data(self, journal: FileJournal, fd: int, start: int, end: int) -> None:
        for data, hole in data_ranges(fd, start, end):
            self._keep(journal, fd, data, hole)

    @staticmethod
    def _keep(journal: FileJournal, fd: int, start: int, end: int) -> None:
        for pgoff in range(start >> PAGE_SHIFT, end + PAGE_SIZE - 1 >> PAGE_SHIFT):
            if pgoff not in journal.pages:
                journal.pages[pgoff] = os.pread(fd, PAGE_SIZE, pgoff << PAGE_SHIFT)

    def begin_barrier(self, node: Node) -> FileJournal | None:
        """Take what a barrier that starts now will confirm; what is written meanwhile is kept anew."""
        with self._lock:
            return self.files.pop(node, None)

    def barrier_failed(self, node: Node, began: FileJournal | None) -> None:
        """Put back what a barrier did not confirm; the older pre-images are the durable ones."""
        if began is None:
            return
        with self._lock:
            since = self.files.get(node)
            if since is not None:
                began.pages = since.pages | began.pages
                began.lowest_nbytes = min(began.lowest_nbytes, since.lowest_nbytes)
            self.files[node] = began

    def drop(self, node: Node) -> None:
        """Forget a file of which nothing is left to undo."""
        with self._lock:
            self.files.pop(node, None)

    def cut(self, node: Node, fd: int, choice: Choice) -> None:
        """Put a file in the store back to what a cut leaves of it; the caller has dropped its cached pages.

        A truncation since the barrier survives as a whole or not at all; if it does not, nor does what was
        written into the part that it had cut off. What was appended is cut off if the new size does not survive;
        if it does, pages that do not are zeros. The size is chosen first.
        """
        journal = self.files.pop(node, None)
        if journal is None:
            return
        if choice.word != "all":
            self._cut(journal, fd, choice)
        os.fsync(fd)

    def _cut(self, journal: FileJournal, fd: int, choice: Choice) -> None:
        nbytes = os.fstat(fd).st_size
        lowest = min(journal.lowest_nbytes, journal.durable_nbytes)

        def lives(pgoff: int) -> bool:
            return pgoff in journal.survivors or choice.lives()

        if lowest < journal.durable_nbytes and not choice.lives():
            os.ftruncate(fd, lowest)  # what was cut off and is not kept was a hole
            os.ftruncate(fd, journal.durable_nbytes)
            self._restore(fd, journal, lambda pgoff: _end(pgoff) > lowest or not lives(pgoff))
            return
        last = lowest >> PAGE_SHIFT
        size_lives = choice.lives() if nbytes > lowest else lives(last)
        self._restore(fd, journal, lambda pgoff: _end(pgoff) <= lowest and not lives(pgoff))
        if size_lives:
            for data, hole in data_ranges(fd, lowest + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1), nbytes):
                for start in range(data, hole, PAGE_SIZE):
                    if not lives(start >> PAGE_SHIFT):
                        os.pwrite(fd, bytes(min(PAGE_SIZE, nbytes - start)), start)
        else:
            self._restore(fd, journal, lambda pgoff: pgoff == last)
            os.ftruncate(fd, lowest)

    @staticmethod
    def _restore(fd: int, journal: FileJournal, wanted: Callable[[int], bool]) -> None:
        for pgoff, old in sorted(journal.pages.items()):
            start = pgoff << PAGE_SHIFT
            if wanted(pgoff):
                os.pwrite(fd, old[: max(journal.durable_nbytes - start, 0)], start)
