"""Open files and directories: handles by number, and the bytes that go through them.

A handle remembers which failed writebacks it has reported, so that each open descriptor hears of each once.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fsbackend.bdi import Caps
from fsbackend.cache import Cache
from fsbackend.cachedfile import CachedFile
from fsbackend.control import CONTROL_NAME, ControlNode
from fsbackend.dirstore import DirNode, DirStore
from fsbackend.handles import Handle
from fsbackend.inodes import InodeTable, os_error
from fsbackend.node import ROOT_ID, Node
from fsbackend.pagepool import Block
from fsbackend.ramoverride import RamOverride

if TYPE_CHECKING:
    from fsbackend.dirtyfile import DirtyFile
    from fsbackend.node import FileData
    from fsbackend.ramstore import RamStore

MAX_LINGERING = 512
"""Closed files that may wait for the flusher with their descriptor open; more are written back at close."""


class OpenFiles(InodeTable):
    """The table of inodes, with the handles that are open on them."""

    def __init__(
        self,
        store: "DirStore | RamStore",
        cache: Cache,
        caps: Caps,
        overrides: Iterable[str] = (),
    ) -> None:
        super().__init__(store, cache, caps, overrides)
        self.handles: dict[int, Handle] = {}
        self._next_handle = 1

    # ---- opening and closing

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
            if writes:
                self._make_writable(node, handle.data)
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
        handle.err_seq = data.errors.sample()
        handle.close_seq = data.errors.seq
        data.nr_open += 1
        return self._add_handle(handle)

    def _open_data(self, node: Node, fd: int = -1) -> "FileData":
        if node.is_dir:
            raise os_error(errno.EISDIR)
        if node.data is None:
            if not isinstance(self.store, DirStore):
                raise os_error(errno.EINVAL)
            caps = self.caps_of(node)
            kind = CachedFile if caps.writeback else RamOverride
            node.data = kind(self.cache, node, self.store.open_data(node) if fd < 0 else fd, caps)
        elif fd >= 0:
            os.close(fd)
        return node.data

    def _make_writable(self, node: Node, data: "FileData") -> None:
        """Have a descriptor for writing, even if the file was opened when it could be read only; EACCES, EROFS."""
        if data.writable:
            return
        assert isinstance(data, CachedFile)
        fd = self.store.open_data(node)
        try:
            data.writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if data.writable:
                os.dup2(fd, data.fd, inheritable=False)  # under the same number: a read may be at it just now
                return
        finally:
            os.close(fd)
        self._close_data(node)
        read_only = self.store.statfs().f_flag & os.ST_RDONLY
        raise os_error(errno.EROFS if read_only else errno.EACCES)

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
        self._unpin(node, data)

    def _unpin(self, node: Node, data: "FileData | DirtyFile") -> None:
        """Take one from `nr_open`, and let go what nobody needs any more."""
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

    def write(self, number: int, offset: int, data: memoryview, block: Block | None = None) -> int:
        """Write all of `data`; return how many pages became dirty and are accounted, to be throttled for.

        With `block`, `data` is all of its memory, which the file may keep (`taken`).
        """
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
        return handle.data.write(offset, data, direct=direct, block=block)

    def fsync(self, number: int, *, datasync: bool) -> None:
        """Make a file durable; an earlier failure of its writeback is reported here, once a descriptor."""
        handle = self.handle(number)
        data = handle.data
        if data is None:
            return
        try:
            data.fsync(datasync=datasync)
        finally:
            handle.err_seq, failed = data.errors.advance(handle.err_seq)
        if failed:
            raise os_error(failed)

    def flush(self, number: int) -> None:
        """Report a failed writeback since the open to close(2), if no fsync of this descriptor has."""
        handle = self.handle(number)
        failed = handle.data.errors.at_close(max(handle.err_seq, handle.close_seq)) if handle.data else 0
        if failed:
            raise os_error(failed)

    def lost(self, number: int) -> None:
        """Note that bytes of an open file went with the power: its descriptors' next fsync must not promise them."""
        data = self.handle(number).data
        if data is not None:
            data.errors.lost(errno.EIO)

    def fallocate(self, number: int, mode: int, offset: int, nbytes: int) -> None:
        """Allocate or punch."""
        data = self.handle(number).data
        if data is None:
            raise os_error(errno.EPERM)
        data.fallocate(mode, offset, nbytes)

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
