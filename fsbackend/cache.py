"""All dirty pages of a mount: counters, limits, and the dirty files, oldest first.

Only dirty pages and pages under writeback are kept; a clean page is dropped at once, since the machine's own
page cache has it. The files themselves are `dirtyfile`.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from fsbackend.bdi import BackingDevInfo
from fsbackend.eventlog import EventLog
from fsbackend.pagepool import PagePool
from fsbackend.pages import PAGE_SHIFT
from fsbackend.storeio import StoreIo
from fsbackend.throttle import DirtyTask, Thresholds

if TYPE_CHECKING:
    from fsbackend.dirtyfile import DirtyFile

RESERVE_NBYTES = 1 << 20
"""Room in the store that buffered writes leave for its own metadata."""

MAX_DIRTIERS = 1024
"""When more threads than these have written, those that owe nothing are forgotten."""

PAUSE_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Upper bounds of the histogram of pauses; the law asks for none above the last (max_pause_s)."""


class Cache:
    """All dirty pages of a mount: counters, limits, and the dirty files, oldest first."""

    def __init__(self, bdi: BackingDevInfo, io: StoreIo, clock: Callable[[], float] = time.monotonic) -> None:
        self.bdi = bdi
        self.io = io
        self.clock = clock
        self.pool = PagePool()
        self.lock = threading.Lock()
        self.dirty_files: OrderedDict[DirtyFile, float] = OrderedDict()
        self.limits = Thresholds(1 << 30, 1 << 31)
        self.others_dirty = 0
        self.wakeup = threading.Event()
        self.direct = False
        self.nr_errors = 0
        self.nr_pauses = 0
        self.paused_s = 0.0
        self.pauses = dict.fromkeys(PAUSE_BOUNDS_MS, 0)
        self.nr_late_pauses = 0
        self.longest_pause_s = 0.0
        self.events = EventLog()
        self.free_nbytes: Callable[[], int] = lambda: 1 << 62
        self.max_file_nbytes = 1 << 63
        self._dirtiers: dict[int, DirtyTask] = {}
        self._room_nbytes = 0
        self._room_until_s = 0.0

    def account_dirtied(self, file: "DirtyFile", nr_pages: int) -> None:
        """Count newly dirty pages and put the file on the list; wake the flusher above the background limit."""
        with self.lock:
            self.bdi.account_page_dirtied(nr_pages)
            if file not in self.dirty_files:
                self.dirty_files[file] = self.clock()
        if self.over_background() and not self.wakeup.is_set():
            self.wakeup.set()

    def over_background(self) -> bool:
        """Whether background writeback should run, judged by this mount or by all."""
        bdi = self.bdi
        own = bdi.nr_reclaimable_and_writeback
        if (bdi.strict_limit or bdi.max_ratio < 100) and own > bdi.thresholds(self.limits).background:
            return True
        return own > 0 and own + self.others_dirty > self.limits.background

    def account_cleaned(self, nr_pages: int) -> None:
        """Count pages that are dirty no more, without writeback."""
        with self.lock:
            self.bdi.account_page_cleaned(nr_pages)

    def balance(self, pages_dirtied: int, pid: int = 0) -> float:
        """Return the pause in seconds that thread `pid`, the dirtier of so many pages, owes; no other pays for it."""
        with self.lock:
            now_s = self.clock()
            own = self.bdi.nr_reclaimable_and_writeback
            task = self._dirtiers.setdefault(pid, DirtyTask())
            pause_s = self.bdi.balance(now_s, pages_dirtied, own + self.others_dirty, self.limits, task)
            if len(self._dirtiers) > MAX_DIRTIERS:
                self._dirtiers = {pid: one for pid, one in self._dirtiers.items() if one.paused_until_s > now_s}
            return pause_s

    def reserve(self, nbytes: int) -> bool:
        """Return whether the store surely has room for so many more bytes than were accepted before.

        If not, the caller writes through, and gets the store's own answer; what was accepted keeps its room.
        """
        with self.lock:
            now_s = self.clock()
            if nbytes > self._room_nbytes or now_s > self._room_until_s:
                pending = self.bdi.nr_reclaimable_and_writeback << PAGE_SHIFT
                self._room_nbytes = self.free_nbytes() - pending - RESERVE_NBYTES
                self._room_until_s = now_s + 0.2
            self._room_nbytes -= nbytes
            return self._room_nbytes >= 0

    def trim(self) -> None:
        """Give memory back that was not needed lately."""
        with self.lock:
            if not self.dirty_files:
                self.pool.trim()

    def record_pause(self, pause_s: float) -> None:
        """Count a pause that has ended in the histogram, as long as it really was."""
        with self.lock:
            self.nr_pauses += 1
            self.paused_s += pause_s
            self.longest_pause_s = max(self.longest_pause_s, pause_s)
            bound_ms = next((bound_ms for bound_ms in PAUSE_BOUNDS_MS if pause_s * 1000 <= bound_ms), None)
            if bound_ms is None:
                self.nr_late_pauses += 1
            else:
                self.pauses[bound_ms] += 1

    def requeue(self, file: "DirtyFile", *, all_clean: bool, since_s: float | None = None) -> None:
        """After a batch of the file: off the list if clean, else to its tail, so that each file has its turn.

        With `since_s`, nothing of it was dirty for longer than that: a file that is always written to ages anew.
        """
        with self.lock:
            if all_clean:
                self.dirty_files.pop(file, None)
            elif file in self.dirty_files:
                self.dirty_files.move_to_end(file)
                if since_s is not None:
                    self.dirty_files[file] = since_s

    def oldest(self, before_s: float | None = None) -> "list[DirtyFile]":
        """Return the dirty files, oldest first; only those dirty since before `before_s` if it is given."""
        with self.lock:
            return [file for file, since in self.dirty_files.items() if before_s is None or since <= before_s]
