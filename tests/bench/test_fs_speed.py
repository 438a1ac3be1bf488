"""The mount beside a plain fusepy loopback and the raw directory, in one run.

Ratios are what counts: machines differ. ``pytest tests/bench/test_fs_speed.py -m slow -s``.
"""
# ruff: noqa: T201, PTH116, C901

import itertools
import mmap
import os
import statistics
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

SEQUENTIAL_BYTES = 64 << 20
NR_RANDOM = 500
NR_FILES = 200
NR_ROUNDS = 7


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


def rows(folder: Path) -> dict[str, Callable[[], None]]:
    """Return what each row of the table does in a directory."""
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

    numbers = itertools.count()

    def create() -> None:  # new ones each time: ext4 passes over inodes that were deleted just before, slowly
        for number in itertools.islice(numbers, NR_FILES):
            os.close(os.open(folder / f"file-{number}", os.O_CREAT | os.O_WRONLY))

    def stat_all() -> None:
        for number in range(NR_FILES):
            os.stat(folder / f"file-{number}")

    write_sequential()
    create()
    direct = os.O_DIRECT
    return {
        "sequential write+fsync": write_sequential,
        "sequential read": read_sequential,
        "4 KiB random read": each_random(lambda fd, at: os.pread(fd, 4096, at), os.O_RDONLY, NR_RANDOM),
        "4 KiB O_DIRECT read": each_random(lambda fd, at: os.preadv(fd, [page], at), os.O_RDONLY | direct, NR_RANDOM),
        "4 KiB O_DIRECT write": each_random(lambda fd, at: os.pwritev(fd, [page], at), os.O_WRONLY | direct, NR_RANDOM),
        "4 KiB random write": each_random(lambda fd, at: os.pwrite(fd, page[:], at), os.O_WRONLY, NR_RANDOM),
        "4 KiB write+fsync": each_random(write_and_sync, os.O_WRONLY, 50),
        "create": create,
        "stat": stat_all,
    }


def remove_sequential(folder: Path) -> None:
    (folder / "sequential").unlink()


BEFORE: dict[str, Callable[[Path], object]] = {
    "sequential write+fsync": remove_sequential,
    "sequential read": lambda _folder: drop_caches(),
    "4 KiB random read": lambda _folder: drop_caches(),
    "stat": lambda _folder: time.sleep(1.1),  # past the attribute timeout of all of them
}


def test_ahead_of_the_loopback(tmp_path: Path) -> None:
    """Measure in turns, several rounds of each row: whatever else the machine does meets all of them."""
    raw_folder = tmp_path / "raw"
    raw_folder.mkdir()
    with loopback(tmp_path) as folder, temporary_mount("disk", store_dir=tmp_path / "store") as mounted:
        folders = (raw_folder, folder, mounted.path)
        calls = [rows(each) for each in folders]
        print(f"\n{'row':<24}{'raw ms':>9}{'loopback':>10}{'fremap':>9}{'x raw':>8}{'x loopback':>12}{'fastest':>10}")
        ratios: dict[str, tuple[float, float]] = {}
        for name in calls[0]:
            rounds = []
            for _ in range(NR_ROUNDS):
                seconds = []
                for each, call in zip(folders, calls, strict=True):
                    BEFORE.get(name, str)(each)
                    seconds.append(timed(call[name]))
                rounds.append(seconds)
            raw_s, peer_s, ours_s = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(ours / peer for _, peer, ours in rounds)
            fastest = min(row[2] for row in rounds) / min(row[1] for row in rounds)
            ratios[name] = ratio, fastest
            to_raw = statistics.median(ours / raw for raw, _, ours in rounds)
            print(
                f"{name:<24}{raw_s * 1e3:>9.1f}{peer_s * 1e3:>10.1f}{ours_s * 1e3:>9.1f}"
                f"{to_raw:>8.2f}{ratio:>12.2f}{fastest:>10.2f}"
            )
    # A busy machine only ever adds: a row is slower if its median and its fastest round both are.
    slower = [name for name, both in ratios.items() if min(both) > 1.25]
    assert not slower, f"slower than the loopback: {slower}"
