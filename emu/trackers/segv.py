"""mprotect + SIGSEGV: as garbage collectors, databases and checkpointing libraries track stores by themselves.

The range is made read-only; the first store into a page raises SIGSEGV, whose handler notes the page and makes it
writable, so that each page costs a signal, a system call, and most often two new VMAs: the kernel keeps protections
by VMA, and gives up at vm.max_map_count of them.
"""

import mmap
import signal
from pathlib import Path
from typing import Any

import numpy as np

from emu.trackers.base import Tracker
from emu.trackers.libc import Words, mprotect, restore_handler, set_handler
from emu.trackers.native import LOG_AT, LOG_COUNT, LOG_ERROR, segv_handler
from emu.trackers.region import Pages

_PROT_READ, _PROT_READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE


class MprotectSegv(Tracker):
    """The range read-only, and a handler of SIGSEGV."""

    name = "mprotect"
    title = "mprotect and a handler of SIGSEGV"

    _before: object = None
    _handler: Any = None

    def attach(self) -> None:
        """Compile the handler and have it called."""
        self._log: Words = np.full(LOG_AT + self.region.nr_pages, 0, np.uint64)
        self._handler = segv_handler(self._log.ctypes.data, self.region.vaddr, self.region.nbytes)
        self._before = set_handler(signal.SIGSEGV, self._handler.address)

    def arm(self) -> None:
        """Make the range read-only, which merges its VMAs again."""
        self._log[:LOG_AT] = 0
        mprotect(self.region.vaddr, self.region.nbytes, _PROT_READ)

    def collect(self) -> Pages:
        """Return what the handler noted. OSError if the kernel refused it a VMA on the way."""
        count = int(self._log[LOG_COUNT])
        if self._log[LOG_ERROR]:
            limit = Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii").strip()
            raise OSError(f"mprotect refused a page after {count - 1:,} of them: vm.max_map_count is {limit}")
        self.user_bytes = 8 * count
        return np.sort(self._log[LOG_AT : LOG_AT + count].astype(np.int64))

    def detach(self) -> None:
        """Make the range writable and put the old handler back."""
        if self._before is not None:
            mprotect(self.region.vaddr, self.region.nbytes, _PROT_READ_WRITE)
            restore_handler(signal.SIGSEGV, self._before)
            self._before = None
