"""The control law of dirty throttling: limits, bandwidth, pos_ratio and pauses, for times that are given.

Nothing here reads a clock, sleeps or starts a thread: time comes in as seconds, pauses go out as seconds.
The unit of memory is the caller's page; rates are pages a second.

One law serves the emulated kernel and the mount. It is that of Linux v4.9 mm/page-writeback.c
(domain_dirty_limits, __wb_calc_thresh, pos_ratio_polynom, wb_position_ratio, wb_update_write_bandwidth,
wb_update_dirty_ratelimit, balance_dirty_pages); `legacy` parameters give the rule of 2.6.20 and 2.6.22
instead. Left out: memory cgroups, the slowly falling hard limit of a shrinking machine, rarer and longer pauses
for many dirtiers and slow devices (wb_min_pause), and the debt carried over where the longest pause is too short.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

INIT_BANDWIDTH_BYTES = 100 << 20
"""What a device is taken to write in a second before anything was measured (Linux: INIT_BW)."""

BANDWIDTH_PERIOD_S = 4.0
"""Window of the bandwidth's running mean (Linux: roundup_pow_of_two(3 * HZ) ticks, 4.1 s at 250 or 1000 Hz)."""

QUIET_S = 1.0
"""A period longer than this was quiet: it says nothing of the device (Linux v4.9: __wb_update_bandwidth(), HZ)."""

LEGACY_MAX_PAUSE_S = 0.1
"""Linux 2.6.20 mm/page-writeback.c: balance_dirty_pages() waits by congestion_wait(WRITE, HZ/10)."""

LEGACY_WRITE_CHUNK = 1.5
"""Linux 2.6.20: sync_writeback_pages(): a dirtier writes 1.5 pages for each page that it dirtied."""

_STRICT_MIN_PAGES = 8
_RESERVE_GAIN = 8.0
_LOWEST_WB_GAIN = 0.25


@dataclass(frozen=True, slots=True)
class DirtyParams:
    """The knobs of /proc/sys/vm that govern dirty pages; bytes, if not 0, win over the ratio in percent."""

    background_ratio: int = 10
    dirty_ratio: int = 20
    background_bytes: int = 0
    dirty_bytes: int = 0
    expire_s: float = 30.0
    periodic_s: float = 5.0
    max_pause_s: float = 0.2
    bandwidth_interval_s: float = 0.2
    legacy: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no kernel would take."""
        for name in ("background_ratio", "dirty_ratio"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} is a percentage: give 0 to 100, not {getattr(self, name)}")
        for name in ("background_bytes", "dirty_bytes", "expire_s", "periodic_s", "max_pause_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.bandwidth_interval_s <= 0:
            raise ValueError("bandwidth_interval_s must be positive")

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return the defaults of a kernel: ``2.6.20`` (10/40), ``2.6.22`` (5/10) or ``3.6`` (10/20).

        The two old ones throttle by the write-chunk rule: no pause up to the dirty limit, and above it each
        dirtied page costs the time of 1.5 written ones, at most 100 ms at a time.
        """
        presets = {
            "2.6.20": cls(background_ratio=10, dirty_ratio=40, legacy=True),
            "2.6.22": cls(background_ratio=5, dirty_ratio=10, legacy=True),
            "3.6": cls(),
        }
        if name not in presets:
            raise ValueError(f"no preset {name!r}; there are {', '.join(presets)}")
        return presets[name]

    def with_(self, **changes: float) -> Self:
        """Return a copy with some knobs changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


class Thresholds(NamedTuple):
    """Limits in pages: writeback starts above `background`, nothing is dirtied above `dirty`."""

    background: int
    dirty: int

    @property
    def freerun(self) -> int:
        """Up to here nobody is throttled (Linux: dirty_freerun_ceiling())."""
        return (self.background + self.dirty) // 2

    @property
    def setpoint(self) -> int:
        """Where the law balances the dirty pages."""
        return (self.freerun + self.dirty) // 2


def dirty_limits(
    params: DirtyParams, available_pages: int, page_size: int, *, unmapped_ratio: int = 100
) -> Thresholds:
    """Return the machine-wide limits for `available_pages` of dirtyable memory.

    The background limit is always below the dirty one. `unmapped_ratio`, the percentage of memory that no process
    maps, bounds the old rule's limit: half of it, but 5 % at least.
    Source: Linux v4.9 mm/page-writeback.c: domain_dirty_limits(); v2.6.20 mm/page-writeback.c: get_dirty_limits().
    """
    dirty_ratio = params.dirty_ratio
    if params.legacy:
        dirty_ratio = max(min(dirty_ratio, unmapped_ratio // 2), 5)
    dirty = available_pages * dirty_ratio // 100
    background = available_pages * params.background_ratio // 100
    if params.dirty_bytes:
        dirty = -(-params.dirty_bytes // page_size)
    if params.background_bytes:
        background = -(-params.background_bytes // page_size)
    if background >= dirty:
        background = dirty // 2
    return Thresholds(background, dirty)


def wb_calc_thresh(
    thresholds: Thresholds,
    *,
    share: float = 1.0,
    min_ratio: int = 0,
    max_ratio: int = 100,
    others_min_ratio: int = 0,
) -> Thresholds:
    """Return one device's part of the machine-wide limits.

    `share` is its fraction (0 to 1) of all recent writeout; the ratios are percentages of the limit. What no device
    has reserved (`others_min_ratio`: the other ones together) is divided by the shares.
    Source: Linux v4.9 mm/page-writeback.c: __wb_calc_thresh(), wb_dirty_limits().
    """
    free_ratio = max(100 - min_ratio - others_min_ratio, 0)
    dirty = thresholds.dirty * free_ratio / 100 * share + thresholds.dirty * min_ratio / 100
    dirty = min(dirty, thresholds.dirty * max_ratio / 100)
    background = dirty * thresholds.background / thresholds.dirty if thresholds.dirty else 0
    return Thresholds(int(background), int(dirty))


def pos_ratio_polynom(dirty: float, setpoint: float, limit: float) -> float:
    """Return 1 + ((setpoint - dirty) / (limit - setpoint))^3, clamped to [0, 2]."""
    x = (setpoint - dirty) / max(limit - setpoint, 1)
    return min(max(1.0 + x * x * x, 0.0), 2.0)


def pos_ratio(dirty: float, thresholds: Thresholds) -> float:
    """Return how the dirty count's place between freerun (2), setpoint (1) and limit (0) scales the rate."""
    if dirty >= thresholds.dirty:
        return 0.0
    return pos_ratio_polynom(dirty, thresholds.setpoint, thresholds.dirty)


def dirty_poll_interval(dirty: int, limit: int) -> int:
    """Return how many pages a dirtier may dirty before it should call `balance` again."""
    return 1 << ((limit - dirty).bit_length() - 1 >> 1) if limit > dirty else 1


@dataclass(slots=True)
class DirtyTask:
    """What the kernel keeps in task_struct for one dirtier: the virtual time up to which it has paid, 0 at first."""

    paused_until_s: float = 0.0


@dataclass(slots=True)
class WbThrottle:
    """One device's state of the law: bandwidth and rate limit, in pages a second.

    The owner tells it what was dirtied and written (`account_dirtied`, `account_written`) and calls `update`
    from its flusher and `balance` from its dirtiers, each with its own idea of now.
    """

    params: DirtyParams = field(default_factory=DirtyParams)
    page_size: int = 4096
    write_bandwidth: float = 0.0
    avg_write_bandwidth: float = 0.0
    dirty_ratelimit: float = 0.0
    balanced_dirty_ratelimit: float = 0.0
    nr_dirtied: int = 0
    nr_written: int = 0
    dirty_exceeded: bool = False
    pos_ratio: float = 1.0
    _bw_stamp_s: float = float("-inf")
    _ratelimit_stamp_s: float = float("-inf")
    _dirtied_stamp: int = 0
    _written_stamp: int = 0
    _task: DirtyTask = field(default_factory=DirtyTask)

    def __post_init__(self) -> None:
        """Start from what Linux takes an unmeasured device to be: 100 MiB/s."""
        initial = INIT_BANDWIDTH_BYTES / self.page_size
        self.write_bandwidth = self.write_bandwidth or initial
        self.avg_write_bandwidth = self.avg_write_bandwidth or initial
        self.dirty_ratelimit = self.dirty_ratelimit or initial
        self.balanced_dirty_ratelimit = self.balanced_dirty_ratelimit or initial

    def account_dirtied(self, nr_pages: int) -> None:
        """Count pages that became dirty."""
        self.nr_dirtied += nr_pages

    def account_written(self, nr_pages: int) -> None:
        """Count pages whose writeback ended."""
        self.nr_written += nr_pages

    def begin_writeback(self, now_s: float) -> None:
        """Measure from now on: a writeback begins where none was under way, so what was before is no slowness.

        Source: Linux v5.16 mm/page-writeback.c: wb_bandwidth_estimate_start().
        """
        if now_s - self._bw_stamp_s > QUIET_S:
            self._bw_stamp_s = now_s
            self._written_stamp = self.nr_written

    def update(self, now_s: float, *, busy: bool = True, quiet_s: float = float("inf")) -> None:
        """Re-estimate the bandwidth, at most once every `bandwidth_interval_s`; from the flusher.

        With `busy` false (the device had nothing to write), or after more than `quiet_s` without a look, the period
        is skipped, not taken for slowness. A flusher whose single writes may take longer than QUIET_S calls
        `begin_writeback` before them instead.
        """
        self._update(now_s, None, busy=busy, quiet_s=quiet_s)

    def balance(
        self,
        now_s: float,
        pages_dirtied: int,
        global_dirty: int,
        bdi_dirty: int,
        thresholds: Thresholds,
        *,
        bdi_thresholds: Thresholds | None = None,
        strict: bool = False,
        task: DirtyTask | None = None,
    ) -> float:
        """Return how long a dirtier of `pages_dirtied` pages must pause now; 0 if it may go on.

        The dirty counts include pages under writeback. A caller that is told to pause sleeps and asks again
        with ``pages_dirtied=0`` until it gets 0: above the limit that takes as long as the device needs.
        A pause is never longer than ``max_pause_s``. With `strict` the device is judged by its own limits
        alone. `task` holds the credit of one dirtier; without it all share one.
        Source: Linux v4.9 mm/page-writeback.c: balance_dirty_pages().
        """
        wb_thresholds = thresholds if bdi_thresholds is None else bdi_thresholds
        task = self._task if task is None else task
        dirty, limits = (bdi_dirty, wb_thresholds) if strict else (global_dirty, thresholds)
        if self.params.legacy:
            return self._balance_legacy(pages_dirtied, dirty, limits)
        if dirty <= limits.freerun:
            self.dirty_exceeded = False
            task.paused_until_s = now_s
            return 0.0
        self.dirty_exceeded = bdi_dirty > wb_thresholds.dirty and (strict or global_dirty > thresholds.dirty)
        ratio = self._position_ratio(global_dirty, bdi_dirty, thresholds, wb_thresholds, strict=strict)
        self.pos_ratio = ratio
        setpoint = limits.setpoint
        if strict:
            # Few pages: the limit may be near 0 for want of writeout only, so the rate is ramped up.
            setpoint = limits.freerun if bdi_dirty >= _STRICT_MIN_PAGES else bdi_dirty + 1
        self._update(now_s, (dirty, setpoint), busy=True, quiet_s=QUIET_S)
        ratelimit = self.dirty_ratelimit * ratio
        max_pause_s = self._max_pause(bdi_dirty)
        if ratelimit < 1.0:  # in whole pages, as Linux reckons, that is none
            task.paused_until_s = now_s + max_pause_s
            return max_pause_s
        period_s = pages_dirtied / ratelimit
        paid_until_s = task.paused_until_s or now_s
        pause_s = period_s - (now_s - paid_until_s)
        if pause_s < self._min_pause(max_pause_s):
            # Too short to sleep for: owed until the next call. A long think time is not saved up.
            task.paused_until_s = now_s if pause_s < -1.0 else paid_until_s + period_s
            return 0.0
        pause_s = min(pause_s, max_pause_s)
        task.paused_until_s = now_s + pause_s
        return pause_s

    def _balance_legacy(self, pages_dirtied: int, dirty: int, limits: Thresholds) -> float:
        self.dirty_exceeded = dirty > limits.dirty
        if not self.dirty_exceeded:
            return 0.0
        nr_chunk = LEGACY_WRITE_CHUNK * max(pages_dirtied, 1)
        return min(nr_chunk / max(self.avg_write_bandwidth, 1.0), LEGACY_MAX_PAUSE_S)

    def _max_pause(self, bdi_dirty: int) -> float:
        """Bound the pause so that the device does not run dry meanwhile (wb_max_pause(): an eighth)."""
        drain_s = bdi_dirty / max(self.avg_write_bandwidth, 1.0) / 8
        return min(max(drain_s, 0.001), self.params.max_pause_s)

    def _min_pause(self, max_pause_s: float) -> float:
        """Return the shortest pause worth a sleep: half of 10 ms, less for a small pool (wb_min_pause())."""
        return min(0.010, max_pause_s / 2) / 2

    def _position_ratio(
        self, dirty: int, wb_dirty: int, limits: Thresholds, wb_limits: Thresholds, *, strict: bool
    ) -> float:
        """Scale the rate by the machine's dirty count and this device's; wb_position_ratio()."""
        if dirty >= limits.dirty:
            return 0.0
        ratio = pos_ratio(dirty, limits)
        if strict:
            if wb_dirty < _STRICT_MIN_PAGES:
                return min(2.0 * ratio, 2.0)
            if wb_dirty >= wb_limits.dirty or wb_limits.freerun in {0, wb_limits.dirty}:
                return 0.0
            return min(ratio, pos_ratio_polynom(wb_dirty, wb_limits.freerun, wb_limits.dirty))
        wb_thresh = max(min(wb_limits.dirty, limits.dirty), (limits.dirty - dirty) / 8)
        part = wb_thresh / max(limits.dirty, 1)
        wb_setpoint = limits.setpoint * part
        span = max((limits.dirty - wb_thresh + 8 * self.avg_write_bandwidth) * part, 1.0)
        x_intercept = wb_setpoint + span
        if wb_dirty < x_intercept - span / 4:
            ratio *= (x_intercept - wb_dirty) / span
        else:
            ratio *= _LOWEST_WB_GAIN
        reserve = wb_thresh / 2
        if wb_dirty < reserve:
            ratio *= min(reserve / max(wb_dirty, 1), _RESERVE_GAIN)
        return ratio

    def _update(self, now_s: float, position: tuple[float, float] | None, *, busy: bool, quiet_s: float) -> None:
        """Do __wb_update_bandwidth(); `position` is (dirty, setpoint) when a dirtier calls.

        The rate limit and the bandwidth keep a time of their own each, so that a flusher that calls often
        does not keep the dirtiers from ever adjusting theirs.
        """
        interval_s = self.params.bandwidth_interval_s
        if position is not None:
            elapsed_s = now_s - self._ratelimit_stamp_s
            if elapsed_s >= interval_s:
                if elapsed_s <= QUIET_S:
                    self._update_ratelimit(elapsed_s, *position)
                self._ratelimit_stamp_s = now_s
                self._dirtied_stamp = self.nr_dirtied
        elapsed_s = now_s - self._bw_stamp_s
        if elapsed_s >= interval_s:
            if busy and elapsed_s <= quiet_s and self._bw_stamp_s > float("-inf"):
                self._update_bandwidth(elapsed_s)
            self._bw_stamp_s = now_s
            self._written_stamp = self.nr_written

    def _update_bandwidth(self, elapsed_s: float) -> None:
        """Do wb_update_write_bandwidth(): a running mean, smoothed once more against spikes."""
        nr_written = max(self.nr_written - self._written_stamp, 0)
        old, avg = self.write_bandwidth, self.avg_write_bandwidth
        if elapsed_s > BANDWIDTH_PERIOD_S:
            bandwidth = avg = nr_written / elapsed_s
        else:
            bandwidth = (nr_written + old * (BANDWIDTH_PERIOD_S - elapsed_s)) / BANDWIDTH_PERIOD_S
            if (avg > old >= bandwidth) or (avg < old <= bandwidth):
                avg += (old - avg) / 8
        self.write_bandwidth = max(bandwidth, 1.0)
        self.avg_write_bandwidth = max(avg, 1.0)

    def _update_ratelimit(self, elapsed_s: float, dirty: float, setpoint: float) -> None:
        """Do wb_update_dirty_ratelimit(): follow write_bandwidth / N for N dirtiers, in damped steps."""
        dirty_rate = max(self.nr_dirtied - self._dirtied_stamp, 0) / elapsed_s
        base = self.dirty_ratelimit
        task_ratelimit = base * self.pos_ratio + 1
        balanced = task_ratelimit * self.avg_write_bandwidth / max(dirty_rate, 1.0)
        balanced = min(balanced, self.avg_write_bandwidth)
        step = 0.0
        if dirty < setpoint:
            step = max(min(self.balanced_dirty_ratelimit, balanced, task_ratelimit) - base, 0.0)
        else:
            step = max(base - max(self.balanced_dirty_ratelimit, balanced, task_ratelimit), 0.0)
        shift = int(base / (2 * step + 1))
        step = step / (1 << shift) / 8 if shift < 64 else 0.0
        self.dirty_ratelimit = max(base + step if base < balanced else base - step, 1.0)
        self.balanced_dirty_ratelimit = balanced
