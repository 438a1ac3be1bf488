"""The system calls of the trackers, and what they need to know of the kernel's interface.

Numbers and structures from Linux include/uapi/linux/userfaultfd.h, include/uapi/linux/fs.h and
Documentation/admin-guide/mm/pagemap.rst; the same on every 64-bit architecture but for the number of userfaultfd.
"""

import ctypes
import os
import platform
import signal

import numpy as np
import numpy.typing as npt

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
PAGE_SHIFT = PAGE_SIZE.bit_length() - 1

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
LIBC.mprotect.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]
LIBC.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]

_NR_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282}

UFFD_USER_MODE_ONLY = 1
UFFD_API = 0xAA
UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1 << 0
UFFD_FEATURE_SIGBUS = 1 << 7
UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15
UFFDIO_REGISTER_MODE_WP = 1 << 1
UFFDIO_WRITEPROTECT_MODE_WP = 1
UFFD_EVENT_PAGEFAULT = 0x12

PM_SCAN_WP_MATCHING = 1
PM_SCAN_CHECK_WPASYNC = 2
PAGE_IS_WRITTEN = 1 << 1

PAGEMAP_SOFT_DIRTY_BIT = 55
PAGEMAP_UFFD_WP_BIT = 57


def _iowr(kind: int, number: int, nbytes: int) -> int:
    return 3 << 30 | nbytes << 16 | kind << 8 | number


UFFDIO_API = _iowr(UFFD_API, 0x3F, 24)
UFFDIO_REGISTER = _iowr(UFFD_API, 0x00, 32)
UFFDIO_WRITEPROTECT = _iowr(UFFD_API, 0x06, 24)
PAGEMAP_SCAN = _iowr(ord("f"), 16, 96)

Words = npt.NDArray[np.uint64]


class Unavailable(Exception):  # noqa: N818 - a fact about this kernel, no error
    """A tracker that this kernel does not have or does not permit; the text says why, and what would help."""


def check(result: int, what: str) -> int:
    """Return what a call returned; OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def words(*values: int) -> Words:
    """Return the words of a structure whose fields are all 64 bits long."""
    return np.array(values, np.uint64)


def ioctl(fd: int, request: int, argument: Words, what: str) -> int:
    """Do ioctl(2) with a structure; it may be changed. OSError if it failed."""
    return check(LIBC.ioctl(fd, request, argument.ctypes.data), what)


def userfaultfd() -> int:
    """Return a descriptor for faults of user mode, which needs no privilege since Linux 5.11."""
    number = _NR_USERFAULTFD.get(platform.machine())
    if number is None:
        raise Unavailable(f"fremap does not know the number of userfaultfd(2) on {platform.machine()}")
    return check(LIBC.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY), "userfaultfd")


def mprotect(vaddr: int, nbytes: int, prot: int) -> None:
    """mprotect(2)."""
    check(LIBC.mprotect(vaddr, nbytes, prot), "mprotect")


class _SigAction(ctypes.Structure):
    """The C library's struct sigaction of a 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_SA_SIGINFO = 4


def set_handler(number: signal.Signals, address: int) -> object:
    """Have a compiled function called for a signal; returns what restore_handler takes."""
    action = _SigAction(address, (ctypes.c_uint64 * 16)(), _SA_SIGINFO, None)
    before = _SigAction()
    check(LIBC.sigaction(number, ctypes.byref(action), ctypes.byref(before)), "sigaction")
    return before


def restore_handler(number: signal.Signals, before: object) -> None:
    """Undo set_handler."""
    assert isinstance(before, _SigAction)
    check(LIBC.sigaction(number, ctypes.byref(before), None), "sigaction")
