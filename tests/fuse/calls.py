"""System calls that Python's os module lacks or wraps: renameat2(2), and linkat(2) of a nameless file."""

import ctypes
import os
import subprocess

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _AT_SYMLINK_FOLLOW = -100, 0x400
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def renameat2(old: os.PathLike[str] | bytes, new: os.PathLike[str] | bytes, flags: int) -> None:
    """Rename with flags."""
    _checked(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))


def give_name(fd: int, path: os.PathLike[str] | bytes) -> None:
    """Give the file behind a descriptor a name."""
    link = f"/proc/self/fd/{fd}".encode()
    _checked(_libc.linkat(_AT_FDCWD, link, _AT_FDCWD, os.fsencode(path), _AT_SYMLINK_FOLLOW))


def said(*words: str | bytes | os.PathLike[str]) -> str:
    """Run a program and return what it printed."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout
