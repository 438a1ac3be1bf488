"""The mount beside a plain fusepy loopback and the raw directory, in one run.

Ratios are what counts: machines differ. ``pytest tests/bench/test_fs_speed.py -m slow -s``.
"""
# ruff: noqa: T201, PTH116, C901

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fsbackend.mount import temporary_mount
from fsbackend.state import kernel_unmount

pytestmark = [pytest.mark.fuse, pytest.mark.bench, pytest.mark.slow]

SEQUENTIAL_BYTES = 128 << 20
NR_RANDOM = 2_000
NR_FILES = 500


@contextmanager
def loopback(base: Path) -> Iterator[Path]:
    root, mountpoint = base / "loop-root", base / "loop-mnt"
    root.mkdir()
    mountpoint.mkdir()
    peer = Path(__file__).with_name("loopback.py")
    process = subprocess.Popen([sys.executable, str(peer), str(root), str(mountpoint)])
    try:
        until_s = time.monotonic() + 20
        while not os.path.ismount(mountpoint):
            assert time.monotonic() < until_s, "the loopback did not come up"
            time.sleep(0.02)
        yield mountpoint
    finally:
        kernel_unmount(str(mountpoint), lazy=True)
        process.wait(20)


def drop_caches() -> None:
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pytest.skip("dropping caches needs root")


def timed(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def rows(folder: Path) -> dict[str, float]:
    """Measure each row in a directory; seconds."""
    block = os.urandom(1 << 20)
    path = folder / "sequential"

    def write_sequential() -> None:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        for _ in range(SEQUENTIAL_BYTES >> 20):
            os.write(fd, block)
        os.fsync(fd)
        os.close(fd)

    def read_sequential() -> None:
        fd = os.open(path, os.O_RDONLY)
        while os.read(fd, 1 << 20):
            pass
        os.close(fd)

    def each_random(call: Callable[[int, int], object], flags: int, count: int) -> Callable[[], None]:
        def run() -> None:
            fd = os.open(path, flags)
            for number in range(count):
                call(fd, number * 7919 % (SEQUENTIAL_BYTES >> 12) << 12)
            os.close(fd)

        return run

    page = mmap.mmap(-1, 4096)

    def write_and_sync(fd: int, offset: int) -> None:
        os.pwrite(fd, page[:], offset)
        os.fdatasync(fd)

    def create() -> None:
        for number in range(NR_FILES):
            os.close(os.open(folder / f"file-{number}", os.O_CREAT | os.O_WRONLY))

    def stat_all() -> None:
        for number in range(NR_FILES):
            os.stat(folder / f"file-{number}")

    write_sequential()  # memory and the filesystem's journal are warm for all three
    path.unlink()
    result = {"sequential write+fsync": timed(write_sequential)}
    drop_caches()
    result["sequential read"] = timed(read_sequential)
    drop_caches()
    result["4 KiB random read"] = timed(each_random(lambda fd, at: os.pread(fd, 4096, at), os.O_RDONLY, NR_RANDOM))
    result["4 KiB O_DIRECT read"] = timed(
        each_random(lambda fd, at: os.preadv(fd, [page], at), os.O_RDONLY | os.O_DIRECT, NR_RANDOM)
    )
    result["4 KiB O_DIRECT write"] = timed(
        each_random(lambda fd, at: os.pwritev(fd, [page], at), os.O_WRONLY | os.O_DIRECT, NR_RANDOM)
    )
    result["4 KiB random write"] = timed(each_random(lambda fd, at: os.pwrite(fd, page[:], at), os.O_WRONLY, NR_RANDOM))
    result["4 KiB write+fsync"] = timed(each_random(write_and_sync, os.O_WRONLY, 100))
    result["create"] = timed(create)
    time.sleep(1.1)  # past the attribute timeout of all of them
    result["stat"] = timed(stat_all)
    return result


def test_ahead_of_the_loopback(tmp_path: Path) -> None:
    raw_folder = tmp_path / "raw"
    raw_folder.mkdir()
    raw = rows(raw_folder)
    with loopback(tmp_path) as folder:
        peer = rows(folder)
    with temporary_mount("disk", store_dir=None) as mounted:
        ours = rows(mounted.path)
    print(f"\n{'row':<24}{'raw s':>9}{'loopback':>10}{'fremap':>9}{'x raw':>8}{'x loopback':>12}")
    for name, seconds in ours.items():
        print(
            f"{name:<24}{raw[name]:>9.3f}{peer[name]:>10.3f}{seconds:>9.3f}"
            f"{seconds / raw[name]:>8.2f}{seconds / peer[name]:>12.2f}"
        )
    slower = [name for name, seconds in ours.items() if seconds > 1.25 * peer[name]]
    assert not slower, f"slower than the loopback: {slower}"
