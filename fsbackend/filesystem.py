"""The filesystem by inode: names over a store, bytes over the cache, handles; raises OSError with the errno.

It knows nothing of FUSE. Three rooms, each built on the one before: `inodes` (what is in memory), `openfiles`
(handles and bytes), and here the names, the attributes and the mount as a whole.
"""

import errno
import os

from fsbackend import holes
from fsbackend.cachedfile import CachedFile
from fsbackend.control import CONTROL_NAME, ControlNode
from fsbackend.dirstore import DirStore
from fsbackend.handles import Handle
from fsbackend.inodes import os_error
from fsbackend.newerrequests import TMPFILE_NAME
from fsbackend.node import ROOT_ID, Attr, Cred, Node, SetAttr
from fsbackend.openfiles import MAX_LINGERING, OpenFiles

__all__ = ["MAX_LINGERING", "FileSystem", "os_error"]


class FileSystem(OpenFiles):
    """A mounted tree."""

    # ---- names

    def lookup(self, parent_id: int, name: bytes) -> Node:
        """Return the inode of a name, with one more reference of the kernel's."""
        with self.lock:
            parent = self.node(parent_id)
            if isinstance(parent, ControlNode):
                return self._known(parent.lookup(name))
            if name == CONTROL_NAME and parent.id == ROOT_ID and self.control is not None:
                return self._known(self.control.root)
            return self._known(self.store.lookup(parent, name))

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

    def rename(self, parent_id: int, name: bytes, new_parent_id: int, new_name: bytes, flags: int = 0) -> None:
        """Move a name, over another if it exists; or as renameat2(2)'s flags say."""
        with self.lock:
            parent, new_parent = self._dir(parent_id), self._dir(new_parent_id)
            self._free_name(new_parent, new_name)
            if name == CONTROL_NAME and parent_id == ROOT_ID:
                raise os_error(errno.EPERM)
            over = self.store.rename(parent, name, new_parent, new_name, flags)
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

    def create(self, parent_id: int, name: bytes, mode: int, flags: int, cred: Cred) -> tuple[Node, int]:
        """Make and open a regular file, without a name if that is TMPFILE_NAME; return it and the handle's number."""
        with self.lock:
            parent = self._dir(parent_id)
            self._free_name(parent, name)
            try:
                if name == TMPFILE_NAME:
                    node, fd = self.store.tmpfile(parent, mode, cred, linkable=not flags & os.O_EXCL)
                else:
                    node, fd = self.store.create(parent, name, mode, cred)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                node, fd = self.store.lookup(parent, name), -1
            data = self._open_data(node, fd)
            handle = Handle(node)
            handle.data = data
            return self._known(node), self._opened(handle, data, flags)

    # ---- attributes

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
        with self.lock:
            self.store.setattr(node, change)
            return self.store.getattr(node)

    def _truncate(self, node: Node, nbytes: int) -> None:
        """Set the size; a slow store holds up this file only, since the namespace is not locked meanwhile."""
        with self.lock:
            data = self._open_data(node)
            self._make_writable(node, data)
            data.nr_open += 1
        try:
            data.truncate(nbytes)
        finally:
            self._unpin(node, data)

    def seek(self, node_id: int, offset: int, whence: int) -> holes.Found:
        """Find data or a hole in a file."""
        with self.lock:
            node = self.node(node_id)
            if isinstance(node, ControlNode):
                raise os_error(errno.EINVAL)
            data = self._open_data(node)
            data.nr_open += 1
        try:
            return holes.seek(data, offset, whence)
        finally:
            self._unpin(node, data)

    # ---- the whole mount

    def fsyncdir(self, node_id: int) -> None:
        """Make a directory's names durable; others may look up and change names while the store does it."""
        node = self.node(node_id)
        if isinstance(node, ControlNode) or not isinstance(self.store, DirStore):
            return
        with self.lock:
            fd = self.store.open_dir(node)
        try:
            self.store.fsync_dir(node, fd)
        finally:
            os.close(fd)

    def statfs(self) -> os.statvfs_result:
        """Return the store's figures; what is accepted and not yet written is not in them."""
        return self.store.statfs()  # type: ignore[return-value]

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
                self._unpin(file.node, file)
        if isinstance(self.store, DirStore):
            try:  # what the flusher wrote, and names: nobody has asked for those to be durable before
                self.cache.io.sync_store(self.store.root_fd)
            except OSError as error:
                failures.append(f"the store: {error.strerror}")
        self.reap()
        return failures

    def close(self) -> list[str]:
        """Write back everything and let the store go; return what could not be written."""
        failures = self.sync()
        if isinstance(self.store, DirStore):
            try:
                self.cache.io.settle(self.store.root_fd)
            except OSError as error:
                failures.append(f"the store: {error.strerror}")
        with self.lock:
            for node in list(self.nodes.values()):
                if isinstance(node.data, CachedFile):
                    node.data.close()
            self.store.close()
        return failures
