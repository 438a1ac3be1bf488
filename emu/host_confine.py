"""What confines the process behind a HostProcess: limits around one command, a heap of its own, privileges given up.

Like emu.host_child it imports the standard library alone.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import resource
from collections.abc import Iterator

CAP_IPC_LOCK = 14
_CAPABILITY_VERSION_3 = 0x2008_0522
_M_TRIM_THRESHOLD, _M_TOP_PAD = -1, -2
_SPARE_HEAP = 2 << 20
_CHUNK = 100 << 10
_MAP_FIXED = 0x10
_NEVER = (1 << 31) - 1
_SYS_BRK = {"x86_64": 12, "aarch64": 214, "riscv64": 214}
_USED = {resource.RLIMIT_AS: b"VmSize:", resource.RLIMIT_DATA: b"VmData:", resource.RLIMIT_MEMLOCK: b"VmLck:"}
"""Which line of /proc/self/status counts what a limit limits."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.malloc.restype = ctypes.c_void_p
_LIBC.free.argtypes = [ctypes.c_void_p]
_LIBC.mmap.restype = ctypes.c_uint64
_LIBC.mmap.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_LIBC.syscall.restype = ctypes.c_uint64
_LIBC.syscall.argtypes = [ctypes.c_long, ctypes.c_uint64]


@contextlib.contextmanager
def limited(which: int, nbytes: int) -> Iterator[None]:
    """Set a soft limit of `nbytes` more than is used already (of the stack: of `nbytes`), and take it back."""
    old = soft, hard = resource.getrlimit(which)
    wanted = nbytes + (_used(_USED[which]) if which in _USED else 0)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(which, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, old)


def _used(name: bytes) -> int:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        words = os.read(fd, mmap.PAGESIZE).split()
    finally:
        os.close(fd)
    return int(words[words.index(name) + 1]) << 10


def brk(vaddr: int) -> int:
    """brk(2), the system call itself; 0 asks where the heap ends."""
    if platform.machine() not in _SYS_BRK:
        raise OSError(errno.ENOSYS, "the number of brk(2) is not known here")
    return int(_LIBC.syscall(_SYS_BRK[platform.machine()], vaddr))


def heap_of_its_own() -> int:
    """Give malloc room enough for good, and return where a heap begins that it does not touch.

    A page of shared memory without access lies between the two: neither becomes one mapping with it. malloc asks for
    no more unless it needs more than _SPARE_HEAP, and gives nothing back.
    """
    if not hasattr(_LIBC, "mallopt"):
        raise OSError(errno.ENOTSUP, "malloc takes no options here")
    before = brk(0)
    _LIBC.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    _LIBC.mallopt(_M_TOP_PAD, _SPARE_HEAP)
    chunks: list[int] = []
    while brk(0) == before and len(chunks) < _SPARE_HEAP // _CHUNK:
        chunks.append(_LIBC.malloc(_CHUNK))
    for chunk in chunks:
        _LIBC.free(chunk)
    end = -(-brk(0) // mmap.PAGESIZE) * mmap.PAGESIZE
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_FIXED
    grown = brk(end + mmap.PAGESIZE) == end + mmap.PAGESIZE
    if not grown or _LIBC.mmap(end, mmap.PAGESIZE, 0, flags, -1, 0) != end:
        raise OSError(errno.ENOMEM, "the heap cannot grow")
    return end + mmap.PAGESIZE


def drop_capability(number: int) -> None:
    """Take a capability from the effective set."""
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    if _LIBC.capget(head, sets):
        raise OSError(ctypes.get_errno(), "capget")
    # Effective, permitted and inheritable, of 32 capabilities each; then the same of the next 32.
    sets[number // 32 * 3] &= ~(1 << number % 32) & 0xFFFF_FFFF
    if _LIBC.capset(head, sets):
        raise OSError(ctypes.get_errno(), "capset")
