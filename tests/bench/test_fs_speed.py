"""The mount beside a plain fusepy loopback, peers in C and C++, and the raw directory, in one run.

Ratios are what counts: machines differ. ``pytest tests/bench/test_fs_speed.py -m slow -s``. A peer that the machine
does not have is left out, with the reason.
"""
# ruff: noqa: T201, PTH116, C901

import itertools
import math
import mmap
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fsbackend.mount import temporary_mount
from tests.bench.fs_peers import PEERS, Missing, peer

pytestmark = [pytest.mark.fuse, pytest.mark.bench, pytest.mark.slow]

SEQUENTIAL_BYTES = 64 << 20
NR_RANDOM = 500
NR_FILES = 200
NR_ROUNDS = 7
RAW, PEER, OURS = "raw", "fusepy loopback", "fremap"


def drop_caches() -> None:
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pytest.skip("dropping caches needs root")


def timed(call: Callable[[], object], *, may_refuse: bool) -> float:
    """Return the seconds that a call takes; nan if a peer refuses it."""
    start_s = time.perf_counter()
    try:
        call()
    except OSError:
        if not may_refuse:
            raise
        return math.nan
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


Seconds = dict[str, list[float]]
"""Of each place, the seconds of each round."""


def measure(places: dict[str, Path]) -> dict[str, Seconds]:
    """Measure every row in turns, several rounds: whatever else the machine does meets all of them."""
    calls = {place: rows(folder) for place, folder in places.items()}
    found: dict[str, Seconds] = {}
    for row in calls[RAW]:
        seconds: Seconds = {place: [] for place in places}
        for _ in range(NR_ROUNDS):
            for place, folder in places.items():
                BEFORE.get(row, str)(folder)
                seconds[place].append(timed(calls[place][row], may_refuse=place not in {RAW, PEER, OURS}))
        found[row] = seconds
    return found


def ratio(seconds: Seconds, one: str, other: str) -> float:
    """Return how much longer one place takes than another, the median of the rounds."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def show(found: dict[str, Seconds], places: list[str]) -> None:
    """Print one table: milliseconds on the raw directory, and how much longer each mount takes."""
    print(f"\n{'times the raw directory takes':<26}{'raw ms':>9}" + "".join(f"{place:>17}" for place in places))
    for row, seconds in found.items():
        ratios = [ratio(seconds, place, RAW) for place in places]
        cells = "".join(f"{'refused' if math.isnan(each) else f'{each:.2f}':>17}" for each in ratios)
        print(f"{row:<26}{statistics.median(seconds[RAW]) * 1e3:>9.1f}{cells}")


def test_ahead_of_the_loopback(tmp_path: Path) -> None:
    """Every row at least as fast as a loopback in the same language; the peers in C and C++ are shown beside it."""
    places = {RAW: tmp_path / "raw"}
    places[RAW].mkdir()
    with ExitStack() as stack:
        for name in PEERS:
            try:
                places[name] = stack.enter_context(peer(name, tmp_path))
            except Missing as why:
                print(f"\n{name}: left out, {why}")
        mounted = stack.enter_context(temporary_mount("disk", store_dir=tmp_path / "store"))
        places[OURS] = mounted.path
        found = measure(places)
    show(found, [place for place in places if place != RAW])
    slower = []
    for row, seconds in found.items():
        # A busy machine only ever adds: a row is slower if its median and its fastest round both are.
        fastest = min(seconds[OURS]) / min(seconds[PEER])
        if min(ratio(seconds, OURS, PEER), fastest) > 1.25:
            slower.append(row)
    assert not slower, f"slower than the loopback: {slower}"
