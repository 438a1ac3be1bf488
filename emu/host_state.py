"""What the host's kernel tells of a process and of files: maps, pagemap, smaps_rollup, cachestat(2).

Source: Linux v6.18 Documentation/filesystems/proc.rst; Documentation/admin-guide/mm/pagemap.rst.
"""

import ctypes
import errno
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

PM_PRESENT = 1 << 63
PM_SWAP = 1 << 62
PM_FILE = 1 << 61
"""Bits of a pagemap word."""

_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_SYS_CACHESTAT = 451
_UNNUMBERED = frozenset({"alpha"})
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class HostVma:
    """One line of /proc/PID/maps. `prot` is PROT_*, `pgoff` in pages; `name` is a path, a [name] or empty."""

    start: int
    end: int
    prot: int
    shared: bool
    pgoff: int
    name: str

    @property
    def nr_pages(self) -> int:
        """The length in pages."""
        return (self.end - self.start) // _PAGE_SIZE


def read_maps(pid: int, low: int = 0, high: int = 1 << 64) -> list[HostVma]:
    """Read /proc/PID/maps: the mappings that start in [low, high)."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
        if not low <= int(line[: line.index("-")], 16) < high:
            continue
        where, mode, offset, _dev, _ino, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in where.split("-"))
        prot = sum(bit for bit, letter in zip((1, 2, 4), mode, strict=False) if letter != "-")
        pgoff = int(offset, 16) // _PAGE_SIZE
        found.append(HostVma(start, end, prot, mode[3] == "s", pgoff, name[0] if name else ""))
    return found


def read_pagemap(pid: int, vaddr: int, nr_pages: int) -> npt.NDArray[np.uint64]:
    """Read words of /proc/PID/pagemap; frame numbers are 0 without CAP_SYS_ADMIN."""
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), 8 * nr_pages, 8 * (vaddr // _PAGE_SIZE))
    return np.frombuffer(data, np.uint64)


def read_flags(pid: int, low: int = 0, high: int = 1 << 64) -> list[tuple[int, int, set[str]]]:
    """Read the VmFlags of /proc/PID/smaps: (start, end, two-letter names) of the mappings that start in [low, high)."""
    found = []
    start = end = 0
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape").splitlines():
        first = line.split(maxsplit=1)[0]
        if first[-1] != ":":
            start, end = (int(part, 16) for part in first.split("-"))
        elif first == "VmFlags:" and low <= start < high:
            found.append((start, end, set(line.split()[1:])))
    return found


def read_smaps_rollup(pid: int) -> dict[str, int]:
    """Read /proc/PID/smaps_rollup; bytes by name."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


_STAT = ("nr_cache", "nr_dirty", "nr_writeback", "nr_evicted", "nr_recently_evicted")


class _Stat(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in _STAT)


def cachestat(fd: int, offset: int = 0, nbytes: int = 0) -> dict[str, int]:
    """cachestat(2), since Linux 6.5: pages of a file in the page cache by state; length 0 means to its end.

    Errors: ENOSYS before, EBADF, EOPNOTSUPP (hugetlbfs), EPERM (neither owner nor writable).
    """
    if platform.machine() in _UNNUMBERED:
        raise OSError(errno.ENOSYS, "cachestat(2) has another number here")
    found = _Stat()
    where = _Range(offset, nbytes)
    if _LIBC.syscall(ctypes.c_long(_SYS_CACHESTAT), fd, ctypes.byref(where), ctypes.byref(found), 0):
        raise OSError(ctypes.get_errno(), f"cachestat: {os.strerror(ctypes.get_errno())}")
    return {name: int(getattr(found, name)) for name in _STAT}


class HostMm:
    """What /proc tells of a process's address space, under the names of emu.mm_types.mm.Mm."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def map_count(self) -> int:
        """How many mappings there are, the child's own code among them."""
        return len(Path(f"/proc/{self.pid}/maps").read_text(errors="surrogateescape").splitlines())

    @property
    def file_rss(self) -> int:
        """Pages of files, of shared anonymous memory too, that PTEs show."""
        return (self._status("RssFile") + self._status("RssShmem")) // _PAGE_SIZE

    @property
    def pt(self) -> SimpleNamespace:
        """The page tables, of which no more is known than how many pages they are, here as `leaves`."""
        return SimpleNamespace(leaves=range(self.pte_nbytes // _PAGE_SIZE), nr_upper=0)

    @property
    def pte_nbytes(self) -> int:
        """Bytes of all page tables."""
        return self._status("VmPTE")

    @property
    def faults(self) -> tuple[int, int]:
        """How many minor and major faults the process has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[7]), int(fields[9])

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text(errors="surrogateescape").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        return 0
