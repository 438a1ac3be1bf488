"""Power cuts: what was acknowledged is there, what was not is as the user chose, and the mount serves on."""

import mmap
import time
from collections.abc import Callable

import pytest

from fsbackend.mount import MountError, TemporaryMount, power_cut
from fsbackend.throttle import DirtyParams
from tests.fuse.cuts import committed_and_found, cut_many_times, write_synced

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=16 << 10, dirty_bytes=64 << 20, expire_s=0.02, periodic_s=0.01)
LAZY = DirtyParams(expire_s=3600, periodic_s=3600)

MakeMount = Callable[..., TemporaryMount]


@pytest.mark.parametrize("params", [BUSY, LAZY], ids=["flushed", "cached"])
def test_unsynced_bytes_are_undone(make_mount: MakeMount, params: DirtyParams) -> None:
    mounted = make_mount("disk", params=params, power_cut=True)
    path = mounted.path / "file"
    write_synced(path, b"durable!" * 2048)
    with path.open("r+b") as file:
        file.write(b"UNSYNCED" * 4096)
        file.flush()
        if params is BUSY:
            while mounted.stats()["nr_dirty"] or mounted.stats()["nr_writeback"]:
                time.sleep(0.01)
            assert (mounted.store / "file").read_bytes() == b"UNSYNCED" * 4096
        (told,) = mounted.unsynced()
        pages = (0, 8) if params is BUSY else (8, 0)  # of which 4 are behind the durable end
        assert (told["path"], told["dirty_pages"], told["unconfirmed_pages"]) == ("file", *pages)
        mounted.power_cut()
        assert path.read_bytes() == b"durable!" * 2048
    assert (mounted.store / "file").read_bytes() == b"durable!" * 2048
    assert mounted.unsynced() == []
    write_synced(path, b"again")
    assert path.read_bytes()[:5] == b"again"


def test_what_has_no_name_is_not_told(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True)
    with (mounted.path / "gone").open("wb") as file:
        file.write(b"x" * 50_000)
        file.flush()
        (mounted.path / "gone").unlink()
        while mounted.stats()["nr_dirty"] or mounted.stats()["nr_writeback"]:
            time.sleep(0.01)
        assert mounted.unsynced() == []


def test_sync_confirms_what_the_flusher_wrote(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True)
    path = mounted.path / "file"
    path.write_bytes(b"x" * 50_000)
    while mounted.stats()["nr_dirty"] or mounted.stats()["nr_writeback"]:
        time.sleep(0.01)
    mounted.inject("store.fsync error=EIO")
    with pytest.raises(OSError, match="Input/output error"):
        mounted.set_control("sync", "1")
    mounted.inject("clear")
    assert [row["path"] for row in mounted.unsynced()] == ["file"]
    mounted.set_control("sync", "1")
    assert mounted.unsynced() == []
    mounted.power_cut()
    assert path.read_bytes() == b"x" * 50_000


def test_survive_all_and_a_seed(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, power_cut=True)
    path = mounted.path / "file"
    old, new = b"o" * 4096 * 64, b"n" * 4096 * 64
    write_synced(path, old)
    with path.open("r+b") as file:
        file.write(new)
    mounted.power_cut("all")
    assert path.read_bytes() == new
    write_synced(path, old)
    with path.open("r+b") as file:
        file.write(new)
    mounted.power_cut("7")
    pages = {bytes(path.read_bytes()[start : start + 4096]) for start in range(0, len(old), 4096)}
    assert pages == {b"o" * 4096, b"n" * 4096}, "some survive, some do not, and no page is torn"


def test_a_truncation_is_undone_as_a_whole(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True)
    path = mounted.path / "file"
    for survive in ("none", "1", "2", "3", "4"):
        write_synced(path, b"o" * 50_000)
        path.write_bytes(b"n" * 30_000)
        mounted.power_cut(survive)
        data = path.read_bytes()
        if survive == "none":
            assert data == b"o" * 50_000
        assert data == b"o" * 50_000 or b"o" not in data


def test_bytes_stored_through_a_mapping_are_lost_too(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, power_cut=True)
    path = mounted.path / "file"
    write_synced(path, b"a" * 8192)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[:5] = b"never"
        mounted.power_cut()
        assert mapped[:5] == b"aaaaa"
        mapped[:5] = b"after"
        with pytest.raises(OSError, match="Input/output error"):
            mapped.flush()  # which would promise what was stored before the cut, too
        mapped.flush()
    mounted.power_cut()
    assert path.read_bytes()[:6] == b"aftera"


def test_a_lying_fsync_loses_what_it_acknowledged(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, power_cut=True)
    path = mounted.path / "file"
    write_synced(path, b"one")
    mounted.inject("store.fsync path=file lie")
    write_synced(path, b"two")
    mounted.power_cut()
    assert path.read_bytes() == b"one"


def test_a_rule_cuts_at_the_nth_sync(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=LAZY, power_cut=True)
    path = mounted.path / "file"
    write_synced(path, b"first")
    mounted.inject("store.fsync nth=2 cut=none")
    write_synced(path, b"again")
    with pytest.raises(OSError, match="Input/output error"):
        write_synced(path, b"never")
    while mounted.control("power_cut") != "1\n":
        time.sleep(0.01)
    assert path.read_bytes() == b"again"


def test_a_mount_without_pre_images_says_so(make_mount: MakeMount) -> None:
    mounted = make_mount("disk")
    with pytest.raises(MountError, match="--power-cut"):
        mounted.power_cut()
    with pytest.raises(ValueError, match="none, all or a seed"):
        power_cut(mounted.path, "some")


def test_a_cut_meets_files_that_are_being_closed(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True)
    for number in range(200):
        for name in "abcdef":
            (mounted.path / name).write_bytes(b"x" * 20_000)
        mounted.power_cut(str(number))


@pytest.mark.parametrize("params", [BUSY, LAZY], ids=["flushed", "cached"])
def test_five_hundred_cuts(make_mount: MakeMount, params: DirtyParams) -> None:
    cut_many_times(make_mount("disk", params=params, power_cut=True), 500, 3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_cuts(make_mount: MakeMount) -> None:
    cut_many_times(make_mount("disk", params=BUSY, power_cut=True), 10_000, 4)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_keeps_what_it_committed(make_mount: MakeMount, mode: str) -> None:
    mounted = make_mount("disk", params=BUSY, power_cut=True)
    for nr_committed, nr_found, check in committed_and_found(mounted, mode, 8):
        assert nr_found >= nr_committed
        assert check == "ok"


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_on_a_lying_disk_loses_commits(make_mount: MakeMount, mode: str) -> None:
    mounted = make_mount("disk", params=LAZY, power_cut=True, inject=["store.fsync lie"])
    assert any(found < committed for committed, found, _ in committed_and_found(mounted, mode, 8))
