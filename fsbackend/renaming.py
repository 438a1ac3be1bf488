"""renameat2(2): a rename with flags, which Python's os module lacks."""

import ctypes
import os

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(dir_fd: int, name: bytes, new_dir_fd: int, new_name: bytes, flags: int) -> None:
    """Rename as the flags say; OSError as from os.rename."""
    if not flags:
        os.rename(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd)
    elif _libc.renameat2(dir_fd, name, new_dir_fd, new_name, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name, None, new_name)
