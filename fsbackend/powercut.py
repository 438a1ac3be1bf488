"""The power cut: as of one instant, only what was durable exists, and the mount serves on.

A `Gate` stops every operation and the flusher. Then what the cache holds is dropped (or, by the user's choice,
survives), the store's files are put back to their durable bytes, and the kernel is made to forget its own
cached pages; what it writes back of them meanwhile was in RAM when the power went, and is discarded.
"""

import contextlib
import errno
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from fsbackend.cachedfile import CachedFile
from fsbackend.dirstore import DirStore
from fsbackend.dirtyfile import DirtyFile
from fsbackend.durability import Choice, DurabilityJournal, FileJournal
from fsbackend.faultyio import FaultyIo
from fsbackend.namejournal import JournaledStore
from fsbackend.pages import CHUNK_SHIFT, PAGE_SHIFT, PAGE_SIZE
from fsbackend.ramoverride import RamOverride

if TYPE_CHECKING:
    from fsbackend.filesystem import FileSystem
    from fsbackend.node import Node

log = logging.getLogger("fremap")


class KeepAwake(Protocol):
    """What ends all injected delays, and lets none begin, until it is called again."""

    def __call__(self, *, awake: bool) -> None:
        """End delays, or allow them again."""


class Gate:
    """Operations pass while it is open; whoever shuts it is alone inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._nr_inside = 0
        self._shut = False
        self._mine = threading.local()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be inside; waits while the gate is shut."""
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._nr_inside += 1
        self._mine.inside = True
        try:
            yield
        finally:
            self._mine.inside = False
            with self._changed:
                self._nr_inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Leave for a while, to wait for what another operation has to do, which may come to a shut gate."""
        with self._changed:
            self._nr_inside -= 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                while self._shut:
                    self._changed.wait()
                self._nr_inside += 1

    @contextlib.contextmanager
    def shut(self, hurry: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Shut the gate, have those inside hurry, and wait until they have left; EBUSY if it is shut already."""
        own = 1 if getattr(self._mine, "inside", False) else 0
        with self._changed:
            if self._shut:
                raise OSError(errno.EBUSY, "the power is being cut already")
            self._shut = True
        try:
            hurry()
            with self._changed:
                while self._nr_inside > own:
                    self._changed.wait()
            yield
        finally:
            with self._changed:
                self._shut = False
                self._changed.notify_all()


class PowerCutter:
    """Cuts the power of a mount, and knows what a cut would lose."""

    def __init__(self, fs: "FileSystem", io: FaultyIo, journal: DurabilityJournal, gate: Gate) -> None:
        self.fs = fs
        self.io = io
        self.journal = journal
        self.gate = gate
        self.discarding = False
        self.nr_cuts = 0
        self.default_survive = "none"
        self.invalidate: Callable[[list[Node], list[tuple[Node, bytes]]], None] = lambda _nodes, _names: None
        self.keep_awake: KeepAwake = lambda *, awake: None  # noqa: ARG005 - the session's, once it serves

    def cut(self, survive: str = "none") -> None:
        """Cut the power; ValueError for a word that is no choice."""
        choice = Choice(survive)
        begin_s = self.fs.cache.clock()
        with self.gate.shut(self._die):
            self.io.dead, self.io.cutting = False, True
            try:
                with self.fs.lock:  # the flusher may be closing files that are clean
                    nodes = self._cut(choice)
                    store = self.fs.store
                    names = store.cut(choice) if isinstance(store, JournaledStore) else []
            finally:
                self.io.cutting = False
                self.keep_awake(awake=False)
            self.discarding = True
        try:
            self.invalidate(nodes, names)
        finally:
            self.discarding = False
        self.nr_cuts += 1
        self.fs.cache.events.add("power_cut", begin_s, self.fs.cache.clock(), survive=choice.word)
        log.info("power cut number %d, surviving: %s", self.nr_cuts, choice.word)

    def _die(self) -> None:
        """Let nothing more get to the store; whoever sleeps in an injected delay wakes up, and hears of it."""
        self.io.dead = True
        self.keep_awake(awake=True)

    def trigger(self, survive: str) -> None:
        """Cut from within any operation: nothing reaches the store from here on; a thread does the rest."""
        self.io.dead = True

        def run() -> None:
            try:
                self.cut(survive)
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.EBUSY:
                    log.info("two power cuts at once are one")
                else:
                    log.exception("bug: the power cut failed")

        threading.Thread(target=run, name="power-cut", daemon=True).start()

    def _cut(self, choice: Choice) -> "list[Node]":
        for file in self.fs.cache.oldest():
            self._drop_cached(file, choice)
        self.io.cut(choice)
        for node in list(self.journal.files):
            self._undo(node, choice)
        nodes = list(self.fs.nodes.values())
        for node in nodes:
            if isinstance(node.data, RamOverride):
                node.data.lose()
            if node.errors is not None:
                node.errors.forget_failures()
        return nodes

    def _undo(self, node: "Node", choice: Choice) -> None:
        """Put a file in the store back to what the cut leaves of it."""
        assert isinstance(self.fs.store, DirStore)
        fd, opened = getattr(node.data, "fd", -1), -1
        try:
            if fd < 0:
                fd = opened = self.fs.store.open_data(node)
            self.journal.cut(node, fd, choice)
        except FileNotFoundError:
            self.journal.drop(node)  # it has no name and no opener: nothing of it is left to undo
        finally:
            if opened >= 0:
                os.close(opened)
        if isinstance(node.data, CachedFile):
            node.data.nbytes = os.fstat(node.data.fd).st_size
            if choice.word != "all":
                node.data.errors.lost(errno.EIO)

    def _drop_cached(self, file: DirtyFile, choice: Choice) -> None:
        """Drop a file's dirty pages; those that survive go to the store first."""
        io = self.fs.cache.io
        with file.io_lock, file.lock:
            if file.pages.nr_pages and choice.word != "all":
                file.errors.lost(errno.EIO)
            for index, first, count in list(file.pages.dirty_runs()):
                for page in range(first, first + count):
                    offset = (index << CHUNK_SHIFT) + (page << PAGE_SHIFT)
                    if offset < file.nbytes and choice.lives():
                        start = page << PAGE_SHIFT
                        memory = file.pages.chunks[index].memory[start : start + PAGE_SIZE]
                        with contextlib.suppress(OSError):  # the medium refused: so it did not survive
                            io.pwrite_all(file.node, file.fd, [memory[: file.nbytes - offset]], offset)
                            self.journal.survived(file.node, offset >> PAGE_SHIFT)
            if file.fd >= 0:
                file.nbytes = os.fstat(file.fd).st_size
        file.discard()

    def _nr_appended(self, node: "Node", journal: FileJournal) -> int:
        """Return how many pages of the store's file lie behind its durable end."""
        store = self.fs.store
        if node.parent is None or not isinstance(store, DirStore):
            return 0
        with self.fs.lock, contextlib.suppress(OSError):
            return max((store.stat(node).st_size - 1 >> PAGE_SHIFT) - (journal.durable_nbytes - 1 >> PAGE_SHIFT), 0)
        return 0

    def unsynced(self) -> str:
        """Return, as JSON, each file with a name that a cut would change: pages in RAM only, and in the store only."""
        rows: dict[Node, dict[str, Any]] = {}

        def row(node: "Node") -> dict[str, Any]:
            path = node.path().decode("utf-8", "surrogateescape")
            return rows.setdefault(
                node, {"path": path, "dirty_pages": 0, "unconfirmed_pages": 0, "durable_bytes": None}
            )

        for file in self.fs.cache.oldest():
            row(file.node)["dirty_pages"] = file.pages.nr_pages
        with self.fs.lock:
            for node in self.fs.nodes.values():
                if isinstance(node.data, RamOverride) and not node.data.is_store_file():
                    row(node)["dirty_pages"] = node.data.nr_pages
        for node, journal in list(self.journal.files.items()):
            row(node)["unconfirmed_pages"] = len(journal.pages) + self._nr_appended(node, journal)
            row(node)["durable_bytes"] = journal.durable_nbytes
        answer = [told for node, told in rows.items() if node.parent is not None]
        if isinstance(self.fs.store, JournaledStore):
            nothing = {"dirty_pages": 0, "unconfirmed_pages": 0, "durable_bytes": None}
            answer += [
                {"path": change.path.decode("utf-8", "surrogateescape"), **nothing, "name": change.kind}
                for change in self.fs.store.pending()
            ]
        return json.dumps(answer) + "\n"
