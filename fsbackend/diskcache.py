"""A disk's volatile cache that writes out in any order: what the rule ``reorder`` puts before the store's files.

A write that is held is in RAM, page by page. After each, some pages picked by chance go to the store's file, in
the order in which they were picked; the rest stay, at most `limit` of them. A file's barrier writes out all of
its pages, so between barriers they persist in any order, and what a crash finds is any subset. Two writes of one
page keep their order, as on a real disk. A file's new size is set at once: what is not there yet is zeros.

Errors are the store's own; what could not be written stays held.
"""

import contextlib
import os
import random
import threading
from collections.abc import Callable, Sequence

from fsbackend.durability import Choice
from fsbackend.node import Node
from fsbackend.pages import PAGE_SHIFT, PAGE_SIZE

DEFAULT_LIMIT = 256
"""Pages held at most, unless the rule says otherwise: 1 MiB."""


class HeldFile:
    """One file's held pages: page number -> (offset in the file, bytes), within that page."""

    __slots__ = ("fd", "pages")

    def __init__(self, fd: int) -> None:
        self.fd = os.dup(fd)
        self.pages: dict[int, tuple[int, bytes]] = {}


class DiskCache:
    """What the store's disk has accepted and not made durable; `lock` is held by whoever needs it to stand still."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - the order must repeat, not be secret
        self.lock = threading.RLock()
        self.files: dict[Node, HeldFile] = {}
        self.nr_pages = 0

    def hold(self, node: Node, fd: int, buffers: Sequence[memoryview], offset: int, limit: int) -> None:
        """Take a write, then let some pages go; `fd` may be closed afterwards."""
        data = memoryview(b"".join(buffers))
        end = offset + len(data)
        with self.lock:
            if os.fstat(fd).st_size < end:
                os.ftruncate(fd, end)
            held = self.files.get(node)
            if held is None:
                held = self.files[node] = HeldFile(fd)
            done = 0
            while done < len(data):
                start = offset + done
                nbytes = min(PAGE_SIZE - start % PAGE_SIZE, len(data) - done)
                self._take(held, start, bytes(data[done : done + nbytes]))
                done += nbytes
            self._let_go(limit)

    def _take(self, held: HeldFile, start: int, piece: bytes) -> None:
        pgoff = start >> PAGE_SHIFT
        old = held.pages.get(pgoff)
        if old is not None:
            if not (start <= old[0] and old[0] + len(old[1]) <= start + len(piece)):
                self._put(held, pgoff)
            else:
                self.nr_pages -= 1
        held.pages[pgoff] = (start, piece)
        self.nr_pages += 1

    def _let_go(self, limit: int) -> None:
        wanted = min(self._chance.randint(0, self.nr_pages), limit)
        waiting = [(node, pgoff) for node, held in self.files.items() for pgoff in held.pages]
        for node, pgoff in self._chance.sample(waiting, len(waiting) - wanted):
            self._put(self.files[node], pgoff)
        self._close_empty()

    def _put(self, held: HeldFile, pgoff: int) -> None:
        """Write one held page to the store; times stay, since this is no write of anybody's."""
        start, piece = held.pages[pgoff]
        before = os.fstat(held.fd)
        done = 0
        while done < len(piece):
            done += os.pwrite(held.fd, piece[done:], start + done)
        with contextlib.suppress(PermissionError):  # another owner's file
            os.utime(held.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        del held.pages[pgoff]
        self.nr_pages -= 1

    def _close_empty(self) -> None:
        for node, held in list(self.files.items()):
            if not held.pages:
                os.close(held.fd)
                del self.files[node]

    def drain(self, node: Node) -> None:
        """Write out all that is held of a file, in any order: its barrier."""
        with self.lock:
            held = self.files.get(node)
            if held is not None:
                for pgoff in self._chance.sample(list(held.pages), len(held.pages)):
                    self._put(held, pgoff)
                self._close_empty()

    def settle(self, node: Node, offset: int, nbytes: int) -> None:
        """Write out what is held of the pages that a write past this cache is about to touch."""
        with self.lock:
            held = self.files.get(node)
            if held is not None:
                for pgoff in range(offset >> PAGE_SHIFT, offset + nbytes + PAGE_SIZE - 1 >> PAGE_SHIFT):
                    if pgoff in held.pages:
                        self._put(held, pgoff)
                self._close_empty()

    def overlay(self, node: Node, offset: int, out: memoryview) -> None:
        """Copy what is held over bytes that were read from the store; the caller holds the lock since before that."""
        held = self.files.get(node)
        end = offset + len(out)
        for pgoff in range(offset >> PAGE_SHIFT, end + PAGE_SIZE - 1 >> PAGE_SHIFT) if held is not None else ():
            start, piece = held.pages.get(pgoff, (0, b"")) if held is not None else (0, b"")
            first, last = max(start, offset), min(start + len(piece), end)
            if first < last:
                out[first - offset : last - offset] = piece[first - start : last - start]

    def forget(self, node: Node) -> None:
        """Drop what is held of a file that is gone for good."""
        with self.lock:
            held = self.files.get(node)
            if held is not None:
                self.nr_pages -= len(held.pages)
                held.pages.clear()
                self._close_empty()

    def cut(self, choice: Choice, survived: Callable[[Node, int], None] | None = None) -> None:
        """Lose what is held but what the choice lets live; `survived` hears which pages of a file that is."""
        with self.lock:
            for node, held in list(self.files.items()):
                for pgoff in list(held.pages):
                    if choice.lives():
                        self._put(held, pgoff)
                        if survived is not None:
                            survived(node, pgoff)
                self.forget(node)
