"""Extended attributes, for mounts that ask for them: handed on to the store's files.

Not the default: if GETXATTR is answered at all, the kernel asks for security.capability before every write.
ACLs (``system.*``) are refused, since the kernel would not heed them here; so are attributes of symbolic links.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from fsbackend import lowlevel as ll
from fsbackend.dirstore import DirNode, DirStore
from fsbackend.filesystem import os_error
from fsbackend.operations import Operations


class XattrOperations(Operations):
    """The handlers, with those of extended attributes."""

    @contextmanager
    def _path_of(self, node_id: int, name: bytes = b"", *, changing: bool = False) -> Iterator[str]:
        fs = self.fs
        with fs.lock:
            node = fs.node(node_id)
            if name.startswith(b"system.") or not isinstance(node, DirNode) or node.kind == stat.S_IFLNK:
                raise os_error(errno.EOPNOTSUPP)
            assert isinstance(fs.store, DirStore)
            with fs.store.inode_path(node) as path:
                yield path
            if changing:
                node.inode_changed()

    @staticmethod
    def _reply(req: int, value: bytes, room_nbytes: int) -> None:
        if not room_nbytes:
            ll.reply_xattr(req, len(value))
        elif len(value) > room_nbytes:
            raise os_error(errno.ERANGE)
        else:
            ll.reply_bytes(req, value, len(value))

    def on_getxattr(self, req: int, node_id: int, name: bytes, room_nbytes: int) -> None:
        """Return an attribute's value, or its length."""
        with self._path_of(node_id, name) as path:
            value = os.getxattr(path, name)
        self._reply(req, value, room_nbytes)

    def on_listxattr(self, req: int, node_id: int, room_nbytes: int) -> None:
        """Return the names, or their length."""
        with self._path_of(node_id) as path:
            names = [os.fsencode(name) for name in os.listxattr(path) if not name.startswith("system.")]
        self._reply(req, b"".join(name + b"\0" for name in names), room_nbytes)

    def on_setxattr(self, req: int, node_id: int, name: bytes, value: int, nbytes: int, flags: int) -> None:
        """Set an attribute."""
        with self._path_of(node_id, name, changing=True) as path:
            os.setxattr(path, name, ctypes.string_at(value, nbytes), flags)
        ll.reply_err(req, 0)

    def on_removexattr(self, req: int, node_id: int, name: bytes) -> None:
        """Remove an attribute."""
        with self._path_of(node_id, name, changing=True) as path:
            os.removexattr(path, name)
        ll.reply_err(req, 0)
