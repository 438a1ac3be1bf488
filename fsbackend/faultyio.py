"""Store I/O with faults, with a disk's cache that reorders, and with a journal of what is not durable yet.

What is written passes the rules first; then, for a mount whose power can be cut, what it replaces is kept; then
it goes to the store, or, under a rule ``reorder``, to the disk's cache. A barrier takes the same way back: the
disk's cache is emptied, and what was kept for the file is confirmed if the store's fsync succeeds.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from fsbackend.diskcache import DiskCache
from fsbackend.durability import Choice, DurabilityJournal, FileJournal
from fsbackend.inject import Injector, Rule
from fsbackend.node import Node
from fsbackend.storeio import PowerCutError, StoreIo


class Commit(NamedTuple):
    """What a barrier confirms if it succeeds: a transaction, and the changes of names up to this one."""

    tid: int
    nr_changes: int


class PendingNames(Protocol):
    """Changes of names that wait for a barrier."""

    def inode_changed(self, node: Node, *, data: bool) -> None:
        """Note that a barrier of the inode has something to commit; with `data`, an fdatasync, too."""

    def begin_commit(self, node: Node | None, *, datasync: bool) -> Commit | None:
        """Return what a barrier of an inode that starts now (None: of the store) will confirm; None: nothing."""

    def committed(self, commit: Commit) -> None:
        """Note that a barrier succeeded."""


def _plain_fd(node: Node, fd: int) -> int:
    """Return a descriptor that takes odd bytes and can be read, where `fd` may be the O_DIRECT one for writeback."""
    plain_fd = getattr(node.data, "fd", -1)
    return plain_fd if plain_fd >= 0 else fd


def _moves_blocks(fd: int, offset: int, nbytes: int) -> bool:
    """Return whether a write needs new blocks or a new size, so that fdatasync has more to do than its bytes."""
    try:
        return os.lseek(fd, offset, os.SEEK_HOLE) < offset + nbytes
    except OSError:
        return True  # ENXIO: behind the end


class FaultyIo(StoreIo):
    """Store I/O with faults, and with a journal of what is not durable yet if the mount can be power-cut.

    Locks, in order: the file's writes in progress, the disk cache's, the journal's.
    """

    def __init__(self, injector: Injector, journal: DurabilityJournal | None, seed: int = 0) -> None:
        self.injector = injector
        self.journal = journal
        self.disk_cache = DiskCache(seed)
        self.dead = False
        self.cutting = False
        self.names: PendingNames | None = None

    def _fire(self, op: str, node: Node, nbytes: int = 0) -> Rule | None:
        if self.dead:
            raise PowerCutError
        if not self.injector.has_store or self.cutting:  # what survives a cut is the user's choice, no rule's
            return None
        fired = self.injector.fire(op, os.fsdecode(node.path()), nbytes)
        if self.dead:  # the power went while a rule had us wait
            raise PowerCutError
        return fired

    def _standing_still(self, rule: Rule | None = None) -> AbstractContextManager[object]:
        """Hold the disk's cache if there is, or is about to be, anything in it."""
        if self.disk_cache.nr_pages or (rule is not None and rule.action == "reorder"):
            return self.disk_cache.lock
        return nullcontext()

    def _writing(self, node: Node) -> AbstractContextManager[object]:
        return nullcontext() if self.journal is None else self.journal.writes.writing(node)

    def inode_changed(self, node: Node) -> None:
        """Note that a program changed a file's times: its next fsync commits them, and all names with them."""
        if self.names is not None:
            self.names.inode_changed(node, data=False)

    def _blocks_moved(self, node: Node) -> None:
        if self.names is not None:
            self.names.inode_changed(node, data=True)

    def remembers(self, node: Node) -> bool:
        """Return whether something of a file is not durable yet: its inode has to stay the one that we know."""
        return (self.journal is not None and node in self.journal.files) or node in self.disk_cache.files

    def forget(self, node: Node) -> None:
        """Drop all that is remembered of a file that is gone for good."""
        self.disk_cache.forget(node)
        if self.journal is not None:
            self.journal.drop(node)

    def cut(self, choice: Choice) -> None:
        """Lose what is in the disk's cache, as a power cut does; the journal's part is `DurabilityJournal.cut`."""
        self.disk_cache.cut(choice, self.journal.survived if self.journal is not None else None)

    def pread_into(self, node: Node, fd: int, out: memoryview, offset: int) -> int:
        """Read."""
        self._fire("store.read", node, len(out))
        if node not in self.disk_cache.files:
            return super().pread_into(node, fd, out, offset)
        with self.disk_cache.lock:
            done = super().pread_into(node, fd, out, offset)
            self.disk_cache.overlay(node, offset, out[:done])
            return done

    def pwrite_all(self, node: Node, fd: int, buffers: Sequence[memoryview], offset: int) -> None:
        """Write: all, or, torn, a part, or, reordered, into the disk's cache."""
        nbytes = sum(map(len, buffers))
        fired = self._fire("store.write", node, nbytes)
        if self.names is not None:
            self.names.inode_changed(node, data=_moves_blocks(fd, offset, nbytes))
        with self._writing(node), self._standing_still(fired):
            plain_fd = _plain_fd(node, fd)
            if self.journal is not None:
                self.journal.before_write(node, plain_fd, offset, nbytes)
            if fired is not None and fired.action == "reorder":
                self.disk_cache.hold(node, plain_fd, buffers, offset, int(fired.number))
                return
            self.disk_cache.settle(node, offset, nbytes)
            if fired is not None and fired.action == "torn":
                whole = memoryview(b"".join(buffers))
                super().pwrite_all(node, plain_fd, [whole[: self.injector.part(nbytes)]], offset)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().pwrite_all(node, fd, buffers, offset)

    def fsync(self, node: Node, fd: int, *, datasync: bool) -> None:
        """Make durable, or say so."""
        fired = self._fire("store.fsync", node)
        if fired is not None and fired.action == "lie":
            return
        if self.journal is None:
            self.disk_cache.drain(node)
            super().fsync(node, fd, datasync=datasync)
            return
        with self.journal.writes.none(node), self._standing_still():
            self.disk_cache.drain(node)
            began = self.journal.begin_barrier(node)
        commit = self.names.begin_commit(node, datasync=datasync) if self.names is not None else None
        try:
            super().fsync(node, fd, datasync=datasync)
        except OSError:
            self.journal.barrier_failed(node, began)
            raise
        if self.names is not None and commit is not None:
            self.names.committed(commit)

    def sync_store(self, fd: int) -> None:
        """Make all durable but the files that a rule lies about."""
        began: dict[Node, FileJournal] = {}
        lies = False
        commit = self.names.begin_commit(None, datasync=False) if self.names is not None else None
        waiting = set(self.disk_cache.files) | set(self.journal.files if self.journal is not None else ())
        try:
            for node in waiting:
                fired = self._fire("store.fsync", node)
                if fired is not None and fired.action == "lie":
                    lies = True
                    continue
                if self.journal is None:
                    self.disk_cache.drain(node)
                    continue
                with self.journal.writes.none(node), self._standing_still():
                    self.disk_cache.drain(node)
                    kept = self.journal.begin_barrier(node)
                if kept is not None:
                    began[node] = kept
            super().sync_store(fd)
        except OSError:
            for node, journal in began.items():
                if self.journal is not None:
                    self.journal.barrier_failed(node, journal)
            raise
        if self.names is not None and commit is not None and not lies:
            self.names.committed(commit)

    def settle(self, fd: int) -> None:
        """Write out what the disk's cache still holds, as a disk does whose power stays on, even one that lies."""
        waiting = list(self.disk_cache.files)
        for node in waiting:
            self.disk_cache.drain(node)
        if waiting:
            super().sync_store(fd)

    def truncate(self, node: Node, fd: int, nbytes: int) -> None:
        """Set the size."""
        self._fire("store.truncate", node)
        self._blocks_moved(node)
        with self._writing(node), self._standing_still():
            self.disk_cache.drain(node)
            if self.journal is not None:
                self.journal.before_truncate(node, fd, nbytes)
            super().truncate(node, fd, nbytes)

    def fallocate(self, node: Node, fd: int, mode: int, offset: int, nbytes: int) -> None:
        """Allocate or punch."""
        self._fire("store.truncate", node)
        self._blocks_moved(node)
        with self._writing(node), self._standing_still():
            self.disk_cache.drain(node)
            if self.journal is not None:
                self.journal.before_fallocate(node, fd, offset, nbytes)
            super().fallocate(node, fd, mode, offset, nbytes)
