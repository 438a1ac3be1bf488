"""The flusher, the throttle and the store's errors, on real mounts."""

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable

import pytest

from fsbackend.mount import MountError, TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

MakeMount = Callable[..., TemporaryMount]
LAZY = DirtyParams(expire_s=3600, periodic_s=3600)


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it did not happen in time"
        time.sleep(0.02)


def test_old_data_is_written_after_it_expired(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=DirtyParams(expire_s=0.4, periodic_s=0.1))
    started_s = time.monotonic()
    (mounted.path / "file").write_bytes(b"x" * 8192)
    assert mounted.stats()["nr_dirty"] == 2
    wait_for(lambda: mounted.stats()["nr_dirty"] == 0)
    assert time.monotonic() - started_s >= 0.35
    assert (mounted.store / "file").read_bytes() == b"x" * 8192


def test_background_writeback_stops_at_its_limit(make_mount: MakeMount) -> None:
    params = DirtyParams(background_bytes=1 << 20, dirty_bytes=64 << 20, expire_s=3600, periodic_s=0.1)
    mounted = make_mount("disk", params=params)
    for number in range(16):
        (mounted.path / f"file-{number}").write_bytes(bytes(256 << 10))
    wait_for(lambda: mounted.stats()["nr_dirty"] <= 256)
    time.sleep(0.3)
    assert 0 < mounted.stats()["nr_dirty"] <= 256
    sizes = [(mounted.store / f"file-{number}").stat().st_size for number in range(16)]
    assert sizes == sorted(sizes, reverse=True), "the oldest files go first"


def test_nothing_is_dirty_beyond_the_limit(make_mount: MakeMount) -> None:
    params = DirtyParams(background_bytes=1 << 20, dirty_bytes=4 << 20)
    mounted = make_mount("disk", params=params, inject=["store.write bandwidth=20M"])
    highest, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not stop.is_set():
            stats = mounted.stats()
            highest = max(highest, stats["nr_dirty"] + stats["nr_writeback"])
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with (mounted.path / "file").open("wb", buffering=0) as file:
            started_s = time.monotonic()
            for _ in range(16 << 20 >> 16):
                file.write(bytes(64 << 10))
            took_s = time.monotonic() - started_s
    finally:
        stop.set()
        watcher.join()
    stats = mounted.stats()
    assert highest * 4096 <= (4 << 20) + (2 << 20)
    assert took_s > (16 - 4) / 20 * 0.7, "the writer goes at the disk's speed"
    assert took_s < 16 / 20 * 3
    assert stats["nr_pauses"] > 5


def written_bytes_per_second(mounted: TemporaryMount, nbytes: int) -> float:
    """Write and fsync; return the rate of both together."""
    block = os.urandom(256 << 10)
    fd = os.open(mounted.path / "file", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    try:
        started_s = time.monotonic()
        for _ in range(nbytes // len(block)):
            os.write(fd, block)
        os.fsync(fd)
        return nbytes / (time.monotonic() - started_s)
    finally:
        os.close(fd)


def test_throttling_costs_no_throughput(make_mount: MakeMount) -> None:
    crawl = ["store.write bandwidth=25M"]
    small = DirtyParams(background_bytes=4 << 20, dirty_bytes=16 << 20)
    throttled = make_mount("disk", params=small, inject=crawl)
    free = make_mount("disk", params=DirtyParams(background_bytes=4 << 20, dirty_bytes=1 << 30), inject=crawl)
    for mounted in (throttled, free):
        written_bytes_per_second(mounted, 32 << 20)  # the law learns the store's bandwidth
    ratios = []
    for _ in range(3):
        rate = written_bytes_per_second(throttled, 48 << 20)
        ratios.append(rate / written_bytes_per_second(free, 48 << 20))
        if ratios[-1] >= 0.9:
            break
    assert max(ratios) >= 0.9, f"throttled writers are slower than the store: {ratios}"
    assert free.stats()["nr_pauses"] == 0
    stats = throttled.stats()
    assert stats["nr_pauses"] > 10
    within = sum(stats[f"pauses_{bound}ms"] for bound in (1, 2, 5, 10, 20, 50, 100, 200))
    assert within + stats["pauses_over_200ms"] == stats["nr_pauses"]
    assert within >= 0.9 * stats["nr_pauses"], "pauses keep to their bound, but for a busy machine's delays"


def test_strictlimit_holds_a_mount_to_its_ratio(make_mount: MakeMount) -> None:
    params = DirtyParams(background_bytes=200 << 20, dirty_bytes=400 << 20)
    mounted = make_mount("strict", params=params)
    assert mounted.stats()["BdiDirtyThresh"] == 4 << 10
    with (mounted.path / "file").open("wb") as file:
        for _ in range(32):
            file.write(bytes(1 << 20))
            file.flush()
            stats = mounted.stats()
            assert (stats["nr_dirty"] + stats["nr_writeback"]) * 4096 <= 6 << 20


def test_mounts_share_the_limit(make_mount: MakeMount) -> None:
    one, two = make_mount("disk", params=LAZY), make_mount("disk", params=LAZY)
    (one.path / "file").write_bytes(bytes(4 << 20))
    wait_for(lambda: two.stats()["OthersDirty"] >= 4 << 10)
    alone = two.stats()["DirtyThresh"]
    (two.path / "file").write_bytes(bytes(1 << 20))
    wait_for(lambda: one.stats()["OthersDirty"] >= 1 << 10)
    stats = one.stats()
    assert stats["BdiDirtyThresh"] < 0.9 * stats["DirtyThresh"]
    assert stats["DirtyThresh"] > 0.8 * alone
    one.umount()
    wait_for(lambda: two.stats()["OthersDirty"] < 4 << 10)


def test_limits_change_live(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY)
    (mounted.path / "file").write_bytes(bytes(4 << 20))
    assert mounted.stats()["nr_dirty"] == 1024
    mounted.set_control("dirty_background_bytes", str(1 << 20))
    wait_for(lambda: mounted.stats()["nr_dirty"] <= 256)


def test_an_error_reaches_each_descriptor_once(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, inject=["store.write nth=1 error=EIO"])
    path = mounted.path / "file"
    fds = [os.open(path, os.O_CREAT | os.O_RDWR) for _ in range(3)]
    try:
        os.write(fds[0], b"precious")
        for fd in fds[:2]:
            with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
                os.fsync(fd)
        for fd in fds[:2]:
            os.fsync(fd)
        assert (mounted.store / "file").read_bytes() == b"precious", "the page stayed dirty and was tried again"
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
            os.close(fds.pop())
    finally:
        for fd in fds:
            os.close(fd)
    late = os.open(path, os.O_RDWR)
    os.fsync(late)
    os.close(late)


def test_the_flusher_tries_again(make_mount: MakeMount) -> None:
    params = DirtyParams(expire_s=0.05, periodic_s=0.05)
    mounted = make_mount("disk", params=params, inject=["store.write times=3 error=ENOSPC"])
    (mounted.path / "file").write_bytes(b"x" * 5000)
    wait_for(lambda: (mounted.store / "file").stat().st_size == 5000)
    assert mounted.stats()["nr_errors"] == 3


def test_an_unmount_that_cannot_write_back_fails(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, inject=["store.write error=EIO"])
    (mounted.path / "stuck").write_bytes(b"x" * 5000)
    with pytest.raises(MountError, match=r"stuck: Input/output error, 2 pages not written"):
        mounted.umount()
    assert (mounted.path / "stuck").read_bytes() == b"x" * 5000
    mounted.inject("clear")
    mounted.umount()
    assert (mounted.store / "stuck").read_bytes() == b"x" * 5000


def test_faults_of_calls(make_mount: MakeMount) -> None:
    mounted = make_mount("disk")
    mounted.inject("mkdir path=bad* error=EDQUOT", "open path=*.slow delay=0.3", "unlink nth=2 error=EROFS")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EDQUOT):
        (mounted.path / "bad-1").mkdir()
    (mounted.path / "good").mkdir()
    path = mounted.path / "x.slow"
    path.touch()
    started_s = time.monotonic()
    path.read_bytes()
    assert time.monotonic() - started_s >= 0.3
    for name in ("one", "two"):
        (mounted.path / name).touch()
    (mounted.path / "one").unlink()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EROFS):
        (mounted.path / "two").unlink()
    assert "fired 1" in mounted.control("inject")
    with pytest.raises(ValueError, match="no operation"):
        mounted.inject("fly error=EIO")


def test_a_torn_write_is_mended_by_the_next_try(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, inject=["store.write nth=1 torn"])
    with (mounted.path / "file").open("wb") as file:
        file.write(os.urandom(50_000))
        file.flush()
        with pytest.raises(OSError, match="Input/output error"):
            os.fsync(file.fileno())
        assert (mounted.store / "file").stat().st_size < 50_000
        os.fsync(file.fileno())
    assert (mounted.store / "file").read_bytes() == (mounted.path / "file").read_bytes()


def test_stable_pages_do_not_change_under_writeback(make_mount: MakeMount) -> None:
    mounted = make_mount("disk,stable_writes", params=LAZY, inject=["store.write nth=1 delay=0.4"])
    path = mounted.path / "file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"a" * 4096)
    syncer = threading.Thread(target=lambda: mounted.set_control("sync", "1"))
    syncer.start()
    try:
        wait_for(lambda: mounted.stats()["nr_writeback"] == 1)
        started_s = time.monotonic()
        os.pwrite(fd, b"b" * 4096, 0)
        assert time.monotonic() - started_s > 0.1, "the writer waits for the page"
        assert (mounted.store / "file").read_bytes() == b"a" * 4096
    finally:
        syncer.join()
        os.close(fd)


@pytest.mark.disk
def test_a_full_store_refuses_before_it_loses(small_disk: str, make_mount: MakeMount) -> None:
    mounted = make_mount("disk", store_dir=small_disk, params=LAZY)
    accepted = 0
    fd = os.open(mounted.path / "file", os.O_CREAT | os.O_RDWR)
    try:
        refused = 0
        while accepted < 64 << 20 and not refused:
            try:
                accepted += os.write(fd, b"x" * (64 << 10))
            except OSError as error:
                refused = error.errno or 0
        assert refused == errno.ENOSPC
        os.fsync(fd)
    finally:
        os.close(fd)
    assert accepted > 4 << 20
    assert (mounted.store / "file").stat().st_size >= accepted
    mounted.umount()


@pytest.mark.disk
@pytest.mark.parametrize(
    "shape", ["sparse", *(pytest.param(name, marks=pytest.mark.slow) for name in ("many files", "holes", "direct"))]
)
def test_nothing_accepted_is_lost_on_a_full_store(small_disk: str, make_mount: MakeMount, shape: str) -> None:
    """However the room is used up, some write is refused, and what was accepted before is durable after a sync."""
    mounted = make_mount("disk", store_dir=small_disk, params=LAZY, direct=shape == "direct")
    accepted: list[tuple[str, int]] = []
    refused = 0
    if shape == "holes":
        (mounted.path / "file").touch()
        os.truncate(mounted.path / "file", 1 << 30)
    for number in range(8000):
        name, offset = (f"file-{number}", 0) if shape == "many files" else ("file", number * 7919 % 65536 << 14)
        try:
            fd = os.open(mounted.path / name, os.O_CREAT | os.O_WRONLY)
            try:
                os.pwrite(fd, number.to_bytes(8, "little") * 512, offset)
            finally:
                os.close(fd)
        except OSError as error:
            refused = error.errno or 0
            break
        accepted.append((name, offset))
    assert refused == errno.ENOSPC
    assert len(accepted) > 1000
    mounted.umount()
    for number, (name, offset) in enumerate(accepted):
        with (mounted.store / name).open("rb") as file:
            file.seek(offset)
            assert file.read(4096) == number.to_bytes(8, "little") * 512, f"{name} at {offset}"


@pytest.mark.parametrize("caps", ["disk", "ramfs", "disk,stable_writes"])
def test_whole_blocks_are_kept_without_a_copy_and_stay_what_they_were(make_mount: MakeMount, caps: str) -> None:
    """Big aligned writes hand their memory over: later requests must not be read into it."""
    mounted = make_mount(caps)
    blocks = [os.urandom(128 << 10) for _ in range(24)]
    out = mmap.mmap(-1, 128 << 10)
    fd = os.open(mounted.path / "file", os.O_CREAT | os.O_RDWR)
    past_the_kernels_cache = os.open(mounted.path / "file", os.O_RDONLY | os.O_DIRECT)
    for turn in range(3):
        for number, block in enumerate(blocks):
            assert os.pwrite(fd, block, number << 17) == len(block)
            os.pwrite(fd, block[:5000], (number << 17) + 777 * turn)  # into kept memory
        if turn == 1:
            os.fsync(fd)
        for number, block in enumerate(blocks):
            assert os.preadv(past_the_kernels_cache, [out], number << 17) == len(block)
            assert out[:] == block[: 777 * turn] + block[:5000] + block[5000 + 777 * turn :]
    os.close(past_the_kernels_cache)
    os.close(fd)
