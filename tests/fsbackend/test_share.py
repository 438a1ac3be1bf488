"""The mounts of one user share the machine's dirty limit: what each must know of the others."""

from pathlib import Path

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.flusher import Flusher
from fsbackend.share import ALONE, Others, SharedLimit
from fsbackend.storeio import StoreIo
from fsbackend.throttle import DirtyParams


def test_each_learns_of_the_others(tmp_path: Path) -> None:
    one, two, three = (SharedLimit(tmp_path / "dirty-limit") for _ in range(3))
    assert one.exchange(0, 100.0, 0) == ALONE
    assert one.exchange(10, 300.0, 5) == ALONE
    assert two.exchange(0, 50.0, 20) == Others(10, 50 / 350, 5)
    assert three.exchange(7, 100.0, 0) == Others(10, 0.25, 25)
    assert one.exchange(10, 300.0, 5) == Others(7, 0.75, 20)
    two.close()
    assert one.exchange(10, 300.0, 5) == Others(7, 0.75, 0)
    three.close()
    assert one.exchange(10, 300.0, 5) == ALONE
    one.close()


def test_a_limit_in_bytes_is_shared_with_nobody(tmp_path: Path) -> None:
    other = SharedLimit(tmp_path / "dirty-limit")
    other.exchange(10, 100.0, 40)
    for params, reserved in ((DirtyParams(), 40), (DirtyParams(dirty_bytes=1 << 20), 0)):
        bdi = BackingDevInfo("test", parse_caps("disk"), params, min_ratio=15)
        own = SharedLimit(tmp_path / "dirty-limit")
        flusher = Flusher(Cache(bdi, StoreIo()))
        flusher.share_with = own.exchange
        flusher.refresh_limits()
        assert bdi.others_min_ratio == reserved
        assert other.exchange(10, 100.0, 40).min_ratio == (15 if reserved else 0)
        own.close()
    other.close()
