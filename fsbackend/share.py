"""How several mounts share the machine's dirty limit: one small file that each daemon writes its row of.

A row is 64 bytes: pid, dirty pages, writeback bandwidth, time. Each daemon writes its own row only, so there is
nothing to lock; a row whose process is gone, or that is old, does not count. The file lives in the user's own
state directory, so mounts of one user share, which is what the limit is for.
Source of the rule: Linux v4.9 mm/page-writeback.c: a device's part of the limit follows its part of the writeout.
"""

import fcntl
import mmap
import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

_ROW = struct.Struct("=qqddq")
"""pid, dirty pages, pages written a second, time, min_ratio."""
ROW_BYTES = 64
NR_ROWS = 64
FRESH_S = 5.0


class Others(NamedTuple):
    """What a mount has to know of the others: their dirty pages, its own part of the writeout, their min_ratios."""

    nr_dirty: int
    share: float
    min_ratio: int


ALONE = Others(0, 1.0, 0)


class SharedLimit:
    """Own row, and the others'."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # only while the row is chosen
            if os.fstat(fd).st_size < ROW_BYTES * NR_ROWS:
                os.ftruncate(fd, ROW_BYTES * NR_ROWS)
            self._memory = mmap.mmap(fd, ROW_BYTES * NR_ROWS)
            self._row = self._free_row()
            if self._row is not None:
                self._put(0, 0.0, 0)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # by hand: the map holds a duplicate, so closing would not
            os.close(fd)

    def _free_row(self) -> int | None:
        for row in range(NR_ROWS):
            pid = _ROW.unpack_from(self._memory, row * ROW_BYTES)[0]
            if not pid or not is_alive(pid):
                return row
        return None

    def _put(self, nr_dirty: int, bandwidth: float, min_ratio: int) -> None:
        assert self._row is not None
        _ROW.pack_into(self._memory, self._row * ROW_BYTES, os.getpid(), nr_dirty, bandwidth, time.time(), min_ratio)

    def exchange(self, nr_dirty: int, bandwidth: float, min_ratio: int) -> Others:
        """Publish own figures; return what concerns us of the others'.

        A mount that has nothing dirty has no part in the writeout; alone, ours is 1.
        """
        if self._row is None:
            return ALONE
        self._put(nr_dirty, bandwidth, min_ratio)
        others_dirty, others_bandwidth, others_min_ratio = 0, 0.0, 0
        for row in range(NR_ROWS):
            if row == self._row:
                continue
            pid, dirty, rate, stamp_s, reserved = _ROW.unpack_from(self._memory, row * ROW_BYTES)
            if not pid or not (dirty > 0 or reserved) or time.time() - stamp_s > FRESH_S or not is_alive(pid):
                continue
            others_min_ratio += reserved
            if dirty > 0:
                others_dirty += dirty
                others_bandwidth += rate
        total = bandwidth + others_bandwidth
        return Others(others_dirty, bandwidth / total if total > 0 else 1.0, others_min_ratio)

    def close(self) -> None:
        """Give the row back."""
        if self._row is not None:
            self._memory[self._row * ROW_BYTES : (self._row + 1) * ROW_BYTES] = bytes(ROW_BYTES)
        self._memory.close()


def is_alive(pid: int) -> bool:
    """Return whether a process of that number runs; one that only waits to be reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] not in {"Z", "X"}
