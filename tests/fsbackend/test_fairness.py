"""Who dirties little does not wait for those who dirty much (v4.9 mm/page-writeback.c: balance_dirty_pages())."""

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import MAX_DIRTIERS, Cache
from fsbackend.faultyio import FaultyIo
from fsbackend.inject import Injector
from fsbackend.throttle import DirtyParams, Thresholds

HEAVY, LIGHT = 100, 200


class Clock:
    """A time that is set."""

    now_s = 10.0

    def __call__(self) -> float:
        """Return it."""
        return self.now_s


def throttled_cache() -> tuple[Cache, Clock]:
    """Return a cache that is above freerun and below its limit, over a device of 1000 pages a second."""
    clock = Clock()
    bdi = BackingDevInfo("test", parse_caps("disk"), DirtyParams())
    cache = Cache(bdi, FaultyIo(Injector(), None), clock)
    cache.limits = Thresholds(1000, 2000)
    bdi.account_page_dirtied(1750)
    law = bdi.throttle
    law.write_bandwidth = law.avg_write_bandwidth = law.dirty_ratelimit = law.balanced_dirty_ratelimit = 1000.0
    return cache, clock


def test_a_light_dirtier_does_not_pay_for_a_heavy_one() -> None:
    cache, clock = throttled_cache()
    assert cache.balance(128, HEAVY) > 0.1
    clock.now_s += 0.01
    assert cache.balance(1, LIGHT) == 0.0
    clock.now_s += 0.01
    assert cache.balance(0, HEAVY) > 0.05


def test_two_heavy_dirtiers_pay_each_for_themselves() -> None:
    cache, clock = throttled_cache()
    first = cache.balance(128, HEAVY)
    second = cache.balance(128, LIGHT)
    assert first == second
    clock.now_s += first
    assert cache.balance(0, HEAVY) == cache.balance(0, LIGHT) == 0.0


def test_threads_that_owe_nothing_are_forgotten() -> None:
    cache, clock = throttled_cache()
    for pid in range(3 * MAX_DIRTIERS):
        clock.now_s += 1.0
        cache.balance(1, pid)
    cache.balance(128, HEAVY)
    clock.now_s += 0.01
    for pid in range(MAX_DIRTIERS, 3 * MAX_DIRTIERS):
        cache.balance(0, pid)
    assert cache.balance(0, HEAVY) > 0.05
    assert len(cache._dirtiers) <= MAX_DIRTIERS + 1
