"""The flusher: writes dirty pages back in the background, oldest files first, each in its turn.

Woken every `periodic_s` for files dirty longer than `expire_s`, and at once above the background limit; then it
goes on until the mount is below it. A file gets one batch (4 MiB), then the next file has its turn. A store
that refuses does not stop it: the pages stay dirty, and it tries again after the period.
Source of the order: Linux v4.9 fs/fs-writeback.c: wb_writeback(), writeback_sb_inodes().
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import psutil

from fsbackend.cache import Cache
from fsbackend.dirtyfile import DirtyFile
from fsbackend.pages import PAGE_SIZE
from fsbackend.share import ALONE, Others
from fsbackend.throttle import dirty_limits

log = logging.getLogger("fremap")

LIMITS_INTERVAL_S = 1.0


class Flusher:
    """The thread that writes a cache back."""

    def __init__(self, cache: Cache, *, after_pass: Callable[[], None] = lambda: None) -> None:
        self.cache = cache
        self._after_pass = after_pass
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
        self.share_with: Callable[[int, float, int], Others] = lambda _dirty, _bandwidth, _min_ratio: ALONE
        self._failed_until_s = 0.0
        self.nr_passes = 0
        self.current: DirtyFile | None = None
        self.gate: Callable[[], AbstractContextManager[None]] = nullcontext

    def start(self) -> None:
        """Start the thread."""
        self.refresh_limits()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is dirty stays so."""
        self._stop.set()
        self.cache.wakeup.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh_limits(self) -> None:
        """Take the limits from the memory that is available now, dirty pages included, and the other mounts."""
        cache = self.cache
        bdi = cache.bdi
        is_own = bool(bdi.params.dirty_bytes)  # a limit in bytes is this mount's, not the machine's
        nr_own = bdi.nr_reclaimable_and_writeback
        others = self.share_with(nr_own, bdi.throttle.avg_write_bandwidth, 0 if is_own else bdi.min_ratio)
        if is_own:
            others = ALONE
        with cache.lock:
            own = cache.bdi.nr_reclaimable_and_writeback
            available = psutil.virtual_memory().available // PAGE_SIZE + own
            cache.limits = dirty_limits(cache.bdi.params, available, PAGE_SIZE)
            cache.others_dirty = others.nr_dirty
            cache.bdi.share = others.share
            cache.bdi.others_min_ratio = others.min_ratio

    def _run(self) -> None:
        last_periodic_s = self.cache.clock()
        while not self._stop.is_set():
            params = self.cache.bdi.params
            period_s = params.periodic_s if params.periodic_s > 0 else 1e9
            due_s = last_periodic_s + period_s - self.cache.clock()
            self.cache.wakeup.wait(max(min(due_s, LIMITS_INTERVAL_S), 0.0))
            if self._stop.is_set():
                return
            self.cache.wakeup.clear()
            try:
                self.refresh_limits()
                if self.cache.clock() >= last_periodic_s + period_s:
                    last_periodic_s = self.cache.clock()
                    self.write_expired()
                    self.cache.trim()
                if self.cache.clock() >= self._failed_until_s:
                    self.write_background()
                self._after_pass()
            except Exception:
                log.exception("bug: the flusher failed; it goes on")

    def write_expired(self) -> None:
        """Write back all that has been dirty for longer than `expire_s`."""
        before_s = self.cache.clock() - self.cache.bdi.params.expire_s
        self._write(lambda: self.cache.oldest(before_s), lambda: True)

    def write_background(self) -> None:
        """Write back until the mount is below the background limit."""
        self._write(self.cache.oldest, self.cache.over_background)

    def _write(self, files: Callable[[], list[DirtyFile]], needed: Callable[[], bool]) -> None:
        """Give each file one batch, round by round, as long as it is needed and something moves."""
        while needed() and not self._stop.is_set():
            nr_written = 0
            batch = files()
            for file in batch:
                if self._stop.is_set() or not needed():
                    return
                self.current = file
                try:
                    with self.gate():
                        nr_written += file.write_back_some(pace=True)
                except OSError:
                    # Recorded for the file's descriptors; the pages wait for the next period.
                    self._failed_until_s = self.cache.clock() + max(self.cache.bdi.params.periodic_s, 0.1)
                finally:
                    self.current = None
            self.nr_passes += 1
            if not nr_written:
                return
            self.refresh_limits()
