"""Reordered writeback: between fsyncs the store's pages persist in any order; a barrier makes all of them durable."""

import contextlib
import os
import time
from collections.abc import Callable

import pytest

from fsbackend.inject import parse_rule
from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams
from tests.fuse.cuts import committed_and_found, cut_many_times, write_synced
from tests.fuse.exerciser import exercise

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=16 << 10, dirty_bytes=64 << 20, expire_s=0.02, periodic_s=0.01)
LAZY = DirtyParams(expire_s=3600, periodic_s=3600)
NR_PAGES = 200

MakeMount = Callable[..., TemporaryMount]


def wait_until_written(mounted: TemporaryMount) -> None:
    until_s = time.monotonic() + 20
    while mounted.stats()["nr_dirty"] or mounted.stats()["nr_writeback"]:
        assert time.monotonic() < until_s, "the flusher does not write"
        time.sleep(0.01)


def pages_there(mounted: TemporaryMount) -> list[int]:
    """Return which pages of the store's file hold what was written."""
    data = (mounted.store / "file").read_bytes()
    assert len(data) == NR_PAGES * 4096, "the size is there at once"
    return [number for number in range(NR_PAGES) if data[number * 4096] == number % 255 + 1]


def write_pages(mounted: TemporaryMount) -> int:
    fd = os.open(mounted.path / "file", os.O_CREAT | os.O_RDWR)
    for number in range(NR_PAGES):
        os.pwrite(fd, bytes([number % 255 + 1]) * 4096, number * 4096)
    return fd


def test_pages_persist_in_any_order(make_mount: MakeMount) -> None:
    found = []
    for seed in range(3):
        mounted = make_mount("disk", params=LAZY, seed=seed, inject=["store.write reorder"])
        fd = write_pages(mounted)
        try:
            mounted.set_control("dirty_background_bytes", "4096")
            mounted.set_control("dirty_writeback_centisecs", "1")
            mounted.set_control("dirty_expire_centisecs", "0")
            wait_until_written(mounted)
            there = pages_there(mounted)
            found.append(there)
            want = b"".join(bytes([number % 255 + 1]) * 4096 for number in range(NR_PAGES))
            assert os.pread(fd, NR_PAGES * 4096, 0) == want, "the mount serves what the disk has not written"
            os.fsync(fd)
            assert len(pages_there(mounted)) == NR_PAGES
        finally:
            os.close(fd)
    assert any(there != list(range(len(there))) for there in found), "they went in file order"
    assert found[0] != found[1] or found[1] != found[2]


def test_a_crash_finds_a_later_write_without_an_earlier_one(make_mount: MakeMount) -> None:
    """Records are written, then marks that they are complete, without a barrier between: some marks are alone."""
    nr_records, page = 20, 4096
    mounted = make_mount("disk", params=BUSY, inject=["store.write reorder"])
    path = mounted.path / "file"
    write_synced(path, bytes(2 * nr_records * page))
    fd = os.open(path, os.O_RDWR)
    try:
        for number in range(nr_records):
            os.pwrite(fd, b"record", 2 * number * page)
            wait_until_written(mounted)
            os.pwrite(fd, b"mark", (2 * number + 1) * page)
        wait_until_written(mounted)
    finally:
        mounted.kill()
        with contextlib.suppress(OSError):  # ENOTCONN
            os.close(fd)
    data = (mounted.store / "file").read_bytes()
    marks = [data[(2 * number + 1) * page] != 0 for number in range(nr_records)]
    records = [data[2 * number * page] != 0 for number in range(nr_records)]
    assert any(mark and not record for mark, record in zip(marks, records, strict=True))
    assert any(records)


def test_reordered_is_lost_by_a_cut_and_kept_by_a_barrier(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True, inject=["store.write reorder"])
    path = mounted.path / "file"
    write_synced(path, b"durable!" * 2048)
    with path.open("r+b") as file:
        file.write(b"UNSYNCED" * 4096)
        file.flush()
        wait_until_written(mounted)
        mounted.power_cut()
        assert path.read_bytes() == b"durable!" * 2048
    path.write_bytes(b"again" * 5000)
    wait_until_written(mounted)
    mounted.set_control("sync", "1")
    mounted.power_cut()
    assert path.read_bytes() == b"again" * 5000
    assert (mounted.store / "file").read_bytes() == b"again" * 5000


def test_rules_that_cannot_be(make_mount: MakeMount) -> None:
    mounted = make_mount("disk")
    with pytest.raises(ValueError, match=r"reorder is for store\.write only"):
        mounted.inject("store.fsync reorder")
    with pytest.raises(ValueError, match=r"lie is for store\.fsync only"):
        mounted.inject("fsync lie")
    with pytest.raises(ValueError, match="1 to 1048576 pages"):
        mounted.inject("store.write reorder=0")
    mounted.inject("store.write path=*.db p=0.5 reorder=64", "reorder=8 path=*.wal", "lie path=data")
    assert "reorder=64" in mounted.control("inject")
    assert parse_rule("reorder=8 path=*.wal").ops == {"store.write"}
    assert parse_rule("lie path=data").ops == {"store.fsync"}


@pytest.mark.parametrize("rule", ["store.write reorder", "store.write p=0.5 reorder=4"])
def test_exercise(make_mount: MakeMount, rule: str) -> None:
    exercise(make_mount("disk", params=BUSY, power_cut=True, inject=[rule]), 21, 500)


def test_exercise_a_direct_store(make_mount: MakeMount) -> None:
    exercise(make_mount("disk", params=BUSY, direct=True, inject=["store.write reorder=16"]), 22, 400)


@pytest.mark.parametrize("rule", ["store.write reorder", "store.write p=0.5 reorder=4"])
def test_cuts(make_mount: MakeMount, rule: str) -> None:
    cut_many_times(make_mount("disk", params=BUSY, power_cut=True, inject=[rule]), 50, 5)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_keeps_what_it_committed(make_mount: MakeMount, mode: str) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True, inject=["store.write reorder"])
    for nr_committed, nr_found, check in committed_and_found(mounted, mode, 5):
        assert nr_found >= nr_committed
        assert check == "ok"
