"""The filesystem by inode: names over a store, bytes over the cache, handles; raises OSError with the errno.

It knows nothing of FUSE. `lock` covers names and the table of inodes; a file's bytes have their own locks, so
that reads and writes of different files do not wait for each other or for the store's directory operations.
"""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fsbackend.bdi import Caps
from fsbackend.cache import Cache
from fsbackend.cachedfile import CachedFile
from fsbackend.control import CONTROL_NAME, ControlNode, ControlTree
from fsbackend.dirstore import DirNode, DirStore
from fsbackend.handles import Handle, Override
from fsbackend.node import ROOT_ID, Attr, Cred, Node, SetAttr

if TYPE_CHECKING:
    from fsbackend.node import FileData
    from fsbackend.ramstore import RamStore

MAX_LINGERING = 512
"""Closed files that may wait for the flusher with their descriptor open; more are written back at close."""


def os_error(number: int) -> OSError:
    """Return the OSError of an errno, with its text."""
    return OSError(number, os.strerror(number))


class FileSystem:
    """A mounted tree."""

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
        self.handles: dict[int, Handle] = {}
        self._next_id = ROOT_ID
        self._next_handle = 1
        self._register(store.root)
        store.root.nlookup = 1
        self.control: ControlTree | None = None

    # ---- inodes

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

    def lookup(self, parent_id: int, name: bytes) -> Node:
        """Return the inode of a name, with one more reference of the kernel's."""
        with self.lock:
            parent = self.node(parent_id)
            if isinstance(parent, ControlNode):
                return self._known(parent.lookup(name))
            if name == CONTROL_NAME and parent.id == ROOT_ID and self.control is not None:
                return self._known(self.control.root)
            return self._known(self.store.lookup(parent, name))

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
        self.lingering.discard(node)
        del self.nodes[node.id]
        node.id = 0
        self.store.forget(node)

    def _close_data(self, node: Node) -> bool:
        """Let the bytes of a file go if nobody has it open and nothing waits; return whether they are gone."""
        data = node.data
        if not isinstance(data, CachedFile):
            return data is None or data.nr_open == 0
        if data.nr_open:
            return False
        if node.parent is None and os.fstat(data.fd).st_nlink == 0 and node.nlookup <= 0:
            data.discard()
        with data.lock:
            if data.pages.nr_pages or (data.pages.chunks):
                if node not in self.lingering:
                    self.lingering.add(node)
                return False
            if not data.caps.writeback and node.parent is not None:
                return False
            node.data = None
            self.lingering.discard(node)
            node.seen = data.close()
        return True

    def reap(self) -> None:
        """Close files that were closed while dirty and are clean now; the flusher calls it."""
        for node in list(self.lingering):
            with self.lock:
                if node in self.lingering and self._close_data(node) and node.nlookup <= 0 and node.id:
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

    # ---- names

    def _dir(self, node_id: int) -> Node:
        node = self.node(node_id)
        if isinstance(node, ControlNode):
            raise os_error(errno.EPERM)
        return node

    def _free_name(self, parent: Node, name: bytes) -> None:
        if name == CONTROL_NAME and parent.id == ROOT_ID and self.control is not None:
            raise os_error(errno.EEXIST)

    def mknod(self, parent_id: int, name: bytes, mode: int, rdev: int, cred: Cred) -> Node:
        """Make a file, FIFO, socket or device."""
        with self.lock:
            parent = self._dir(parent_id)
            self._free_name(parent, name)
            return self._known(self.store.mknod(parent, name, mode, rdev, cred))

    def mkdir(self, parent_id: int, name: bytes, mode: int, cred: Cred) -> Node:
        """Make a directory."""
        with self.lock:
            parent = self._dir(parent_id)
            self._free_name(parent, name)
            return self._known(self.store.mkdir(parent, name, mode, cred))

    def symlink(self, parent_id: int, name: bytes, target: bytes, cred: Cred) -> Node:
        """Make a symbolic link."""
        with self.lock:
            parent = self._dir(parent_id)
            self._free_name(parent, name)
            return self._known(self.store.symlink(parent, name, target, cred))

    def link(self, node_id: int, parent_id: int, name: bytes) -> Node:
        """Give an inode one more name."""
        with self.lock:
            node, parent = self._dir(node_id), self._dir(parent_id)
            self._free_name(parent, name)
            self.store.link(node, parent, name)
            return self._known(node)

    def unlink(self, parent_id: int, name: bytes) -> None:
        """Take a name away."""
        with self.lock:
            parent = self._dir(parent_id)
            if name == CONTROL_NAME and parent_id == ROOT_ID:
                raise os_error(errno.EPERM)
            self._unnamed(self.store.unlink(parent, name))

    def rmdir(self, parent_id: int, name: bytes) -> None:
        """Remove an empty directory."""
        with self.lock:
            parent = self._dir(parent_id)
            if name == CONTROL_NAME and parent_id == ROOT_ID:
                raise os_error(errno.EPERM)
            self._unnamed(self.store.rmdir(parent, name))

    def rename(self, parent_id: int, name: bytes, new_parent_id: int, new_name: bytes) -> None:
        """Move a name, over another if it exists."""
        with self.lock:
            parent, new_parent = self._dir(parent_id), self._dir(new_parent_id)
            self._free_name(new_parent, new_name)
            if name == CONTROL_NAME and parent_id == ROOT_ID:
                raise os_error(errno.EPERM)
            over = self.store.rename(parent, name, new_parent, new_name)
            if over is not None:
                self._unnamed(over)

    def _unnamed(self, node: Node) -> None:
        """Free at once what no one can reach: an inode that the kernel never looked up."""
        if node.nlookup > 0:
            return
        if node.id:
            self._try_drop(node)
        else:
            self.store.forget(node)

    def readlink(self, node_id: int) -> bytes:
        """Return a symbolic link's target."""
        with self.lock:
            return self.store.readlink(self.node(node_id))

    # ---- handles

    def _add_handle(self, handle: Handle) -> int:
        with self.lock:
            number, self._next_handle = self._next_handle, self._next_handle + 1
            self.handles[number] = handle
        return number

    def open(self, node_id: int, flags: int) -> int:
        """Open a file; return the handle's number."""
        with self.lock:
            node = self.node(node_id)
            handle = Handle(node)
            writes = flags & os.O_ACCMODE != os.O_RDONLY
            if isinstance(node, ControlNode):
                handle.text = node.open(writes=writes)
                return self._add_handle(handle)
            handle.data = self._open_data(node)
            if writes and not handle.data.writable:
                self._close_data(node)
                raise os_error(errno.EACCES)
            return self._opened(handle, handle.data, flags)

    def keep_cache(self, node_id: int) -> bool:
        """Return whether the kernel's pages of a file just opened are still right.

        They are unless the store's file was changed behind our back while nobody had it open.
        """
        node = self.nodes[node_id]
        data = node.data
        if not isinstance(data, CachedFile) or data.nr_open > 1 or not node.seen:
            return True
        info = os.fstat(data.fd)
        return bool(data.pages.nr_pages) or node.seen == (info.st_mtime_ns, info.st_size)

    def _opened(self, handle: Handle, data: "FileData", flags: int) -> int:
        handle.direct = bool(flags & os.O_DIRECT)
        handle.err_seq = data.err_seq
        data.nr_open += 1
        return self._add_handle(handle)

    def _open_data(self, node: Node, fd: int = -1) -> "FileData":
        if node.is_dir:
            raise os_error(errno.EISDIR)
        if node.data is None:
            if not isinstance(self.store, DirStore):
                raise os_error(errno.EINVAL)
            caps = self.caps_of(node)
            node.data = CachedFile(self.cache, node, self.store.open_data(node) if fd < 0 else fd, caps)
        elif fd >= 0:
            os.close(fd)
        return node.data

    def create(self, parent_id: int, name: bytes, mode: int, flags: int, cred: Cred) -> tuple[Node, int]:
        """Make and open a regular file; return it and the handle's number."""
        with self.lock:
            parent = self._dir(parent_id)
            self._free_name(parent, name)
            try:
                node, fd = self.store.create(parent, name, mode, cred)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                node, fd = self.store.lookup(parent, name), -1
            data = self._open_data(node, fd)
            handle = Handle(node)
            handle.data = data
            return self._known(node), self._opened(handle, data, flags)

    def release(self, number: int) -> None:
        """Close a handle for good."""
        handle = self.handles.pop(number, None)
        if handle is None or handle.data is None:
            return
        data, node = handle.data, handle.node
        if (
            isinstance(data, CachedFile)
            and data.pages.nr_pages
            and data.caps.writeback
            and len(self.lingering) >= MAX_LINGERING
        ):
            with contextlib.suppress(OSError):  # recorded; the pages stay dirty and are tried again
                data.write_back_all()
        with self.lock:
            data.nr_open -= 1
            if node.nlookup <= 0 and node.id:
                self._try_drop(node)
            else:
                self._close_data(node)

    def handle(self, number: int) -> Handle:
        """Return an open handle."""
        handle = self.handles.get(number)
        if handle is None:
            raise os_error(errno.EBADF)
        return handle

    # ---- bytes

    def read(self, number: int, offset: int, out: memoryview) -> int:
        """Read into `out`; return the bytes read."""
        handle = self.handle(number)
        if handle.data is None:
            text = (handle.text or b"")[offset : offset + len(out)]
            out[: len(text)] = text
            return len(text)
        return handle.data.read(offset, out)

    def write(self, number: int, offset: int, data: memoryview) -> int:
        """Write all of `data`; return how many pages became dirty and are accounted, to be throttled for."""
        handle = self.handle(number)
        if handle.data is None:
            node = handle.node
            assert isinstance(node, ControlNode)
            node.write(bytes(data))
            return 0
        direct = handle.direct
        if not direct and self.caps.writeback and not self.cache.reserve(len(data)):
            # The store is nearly full: what was accepted goes first, then this write asks the store itself.
            direct = True
            for file in self.cache.oldest():
                with contextlib.suppress(OSError):
                    file.write_back_all()
        return handle.data.write(offset, data, direct=direct)

    def fsync(self, number: int, *, datasync: bool) -> None:
        """Make a file durable; an earlier failure of its writeback is reported here, once a descriptor."""
        handle = self.handle(number)
        data = handle.data
        if data is None:
            return
        try:
            data.fsync(datasync=datasync)
        finally:
            failed = handle.err_seq != data.err_seq
            handle.err_seq = data.err_seq
        if failed:
            raise os_error(data.err_no)

    def flush(self, number: int) -> None:
        """Report a failed writeback to close(2), if no fsync of this descriptor has."""
        handle = self.handle(number)
        data = handle.data
        if data is not None and handle.err_seq != data.err_seq:
            handle.err_seq = data.err_seq
            raise os_error(data.err_no)

    def fallocate(self, number: int, mode: int, offset: int, nbytes: int) -> None:
        """Allocate or punch."""
        data = self.handle(number).data
        if data is None:
            raise os_error(errno.EPERM)
        data.fallocate(mode, offset, nbytes)

    def setattr(self, node_id: int, change: SetAttr) -> Attr:
        """Change what is asked and return what stat shows then."""
        with self.lock:
            node = self.node(node_id)
            if isinstance(node, ControlNode):
                if change.mode is not None or change.uid is not None or change.gid is not None:
                    raise os_error(errno.EPERM)
                return node.attr()
            if change.nbytes is not None:
                self._truncate(node, change.nbytes)
            self.store.setattr(node, change)
            return self.store.getattr(node)

    def _truncate(self, node: Node, nbytes: int) -> None:
        data = self._open_data(node)
        try:
            data.truncate(nbytes)
        finally:
            if not data.nr_open:
                self._close_data(node)

    # ---- directories

    def opendir(self, node_id: int) -> int:
        """Open a directory."""
        return self._add_handle(Handle(self.node(node_id)))

    def entries(self, number: int, *, rewind: bool) -> list[tuple[bytes, int, int]]:
        """Return (name, inode number, type) of every entry, as of the last rewind."""
        handle = self.handle(number)
        if rewind or not handle.entries:
            with self.lock:
                node = handle.node
                parent = node.parent or node
                head = [(b".", node.ino, stat.S_IFDIR), (b"..", parent.ino, stat.S_IFDIR)]
                if isinstance(node, ControlNode):
                    handle.entries = head + node.entries()
                elif isinstance(node, DirNode) and node.hold_fd >= 0:
                    handle.entries = head
                else:
                    handle.entries = head + self.store.readdir(node)
                    if node.id == ROOT_ID and self.control is not None:
                        handle.entries = [entry for entry in handle.entries if entry[0] != CONTROL_NAME]
        return handle.entries

    def fsyncdir(self, node_id: int) -> None:
        """Make a directory's names durable."""
        node = self.node(node_id)
        if not isinstance(node, ControlNode):
            with self.lock:
                self.store.fsync_dir(node)

    def statfs(self) -> os.statvfs_result:
        """Return the store's figures, less what is accepted and not yet written."""
        return self.store.statfs()  # type: ignore[return-value]

    # ---- the whole mount

    def sync(self) -> list[str]:
        """Write back and make durable everything; return one line for each file that could not be."""
        failures = []
        for file in self.cache.oldest():
            with self.lock:
                if file.fd < 0:
                    continue
                file.nr_open += 1  # nobody may close it while we sync it
            try:
                file.fsync(datasync=False)
            except OSError as error:
                name = os.fsdecode(file.node.path()) or f"inode {file.node.ino}"
                failures.append(f"{name}: {error.strerror}, {file.pages.nr_pages} pages not written")
            finally:
                with self.lock:
                    file.nr_open -= 1
                    if file.node.data is file:
                        self._close_data(file.node)
        self.reap()
        if isinstance(self.store, DirStore):
            try:  # what the flusher wrote, and names: nobody has asked for those to be durable before
                self.cache.io.sync_store(self.store.root_fd)
            except OSError as error:
                failures.append(f"the store: {error.strerror}")
        return failures

    def close(self) -> list[str]:
        """Write back everything and let the store go; return what could not be written."""
        failures = self.sync()
        with self.lock:
            for node in list(self.nodes.values()):
                if isinstance(node.data, CachedFile):
                    node.data.close()
            self.store.close()
        return failures
