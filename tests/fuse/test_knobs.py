"""Every knob in ``.bdi`` is changed while the mount serves, and has its effect at once."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import MountError, TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

MakeMount = Callable[..., TemporaryMount]
LAZY = DirtyParams(expire_s=3600, periodic_s=3600)
MIB = 1 << 20


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until_s, what
        time.sleep(0.02)


def test_every_knob_shows_what_was_written(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY)
    for name, value in (
        ("max_ratio", "80"),
        ("min_ratio", "7"),
        ("strict_limit", "1"),
        ("dirty_background_ratio", "3"),
        ("dirty_ratio", "9"),
        ("dirty_background_bytes", "4096000"),
        ("dirty_bytes", "8192000"),
        ("dirty_expire_centisecs", "1234"),
        ("dirty_writeback_centisecs", "77"),
    ):
        mounted.set_control(name, value + "\n")
        assert mounted.control(name) == value + "\n"
    for name, wrong in (
        ("max_ratio", "6"),
        ("min_ratio", "81"),
        ("strict_limit", "2"),
        ("dirty_ratio", "101"),
        ("dirty_bytes", "-1"),
        ("dirty_expire_centisecs", "soon"),
    ):
        before = mounted.control(name)
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
            mounted.set_control(name, wrong)
        assert mounted.control("last_error").strip()
        assert mounted.control(name) == before


def test_ratios_move_the_limits(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=DirtyParams(dirty_bytes=64 * MIB, background_bytes=32 * MIB, periodic_s=3600))
    assert mounted.stats()["DirtyThresh"] == 64 << 10
    mounted.set_control("max_ratio", "25")
    assert mounted.stats()["BdiDirtyThresh"] == 16 << 10
    mounted.set_control("dirty_bytes", str(16 * MIB))
    stats = mounted.stats()
    assert (stats["DirtyThresh"], stats["BdiDirtyThresh"]) == (16 << 10, 4 << 10)
    assert stats["BackgroundThresh"] == 8 << 10, "half of the limit, if it does not lie below"
    mounted.set_control("dirty_bytes", "0")
    mounted.set_control("dirty_background_bytes", "0")
    mounted.set_control("dirty_ratio", "40")
    large = mounted.stats()
    mounted.set_control("dirty_ratio", "20")
    assert mounted.stats()["DirtyThresh"] == pytest.approx(large["DirtyThresh"] / 2, rel=0.2)
    mounted.set_control("dirty_background_ratio", "5")
    assert mounted.stats()["BackgroundThresh"] == pytest.approx(large["DirtyThresh"] / 8, rel=0.2)


def test_strict_limit_and_max_ratio_throttle_at_once(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=DirtyParams(dirty_bytes=200 * MIB, background_bytes=100 * MIB))
    path = mounted.path / "file"
    path.write_bytes(bytes(4 * MIB))
    assert mounted.stats()["nr_dirty"] == 1024
    mounted.set_control("strict_limit", "1")
    mounted.set_control("max_ratio", "1")
    with path.open("r+b", buffering=0) as file:
        for _ in range(24):
            file.write(bytes(MIB))
    stats = mounted.stats()
    assert (stats["nr_dirty"] + stats["nr_writeback"]) * 4096 <= 4 * MIB
    mounted.set_control("strict_limit", "0")
    mounted.set_control("max_ratio", "100")
    (mounted.path / "other").write_bytes(bytes(16 * MIB))
    assert mounted.stats()["nr_dirty"] >= 4096


def test_expiry_and_interval(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY)
    (mounted.path / "file").write_bytes(b"x" * 5000)
    time.sleep(0.3)
    assert mounted.stats()["nr_dirty"] == 2
    mounted.set_control("dirty_expire_centisecs", "10")
    mounted.set_control("dirty_writeback_centisecs", "5")
    wait_for(lambda: mounted.stats()["nr_dirty"] == 0, "the flusher keeps to the old interval")
    mounted.set_control("dirty_writeback_centisecs", "0")
    (mounted.path / "file").write_bytes(b"y" * 5000)
    time.sleep(0.4)
    assert mounted.stats()["nr_dirty"] == 2, "an interval of 0 turns periodic writeback off"


def test_each_file_has_its_turn_and_writes_are_large(make_mount: MakeMount) -> None:
    """Pages dirtied in any order go to the store in few writes; of two large files, neither waits for the other."""
    mounted = make_mount("disk", params=LAZY, inject=["store.write p=0 delay=0"])
    pages = [number * 769 % 1024 for number in range(1024)]
    for name in ("one", "two"):
        fd = os.open(mounted.path / name, os.O_CREAT | os.O_RDWR)
        for pgoff in pages:
            os.pwrite(fd, bytes([pgoff % 255 + 1]) * 4096, pgoff * 4096)
        os.close(fd)
    mounted.set_control("sync", "1")
    matched = int(mounted.control("inject").split("matched ")[1].split(",")[0])
    assert matched <= 8, f"{matched} writes for two files of 4 MiB"
    assert (mounted.store / "one").read_bytes() == b"".join(bytes([n % 255 + 1]) * 4096 for n in range(1024))
    mounted.inject("clear")
    for name in ("three", "four"):
        (mounted.path / name).write_bytes(os.urandom(12 * MIB))
    mounted.inject("store.write bandwidth=40M")
    mounted.set_control("dirty_background_bytes", "4096")
    wait_for(lambda: (mounted.store / "four").stat().st_size > 0, "the second file waits")
    assert (mounted.store / "three").stat().st_size < 12 * MIB, "after one batch it is the other's turn"
    mounted.inject("clear")


def test_a_direct_store_is_written_past_the_page_cache(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, direct=True)
    daemon = Path(f"/proc/{mounted.pid}")
    with (mounted.path / "file").open("wb") as file:
        file.write(os.urandom(300_001))
        file.flush()
        os.fsync(file.fileno())
        opened = [each for each in (daemon / "fd").iterdir() if os.readlink(each) == str(mounted.store / "file")]
        texts = [(daemon / "fdinfo" / each.name).read_text() for each in opened]
        flags = [int(text.split("flags:")[1].split()[0], 8) for text in texts]
        assert any(each & os.O_DIRECT for each in flags)
    assert (mounted.store / "file").read_bytes() == (mounted.path / "file").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's own limits need root")
def test_the_kernels_own_limits(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", kernel_max_ratio=50, kernel_strict_limit=False)
    info = mounted.path.stat()
    bdi = Path(f"/sys/class/bdi/{os.major(info.st_dev)}:{os.minor(info.st_dev)}")
    assert (bdi / "max_ratio").read_text() == "50\n"
    assert (bdi / "strict_limit").read_text() == "0\n"
    with pytest.raises(MountError, match="does not take 101"):
        make_mount("disk", kernel_max_ratio=101)
