"""What a run leaves behind when asked: one fixed numpy record an event, appended to growing blocks.

Off by default: the kernel holds None instead of an EventLog, and each place that emits tests for that first.
"""

from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

EVENT_DTYPE = np.dtype(
    [
        ("time_s", "<f8"),
        ("kind", "<u2"),
        ("mm", "<u2"),
        ("cpu", "<u2"),
        ("flags", "<u2"),
        ("vaddr", "<u8"),
        ("mapping", "<u4"),
        ("pfn", "<u4"),
        ("pgoff", "<i8"),
        ("arg", "<i8"),
    ]
)

_BLOCK = 1 << 14


class EventKind(IntEnum):
    """What happened; `arg` carries what the comment says, `pgoff` and `vaddr` where they have a meaning."""

    FAULT = 1  # arg: duration in ns; flags: bit 0 write, 1 major, 2 nonlinear, 3 wp
    REMAP = 2  # arg: nr_pages
    MKCLEAN = 3  # arg: PTEs cleaned
    WRITEBACK_START = 4  # arg: nr_pages
    WRITEBACK_END = 5  # arg: nr_pages; flags: errno
    DIRTIED = 6
    THROTTLE = 7  # arg: pause in us
    TLB_FLUSH = 8  # arg: pages, -1 for all
    RECLAIM = 9  # arg: pages reclaimed
    SYSCALL = 10  # arg: errno or 0
    POWER_OFF = 11
    SWITCH = 12
    FSYNC = 13  # arg: duration in us


class EventLog:
    """Records in order of emission, kept in memory until they are saved."""

    def __init__(self) -> None:
        self._blocks: list[npt.NDArray[Any]] = [np.zeros(_BLOCK, EVENT_DTYPE)]
        self._used = 0

    def __len__(self) -> int:
        return (len(self._blocks) - 1) * _BLOCK + self._used

    def emit(
        self,
        kind: int,
        time_s: float,
        *,
        mm: int = 0,
        cpu: int = 0,
        flags: int = 0,
        vaddr: int = 0,
        mapping: int = 0,
        pfn: int = 0,
        pgoff: int = 0,
        arg: int = 0,
    ) -> None:
        """Append one record; about a microsecond."""
        if self._used == _BLOCK:
            self._blocks.append(np.zeros(_BLOCK, EVENT_DTYPE))
            self._used = 0
        self._blocks[-1][self._used] = (time_s, kind, mm, cpu, flags, vaddr, mapping, pfn, pgoff, arg)
        self._used += 1

    def array(self) -> npt.NDArray[Any]:
        """Return all records as one structured array, shape (n,), dtype EVENT_DTYPE."""
        return np.concatenate([*self._blocks[:-1], self._blocks[-1][: self._used]])

    def save(self, path: Path) -> None:
        """Write the records as a .npy file."""
        np.save(path, self.array())
