"""The inodes that the kernel knows, or that still have bytes to write: found by number, let go when nobody needs them.

`lock` covers the table and all names; a file's bytes have their own locks, so that reads and writes of different
files do not wait for each other or for the store's directory operations. A file that is closed but dirty lingers
until it is written back; an inode that the kernel forgets before a barrier confirmed its bytes waits for that,
so that what a power cut must undo is known under one inode only.
"""

import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fsbackend.bdi import Caps
from fsbackend.cache import Cache
from fsbackend.cachedfile import CachedFile
from fsbackend.control import ControlNode, ControlTree
from fsbackend.dirstore import DirStore
from fsbackend.handles import Override
from fsbackend.node import ROOT_ID, Attr, Node
from fsbackend.ramoverride import RamOverride

if TYPE_CHECKING:
    from fsbackend.ramstore import RamStore


def os_error(number: int) -> OSError:
    """Return the OSError of an errno, with its text."""
    return OSError(number, os.strerror(number))


class InodeTable:
    """The inodes of a mount that are in memory."""

    def __init__(
        self,
        store: "DirStore | RamStore",
        cache: Cache,
        caps: Caps,
        overrides: Iterable[str] = (),
    ) -> None:
        self.store = store
        self.cache = cache
        self.caps = caps
        self.overrides = [Override(text) for text in overrides]
        self.lock = threading.RLock()
        self.nodes: dict[int, Node] = {}
        self.lingering: set[Node] = set()
        self.waiting: dict[Node, Node | None] = {}
        self._nr_waiting_in: Counter[Node] = Counter()
        self._next_id = ROOT_ID
        self.control: ControlTree | None = None
        self._register(store.root)
        store.root.nlookup = 1

    def _register(self, node: Node) -> Node:
        if not node.id:
            node.id, self._next_id = self._next_id, self._next_id + 1
            self.nodes[node.id] = node
        return node

    def node(self, node_id: int) -> Node:
        """Return the inode of a number that the kernel was given."""
        node = self.nodes.get(node_id)
        if node is None:
            raise os_error(errno.ESTALE)
        return node

    def attr(self, node: Node) -> Attr:
        """Return what stat shows."""
        if isinstance(node, ControlNode):
            return node.attr()
        with self.lock:
            return self.store.getattr(node)

    def _known(self, node: Node) -> Node:
        self._register(node)
        node.nlookup += 1
        return node

    def forget(self, node_id: int, nlookup: int) -> None:
        """Drop references; an inode that nobody knows, has open or has dirty bytes in goes from memory."""
        with self.lock:
            node = self.nodes.get(node_id)
            if node is None:
                return
            node.nlookup -= nlookup
            if node.nlookup <= 0 and node_id != ROOT_ID:
                self._try_drop(node)

    def _try_drop(self, node: Node) -> None:
        if isinstance(node, ControlNode):
            if not node.keep:
                del self.nodes[node.id]
                node.id = 0
            return
        if not self._close_data(node) or node.nlookup > 0:
            return
        self._wait_no_more(node)
        if self._must_wait(node):
            self.waiting[node] = node.parent
            if node.parent is not None:
                self._nr_waiting_in[node.parent] += 1
            return
        self.lingering.discard(node)
        del self.nodes[node.id]
        node.id = 0
        self.store.forget(node)

    def _must_wait(self, node: Node) -> bool:
        """Return whether a power cut would still need this inode, or the way through it to one that it needs."""
        if node.is_dir:
            return node in self._nr_waiting_in
        if not self.cache.io.remembers(node) or not isinstance(self.store, DirStore):
            return False
        with contextlib.suppress(FileNotFoundError):
            if self.store.stat(node).st_nlink:
                return True
        self.cache.io.forget(node)
        return False

    def _wait_no_more(self, node: Node) -> None:
        parent = self.waiting.pop(node, None)
        if parent is not None:
            self._nr_waiting_in[parent] -= 1
            if not self._nr_waiting_in[parent]:
                del self._nr_waiting_in[parent]

    def _close_data(self, node: Node) -> bool:
        """Let the bytes of a file go if nobody has it open and nothing waits; return whether they are gone."""
        data = node.data
        if not isinstance(data, CachedFile):
            return data is None or data.nr_open == 0
        if data.nr_open:
            return False
        is_gone = node.parent is None and os.fstat(data.fd).st_nlink == 0 and node.nlookup <= 0
        if is_gone and not data.try_discard():  # all names would wait with us for that writeback: `reap` will do it
            self.lingering.add(node)
            return False
        with data.lock:
            if data.pages.chunks:
                if data.caps.writeback or node.parent is None:  # else it stays: nothing ever makes it clean
                    self.lingering.add(node)
                return False
            if isinstance(data, RamOverride) and node.parent is not None and not data.is_store_file():
                return False
            node.data = None
            self.lingering.discard(node)
            node.seen = data.close()
        return True

    def reap(self) -> None:
        """Close files that were closed while dirty and are clean now, and drop inodes that waited for a barrier.

        The flusher calls it.
        """
        for node in list(self.lingering):
            with self.lock:
                if node in self.lingering and self._close_data(node) and node.nlookup <= 0 and node.id:
                    self._try_drop(node)
        for node in list(self.waiting):
            if node.parent is not None and not node.is_dir and self.cache.io.remembers(node):
                continue
            with self.lock:
                if self._must_wait(node):  # a barrier of others may have confirmed that its last name went
                    continue
                self._wait_no_more(node)
                if node.nlookup <= 0 and node.id:
                    self._try_drop(node)

    def caps_of(self, node: Node) -> Caps:
        """Return the capabilities that hold for a file."""
        if isinstance(node.data, CachedFile):
            return node.data.caps
        if self.overrides:
            path = os.fsdecode(node.path())
            for override in self.overrides:
                if override.matches(path):
                    return override.caps
        return self.caps
