"""Extended attributes and POSIX ACLs, for mounts that ask for them: handed on to the store's files.

Not the default: if GETXATTR is answered at all, the kernel asks for security.capability before every write.
The store's filesystem keeps the ACLs and what follows from them, modes and what new files inherit; the kernel asks
us for them (FUSE_POSIX_ACL) and judges by them. It then leaves the umask to us, too (FUSE_DONT_MASK), since that
does not hold where a directory has a default ACL. A tree in RAM has attributes, but no ACLs.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fsbackend import lowlevel as ll
from fsbackend.dirstore import DirNode, DirStore
from fsbackend.filesystem import os_error
from fsbackend.newerrequests import INIT_DONT_MASK, INIT_POSIX_ACL
from fsbackend.operations import Operations
from fsbackend.ramfile import RamNode

ACCESS_ACL, DEFAULT_ACL = b"system.posix_acl_access", b"system.posix_acl_default"
_ACLS = frozenset({ACCESS_ACL, DEFAULT_ACL})
_IN_RAM = (b"user.", b"trusted.", b"security.")
"""The namespaces that tmpfs has, ACLs apart."""
_NONE = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


class _Attributes(Protocol):
    def get(self, name: bytes) -> bytes: ...
    def names(self) -> list[bytes]: ...
    def set(self, name: bytes, value: bytes, flags: int) -> None: ...
    def remove(self, name: bytes) -> None: ...


class _InStore:
    """The attributes of a file of the store, by a path that stands for it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def get(self, name: bytes) -> bytes:
        return os.getxattr(self._path, name)

    def names(self) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self._path)]

    def set(self, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(self._path, name, value, flags)

    def remove(self, name: bytes) -> None:
        os.removexattr(self._path, name)


class _InRam:
    """The attributes of an inode in RAM; the kernel has checked names and lengths."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values

    def get(self, name: bytes) -> bytes:
        if name not in self._values:
            raise os_error(errno.ENODATA)
        return self._values[name]

    def names(self) -> list[bytes]:
        return list(self._values)

    def set(self, name: bytes, value: bytes, flags: int) -> None:
        if flags & os.XATTR_CREATE and name in self._values:
            raise os_error(errno.EEXIST)
        if flags & os.XATTR_REPLACE:
            self.get(name)
        self._values[name] = value

    def remove(self, name: bytes) -> None:
        self.get(name)
        del self._values[name]


class XattrOperations(Operations):
    """The handlers, with those of extended attributes."""

    @property
    def init_flags(self) -> int:
        """What to ask of the kernel beyond what libfuse asks for."""
        return INIT_DONT_MASK | INIT_POSIX_ACL if isinstance(self.fs.store, DirStore) else 0

    @contextmanager
    def _attributes(self, node_id: int, name: bytes = b"", *, changing: bool = False) -> Iterator["_Attributes"]:
        fs = self.fs
        with fs.lock:
            node = fs.node(node_id)
            if isinstance(node, RamNode) and (not name or name.startswith(_IN_RAM)):
                if name in _IN_RAM:
                    raise os_error(errno.EINVAL)
                yield _InRam(node.xattrs)
                if changing:
                    node.touch(modified=False)
                return
            if not isinstance(node, DirNode) or (name.startswith(b"system.") and name not in _ACLS):
                raise os_error(errno.EOPNOTSUPP)
            assert isinstance(fs.store, DirStore)
            with fs.store.inode_path(node) as path:
                yield _InStore(path)
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
        try:
            with self._attributes(node_id, name) as attributes:
                value = attributes.get(name)
        except OSError as error:
            if name in _ACLS and error.errno == errno.EOPNOTSUPP:  # which the kernel would take for a failure
                raise os_error(errno.ENODATA) from error
            raise
        self._reply(req, value, room_nbytes)

    def on_listxattr(self, req: int, node_id: int, room_nbytes: int) -> None:
        """Return the names, or their length; those under trusted. to root only, as the store's filesystem does."""
        with self._attributes(node_id) as attributes:
            names = attributes.names()
        hidden = (b"system.",) if ll.req_ctx(req).contents.uid == 0 else (b"system.", b"trusted.")
        shown = [name for name in names if not name.startswith(hidden) or name in _ACLS]
        self._reply(req, b"".join(name + b"\0" for name in shown), room_nbytes)

    def on_setxattr(self, req: int, node_id: int, name: bytes, value: int, nbytes: int, flags: int) -> None:
        """Set an attribute."""
        with self._attributes(node_id, name, changing=True) as attributes:
            attributes.set(name, ctypes.string_at(value, nbytes), flags)
        ll.reply_err(req, 0)

    def on_removexattr(self, req: int, node_id: int, name: bytes) -> None:
        """Remove an attribute."""
        with self._attributes(node_id, name, changing=True) as attributes:
            attributes.remove(name)
        ll.reply_err(req, 0)

    # ---- what is made under a default ACL

    def _masked(self, req: int, parent: int, mode: int) -> int:
        """Return the mode of what is made: less the umask, unless a default ACL says what is allowed."""
        umask = int(ll.req_ctx(req).contents.umask)
        if not self.init_flags or not umask:
            return mode
        try:
            with self._attributes(parent) as attributes:
                attributes.get(DEFAULT_ACL)
        except OSError as error:
            if error.errno not in _NONE:
                raise
            return mode & ~umask
        return mode

    def on_mknod(self, req: int, parent: int, name: bytes, mode: int, rdev: int) -> None:
        """Make a file of any type."""
        super().on_mknod(req, parent, name, self._masked(req, parent, mode), rdev)

    def on_mkdir(self, req: int, parent: int, name: bytes, mode: int) -> None:
        """Make a directory."""
        super().on_mkdir(req, parent, name, self._masked(req, parent, mode))

    def on_create(self, req: int, parent: int, name: bytes, mode: int, fi: Any) -> None:
        """Make and open a file."""
        super().on_create(req, parent, name, self._masked(req, parent, mode), fi)
