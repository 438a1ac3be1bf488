"""libfuse2's low-level API, through the library handle and the C structures that fusepy loads and defines.

fusepy's own glue serves the high-level API, where a file is a path: hard links get separate page caches in the
kernel, an unlinked open file becomes a hidden name, and nothing can be invalidated. The low-level API knows
inodes, so those are right here; and worker threads are Python's own, so no thread state is made for each call.

Only types, prototypes and constants: what to do with them is `operations`.
Source: libfuse 2.9.9 include/fuse_lowlevel.h, fuse_common.h.
"""

import ctypes as c
import ctypes.util
import os
import platform
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable


class LibfuseMissingError(OSError):
    """libfuse2 cannot be loaded; says which package brings it."""


def _load() -> Any:
    """Import fusepy, which loads libfuse2 as it is imported; its own message does not say what to do."""
    if not os.environ.get("FUSE_LIBRARY_PATH") and ctypes.util.find_library("fuse") is None:
        for name in ("libfuse.so.2",):
            try:
                c.CDLL(name)
            except OSError:
                continue
            os.environ["FUSE_LIBRARY_PATH"] = name
    try:
        import fuse  # noqa: PLC0415 - importing it loads the library, so a clear error needs it here
    except OSError as error:
        raise LibfuseMissingError(
            "libfuse2 is missing: install libfuse2 (Debian 12, Ubuntu 22.04) or libfuse2t64 (newer), and fuse3"
        ) from error
    return fuse


fuse = _load()
libfuse = fuse._libfuse  # noqa: SLF001 - the handle that fusepy loaded, so that there is one libfuse
_pylib = c.PyDLL(libfuse._name)  # noqa: SLF001 - the same library; its calls keep the GIL: they are short

Req = c.c_void_p
Ino = c.c_ulong
Name = c.c_char_p
FileInfoPtr = c.POINTER(fuse.fuse_file_info)
FileInfo = fuse.fuse_file_info
_FuseStat: Any = fuse.c_stat
_FuseStatvfs: Any = fuse.c_statvfs


class Stat(_FuseStat):  # type: ignore[misc]
    """struct stat at its full C size: fusepy's own stops before the reserved words."""

    _fields_: ClassVar = [("reserved", c.c_int * 2 if platform.machine() == "aarch64" else c.c_long * 3)]


class Statvfs(_FuseStatvfs):  # type: ignore[misc]
    """struct statvfs at its full C size, as above."""

    _fields_: ClassVar = [("reserved", c.c_int * 6)]


class EntryParam(c.Structure):
    """struct fuse_entry_param."""

    _fields_ = [
        ("ino", c.c_ulong),
        ("generation", c.c_ulong),
        ("attr", Stat),
        ("attr_timeout", c.c_double),
        ("entry_timeout", c.c_double),
    ]


class ConnInfo(c.Structure):
    """struct fuse_conn_info."""

    _fields_ = [
        ("proto_major", c.c_uint),
        ("proto_minor", c.c_uint),
        ("async_read", c.c_uint),
        ("max_write", c.c_uint),
        ("max_readahead", c.c_uint),
        ("capable", c.c_uint),
        ("want", c.c_uint),
        ("max_background", c.c_uint),
        ("congestion_threshold", c.c_uint),
        ("reserved", c.c_uint * 23),
    ]


class Ctx(c.Structure):
    """struct fuse_ctx: who asks."""

    _fields_ = [("uid", c.c_uint), ("gid", c.c_uint), ("pid", c.c_int), ("umask", c.c_uint)]


class ForgetData(c.Structure):
    """struct fuse_forget_data."""

    _fields_ = [("ino", c.c_ulonglong), ("nlookup", c.c_ulonglong)]


class Args(c.Structure):
    """struct fuse_args."""

    _fields_ = [("argc", c.c_int), ("argv", c.POINTER(c.c_char_p)), ("allocated", c.c_int)]


CAP_ASYNC_READ = 1 << 0
CAP_EXPORT_SUPPORT = 1 << 4
CAP_BIG_WRITES = 1 << 5

SET_MODE, SET_UID, SET_GID, SET_SIZE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
SET_ATIME, SET_MTIME = 1 << 4, 1 << 5
SET_ATIME_NOW, SET_MTIME_NOW = 1 << 7, 1 << 8

_XATTR = (Req, Ino, Name)
OPERATIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("init", (c.c_void_p, c.POINTER(ConnInfo))),
    ("destroy", (c.c_void_p,)),
    ("lookup", (Req, Ino, Name)),
    ("forget", (Req, Ino, c.c_ulong)),
    ("getattr", (Req, Ino, FileInfoPtr)),
    ("setattr", (Req, Ino, c.POINTER(Stat), c.c_int, FileInfoPtr)),
    ("readlink", (Req, Ino)),
    ("mknod", (Req, Ino, Name, c.c_uint, c.c_ulong)),
    ("mkdir", (Req, Ino, Name, c.c_uint)),
    ("unlink", (Req, Ino, Name)),
    ("rmdir", (Req, Ino, Name)),
    ("symlink", (Req, Name, Ino, Name)),
    ("rename", (Req, Ino, Name, Ino, Name)),
    ("link", (Req, Ino, Ino, Name)),
    ("open", (Req, Ino, FileInfoPtr)),
    ("read", (Req, Ino, c.c_size_t, c.c_long, FileInfoPtr)),
    ("write", (Req, Ino, c.c_void_p, c.c_size_t, c.c_long, FileInfoPtr)),
    ("flush", (Req, Ino, FileInfoPtr)),
    ("release", (Req, Ino, FileInfoPtr)),
    ("fsync", (Req, Ino, c.c_int, FileInfoPtr)),
    ("opendir", (Req, Ino, FileInfoPtr)),
    ("readdir", (Req, Ino, c.c_size_t, c.c_long, FileInfoPtr)),
    ("releasedir", (Req, Ino, FileInfoPtr)),
    ("fsyncdir", (Req, Ino, c.c_int, FileInfoPtr)),
    ("statfs", (Req, Ino)),
    ("setxattr", (*_XATTR, c.c_void_p, c.c_size_t, c.c_int)),
    ("getxattr", (*_XATTR, c.c_size_t)),
    ("listxattr", (Req, Ino, c.c_size_t)),
    ("removexattr", _XATTR),
    ("access", (Req, Ino, c.c_int)),
    ("create", (Req, Ino, Name, c.c_uint, FileInfoPtr)),
    ("getlk", None),
    ("setlk", None),
    ("lseek", (Req, Ino, c.c_size_t, c.c_ulonglong)),
    ("ioctl", None),
    ("poll", None),
    ("write_buf", None),
    ("retrieve_reply", None),
    ("forget_multi", (Req, c.c_size_t, c.POINTER(ForgetData))),
    ("flock", None),
    ("fallocate", (Req, Ino, c.c_int, c.c_long, c.c_long, FileInfoPtr)),
)  # type: ignore[assignment]
"""Name and arguments of each slot of struct fuse_lowlevel_ops, in its order; None: never filled here.

Locks are left out on purpose: the kernel then keeps flock and fcntl locks by itself, which is right for a
mount that one machine uses. `lseek` is in the slot of bmap (see `newerrequests`).
"""


class LowlevelOps(c.Structure):
    """struct fuse_lowlevel_ops."""

    _fields_ = [(name, c.c_void_p if args is None else c.CFUNCTYPE(None, *args)) for name, args in OPERATIONS]


class Iovec(c.Structure):
    """struct iovec."""

    _fields_ = [("base", c.c_void_p), ("nbytes", c.c_size_t)]


ChannelSend = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(Iovec), c.c_size_t)


class ChannelOps(c.Structure):
    """struct fuse_chan_ops."""

    _fields_ = [("receive", c.c_void_p), ("send", ChannelSend), ("destroy", c.c_void_p)]


PROTOTYPES = dict(LowlevelOps._fields_)  # type: ignore[arg-type]


def _function(library: Any, name: str, result: Any, *args: Any) -> "Callable[..., Any]":
    function = library[name]
    function.restype = result
    function.argtypes = args
    return function  # type: ignore[no-any-return]


reply_err = _function(_pylib, "fuse_reply_err", c.c_int, Req, c.c_int)
reply_none = _function(_pylib, "fuse_reply_none", None, Req)
reply_entry = _function(_pylib, "fuse_reply_entry", c.c_int, Req, c.POINTER(EntryParam))
reply_create = _function(_pylib, "fuse_reply_create", c.c_int, Req, c.POINTER(EntryParam), FileInfoPtr)
reply_attr = _function(_pylib, "fuse_reply_attr", c.c_int, Req, c.POINTER(Stat), c.c_double)
reply_readlink = _function(_pylib, "fuse_reply_readlink", c.c_int, Req, c.c_char_p)
reply_open = _function(_pylib, "fuse_reply_open", c.c_int, Req, FileInfoPtr)
reply_write = _function(_pylib, "fuse_reply_write", c.c_int, Req, c.c_size_t)
reply_statfs = _function(_pylib, "fuse_reply_statfs", c.c_int, Req, c.POINTER(Statvfs))
reply_xattr = _function(_pylib, "fuse_reply_xattr", c.c_int, Req, c.c_size_t)
reply_bmap = _function(_pylib, "fuse_reply_bmap", c.c_int, Req, c.c_ulonglong)
reply_buf = _function(_pylib, "fuse_reply_buf", c.c_int, Req, c.c_void_p, c.c_size_t)
reply_bytes = _function(_pylib, "fuse_reply_buf", c.c_int, Req, c.c_char_p, c.c_size_t)
reply_big_buf = _function(libfuse, "fuse_reply_buf", c.c_int, Req, c.c_void_p, c.c_size_t)
req_ctx = _function(_pylib, "fuse_req_ctx", c.POINTER(Ctx), Req)

mount_channel = _function(libfuse, "fuse_mount", c.c_void_p, c.c_char_p, c.POINTER(Args))
unmount_channel = _function(libfuse, "fuse_unmount", None, c.c_char_p, c.c_void_p)
channel_fd = _function(libfuse, "fuse_chan_fd", c.c_int, c.c_void_p)
channel_bufsize = _function(libfuse, "fuse_chan_bufsize", c.c_size_t, c.c_void_p)
channel_new = _function(libfuse, "fuse_chan_new", c.c_void_p, c.POINTER(ChannelOps), c.c_int, c.c_size_t, c.c_void_p)
channel_destroy = _function(libfuse, "fuse_chan_destroy", None, c.c_void_p)
session_new = _function(
    libfuse, "fuse_lowlevel_new", c.c_void_p, c.POINTER(Args), c.POINTER(LowlevelOps), c.c_size_t, c.c_void_p
)
session_add_channel = _function(libfuse, "fuse_session_add_chan", None, c.c_void_p, c.c_void_p)
session_remove_channel = _function(libfuse, "fuse_session_remove_chan", None, c.c_void_p)
session_destroy = _function(libfuse, "fuse_session_destroy", None, c.c_void_p)
session_process = _function(_pylib, "fuse_session_process", None, c.c_void_p, c.c_void_p, c.c_size_t, c.c_void_p)
session_exited = _function(_pylib, "fuse_session_exited", c.c_int, c.c_void_p)
notify_inval_inode = _function(
    libfuse, "fuse_lowlevel_notify_inval_inode", c.c_int, c.c_void_p, Ino, c.c_long, c.c_long
)
notify_inval_entry = _function(
    libfuse, "fuse_lowlevel_notify_inval_entry", c.c_int, c.c_void_p, Ino, c.c_char_p, c.c_size_t
)


def make_args(*words: bytes) -> Args:
    """Return a struct fuse_args over the words; it keeps them alive."""
    argv = (c.c_char_p * (len(words) + 1))(*words, None)
    return Args(len(words), argv, 0)
