"""The control law against the formulas, and a simulated device against what the law promises."""

import pytest

from fsbackend.throttle import (
    QUIET_S,
    DirtyParams,
    DirtyTask,
    Thresholds,
    WbThrottle,
    dirty_limits,
    dirty_poll_interval,
    pos_ratio,
    wb_calc_thresh,
)


def test_limits_come_from_ratios_or_bytes() -> None:
    assert dirty_limits(DirtyParams(), 1000, 4096) == Thresholds(100, 200)
    params = DirtyParams(background_bytes=4097, dirty_bytes=10 * 4096)
    assert dirty_limits(params, 1000, 4096) == Thresholds(2, 10)


def test_mapped_memory_lowers_the_old_limit() -> None:
    """v2.6.20 mm/page-writeback.c: get_dirty_limits()."""
    old, new = DirtyParams.preset("2.6.20"), DirtyParams.preset("3.6")
    limits = [dirty_limits(old, 1000, 4096, unmapped_ratio=ratio) for ratio in (100, 60, 20, 4, 0)]
    assert limits == [(100, 400), (100, 300), (50, 100), (25, 50), (25, 50)]
    assert dirty_limits(new, 1000, 4096, unmapped_ratio=0) == (100, 200)


def test_background_is_always_below_dirty() -> None:
    params = DirtyParams(background_ratio=50, dirty_ratio=20)
    assert dirty_limits(params, 1000, 4096) == Thresholds(100, 200)


def test_freerun_and_setpoint() -> None:
    limits = Thresholds(100, 200)
    assert (limits.freerun, limits.setpoint) == (150, 175)


def test_pos_ratio_at_the_named_points() -> None:
    limits = Thresholds(1000, 2000)
    assert pos_ratio(limits.freerun, limits) == 2.0
    assert pos_ratio(limits.setpoint, limits) == 1.0
    assert pos_ratio(limits.dirty, limits) == 0.0
    assert pos_ratio(0, limits) == 2.0
    samples = [pos_ratio(dirty, limits) for dirty in range(1500, 2001, 10)]
    assert samples == sorted(samples, reverse=True)


def test_presets_of_three_kernels() -> None:
    ratios = {
        name: (DirtyParams.preset(name).background_ratio, DirtyParams.preset(name).dirty_ratio)
        for name in ("2.6.20", "2.6.22", "3.6")
    }
    assert ratios == {"2.6.20": (10, 40), "2.6.22": (5, 10), "3.6": (10, 20)}
    with pytest.raises(ValueError, match=r"2\.6\.20"):
        DirtyParams.preset("5.0")


def test_a_device_gets_its_share_between_its_ratios() -> None:
    limits = Thresholds(1000, 2000)
    assert wb_calc_thresh(limits) == limits
    assert wb_calc_thresh(limits, max_ratio=1) == Thresholds(10, 20)
    assert wb_calc_thresh(limits, share=0.0, min_ratio=10) == Thresholds(100, 200)
    assert wb_calc_thresh(limits, share=0.5) == Thresholds(500, 1000)
    assert wb_calc_thresh(limits, share=0.5, min_ratio=10, others_min_ratio=30) == Thresholds(400, 800)
    assert wb_calc_thresh(limits, min_ratio=60, others_min_ratio=60) == Thresholds(600, 1200)
    assert wb_calc_thresh(Thresholds(0, 0)) == Thresholds(0, 0)


@pytest.mark.parametrize(("dirty", "interval"), [(0, 32), (1000, 16), (1999, 1), (2000, 1), (3000, 1)])
def test_poll_interval_shrinks_towards_the_limit(dirty: int, interval: int) -> None:
    assert dirty_poll_interval(dirty, 2000) == interval


def test_freerun_never_pauses() -> None:
    throttle = WbThrottle()
    assert throttle.balance(0.0, 1 << 20, 1500, 1500, Thresholds(1000, 2000)) == 0.0


def test_above_the_limit_it_pauses_until_the_device_has_written() -> None:
    throttle = WbThrottle()
    limits = Thresholds(1000, 2000)
    assert 0 < throttle.balance(0.0, 1, 2500, 2500, limits) <= 0.2
    assert throttle.dirty_exceeded
    assert throttle.balance(0.1, 0, 2500, 2500, limits) > 0
    assert throttle.balance(0.2, 0, 1400, 1400, limits) == 0.0


def test_nobody_goes_on_at_less_than_a_page_a_second() -> None:
    """v4.9 mm/page-writeback.c: balance_dirty_pages(): task_ratelimit is a whole number, and 0 of it does not end."""
    limits, task = Thresholds(1000, 2000), DirtyTask()
    throttle = WbThrottle(dirty_ratelimit=20.0, avg_write_bandwidth=20.0, write_bandwidth=20.0)
    for tick in range(1, 5):
        assert throttle.balance(tick * 0.2, int(tick == 1), 1999, 1999, limits, task=task) == 0.2
    assert throttle.pos_ratio > 0.0
    assert throttle.balance(1.0, 0, 1760, 1760, limits, task=task) == 0.0


def test_strictlimit_judges_the_device_alone() -> None:
    throttle = WbThrottle()
    limits, own = Thresholds(100_000, 200_000), Thresholds(50, 100)
    assert throttle.balance(0.0, 10, 100, 100, limits, bdi_thresholds=own) == 0.0
    assert throttle.balance(0.0, 10, 100, 100, limits, bdi_thresholds=own, strict=True) > 0.0


def test_strictlimit_with_few_pages_still_obeys_the_machine() -> None:
    """v4.9 mm/page-writeback.c: wb_position_ratio(): the global limit is looked at first."""
    limits, own = Thresholds(500, 1000), Thresholds(0, 4)
    throttle = WbThrottle()
    assert throttle.balance(0.0, 1, 1000, 5, limits, bdi_thresholds=own, strict=True) > 0.0
    assert throttle.pos_ratio == 0.0
    throttle.balance(0.0, 1, 980, 5, limits, bdi_thresholds=own, strict=True)
    assert throttle.pos_ratio == pytest.approx(2 * pos_ratio(980, limits))
    throttle.balance(0.0, 1, 100, 5, limits, bdi_thresholds=own, strict=True)
    assert throttle.pos_ratio == 2.0


def test_strictlimit_with_few_pages_ramps_the_rate_up() -> None:
    """v4.9 mm/page-writeback.c: wb_update_dirty_ratelimit(): below 8 pages the setpoint is one above what is dirty."""
    throttle = WbThrottle(dirty_ratelimit=100.0, balanced_dirty_ratelimit=1000.0)
    rates = []
    for tick in range(5):
        throttle.balance(tick * 0.2, 1, 100, 5, Thresholds(500, 1000), bdi_thresholds=Thresholds(2, 4), strict=True)
        rates.append(throttle.dirty_ratelimit)
    assert rates == sorted(rates)
    assert rates[-1] > 100.0


def test_the_old_rule_charges_a_write_chunk() -> None:
    throttle = WbThrottle(DirtyParams.preset("2.6.20"))
    limits = Thresholds(100, 400)
    assert throttle.balance(0.0, 64, 400, 400, limits) == 0.0
    pause_s = throttle.balance(0.0, 64, 401, 401, limits)
    assert pause_s == pytest.approx(1.5 * 64 / throttle.avg_write_bandwidth)
    assert throttle.balance(0.0, 1 << 20, 401, 401, limits) == 0.1


def simulate(nr_tasks: int, device_rate: float, seconds: float) -> tuple[list[int], list[float], int]:
    """Let greedy dirtiers write against a device of `device_rate` pages/s under virtual time."""
    throttle = WbThrottle()
    limits = Thresholds(5_000, 10_000)
    tasks = [DirtyTask() for _ in range(nr_tasks)]
    wake_s = [0.0] * nr_tasks
    chunk, dirty, written_part = 32, 0, 0.0
    now_s, step_s = 0.0, 0.001
    levels, pauses, nr_written = [], [], 0
    while now_s < seconds:
        now_s += step_s
        if dirty > limits.background:
            written_part += device_rate * step_s
            done = min(int(written_part), dirty)
            written_part -= done
            dirty -= done
            nr_written += done
            throttle.account_written(done)
            throttle.update(now_s)
        for index, task in enumerate(tasks):
            if wake_s[index] > now_s:
                continue
            throttle.account_dirtied(chunk)
            dirty += chunk
            pause_s = throttle.balance(now_s, chunk, dirty, dirty, limits, task=task)
            wake_s[index] = now_s + pause_s
            if pause_s:
                pauses.append(pause_s)
        levels.append(dirty)
    return levels, pauses, nr_written


@pytest.mark.parametrize("nr_tasks", [1, 4])
def test_dirty_pages_settle_at_the_setpoint(nr_tasks: int) -> None:
    levels, pauses, nr_written = simulate(nr_tasks, 5_000.0, 40.0)
    settled = levels[len(levels) // 2 :]
    assert min(settled) > 7_500
    assert max(settled) < 10_000
    assert max(pauses) <= 0.2
    assert nr_written > 0.95 * 5_000 * 38, "the device must not run dry"


def test_the_bandwidth_is_learnt() -> None:
    throttle = WbThrottle()
    for tick in range(200):
        throttle.account_written(200)
        throttle.update(tick * 0.2)
    assert throttle.avg_write_bandwidth == pytest.approx(1000.0, rel=0.05)


def test_idle_time_is_not_taken_for_slowness() -> None:
    throttle = WbThrottle()
    throttle.update(0.0)
    before = throttle.avg_write_bandwidth
    throttle.update(100.0, busy=False)
    assert throttle.avg_write_bandwidth == before
    throttle.update(101.1, quiet_s=QUIET_S)
    assert throttle.avg_write_bandwidth == before


def test_a_writer_after_idle_time_does_not_take_it_for_slowness() -> None:
    """Idle for a minute, one page written in it: the first burst beyond freerun must not reckon a page a minute."""
    throttle = WbThrottle()
    throttle.update(0.0)
    before = throttle.avg_write_bandwidth
    throttle.account_written(1)
    throttle.account_dirtied(8_000)
    throttle.balance(60.0, 8_000, 8_000, 8_000, Thresholds(5_000, 10_000))
    assert throttle.avg_write_bandwidth == before


def test_a_slow_write_is_measured_and_the_idle_time_before_it_is_not() -> None:
    throttle = WbThrottle()
    throttle.update(0.0)
    throttle.begin_writeback(60.0)
    throttle.account_written(1024)
    throttle.update(68.0)
    assert throttle.avg_write_bandwidth == pytest.approx(1024 / 8)
    throttle.begin_writeback(68.1)
    throttle.account_written(1024)
    throttle.update(76.0)
    assert throttle.avg_write_bandwidth == pytest.approx(1024 / 8), "a short gap between two writes is no idle time"
