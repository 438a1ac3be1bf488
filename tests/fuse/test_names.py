"""Power cuts and names: with metadata, what no barrier confirmed is undone, and a prefix of it may survive."""

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=16 << 10, dirty_bytes=64 << 20, expire_s=0.02, periodic_s=0.01)
MakeMount = Callable[..., TemporaryMount]


@pytest.fixture
def mounted(make_mount: MakeMount) -> TemporaryMount:
    return make_mount("disk", params=BUSY, metadata=True)


def fsync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def tree(root: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = b"-> " + os.readlink(os.fsencode(path))
        else:
            found[name] = b"/" if path.is_dir() else path.read_bytes()
    return found


def test_unsynced_names_are_undone(mounted: TemporaryMount) -> None:
    root = mounted.path
    (root / "old").write_bytes(b"old")
    (root / "gone").write_bytes(b"gone")
    (root / "over").write_bytes(b"over")
    (root / "folder" / "empty").mkdir(parents=True)
    (root / "folder" / "moved").write_bytes(b"moved")
    mounted.set_control("sync", "1")
    before = tree(root)
    (root / "new").write_bytes(b"new")
    (root / "new folder").mkdir()
    (root / "new folder" / "inside").write_bytes(b"inside")
    os.link(root / "old", root / "hard")
    os.symlink("old", root / "soft")
    os.mkfifo(root / "fifo")
    with (root / "gone").open("r+b") as file:
        file.write(b"GONE")
    (root / "gone").unlink()
    (root / "folder" / "empty").rmdir()
    (root / "folder" / "moved").rename(root / "over")
    (root / "folder").rename(root / "new folder" / "folder")
    kinds = [row["name"] for row in mounted.unsynced() if "name" in row]
    assert {kind: kinds.count(kind) for kind in kinds} == {"created": 6, "removed": 2, "renamed": 2}
    mounted.power_cut()
    assert tree(root) == before
    assert (root / "old").stat().st_nlink == 1
    assert mounted.unsynced() == []
    assert set(os.listdir(mounted.store)) - {".fremap-journal"} == {"old", "gone", "over", "folder"}
    (root / "new").write_bytes(b"it serves on")
    fsync_dir(root)
    mounted.umount()
    assert (mounted.store / "new").read_bytes() == b"it serves on"
    assert not (mounted.store / ".fremap-journal").exists()


def test_a_barrier_confirms_names(mounted: TemporaryMount) -> None:
    root = mounted.path
    (root / "a").write_bytes(b"")
    fsync_dir(root)
    (root / "b").write_bytes(b"")
    mounted.power_cut()
    assert os.listdir(root) == ["a"]
    mounted.inject("store.fsync lie")
    (root / "c").write_bytes(b"")
    fsync_dir(root)
    mounted.power_cut()
    assert os.listdir(root) == ["a"], "the disk lied"


def test_the_barrier_of_an_unchanged_file_confirms_no_names(mounted: TemporaryMount) -> None:
    root = mounted.path
    for name in ("name", "new", "other"):
        (root / name).write_text(name)
    mounted.set_control("sync", "1")
    (root / "new").rename(root / "name")
    with (root / "other").open("rb") as file:
        os.fdatasync(file.fileno())
        os.fsync(file.fileno())
    assert [(row["path"], row["name"]) for row in mounted.unsynced()] == [("name", "renamed")]
    mounted.power_cut()
    assert (root / "name").read_text() == "name"
    assert sorted(os.listdir(root)) == ["name", "new", "other"]


def test_a_removed_open_file_has_no_links(mounted: TemporaryMount) -> None:
    path = mounted.path / "file"
    with path.open("wb") as file:
        file.write(b"x")
        path.unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(mounted.path) == []


def test_a_killed_daemon_undoes_no_names(mounted: TemporaryMount) -> None:
    (mounted.path / "gone").write_bytes(b"x")
    (mounted.path / "gone").unlink()
    (mounted.path / "new").touch()
    mounted.kill()
    assert (mounted.store / ".fremap-journal").is_dir()
    mounted.remount()
    assert os.listdir(mounted.path) == ["new"]
    mounted.umount()
    assert os.listdir(mounted.store) == ["new"]


def test_what_survives_is_a_prefix(mounted: TemporaryMount) -> None:
    root = mounted.path
    counts = set()
    for seed in range(12):
        for number in range(10):
            (root / f"{number}").touch()
        mounted.power_cut(str(seed))
        names = sorted(os.listdir(root))
        assert names == [f"{number}" for number in range(len(names))]
        counts.add(len(names))
        for name in names:
            (root / name).unlink()
        mounted.set_control("sync", "1")
    assert len(counts) > 3


def test_saving_by_rename_is_atomic(mounted: TemporaryMount) -> None:
    """Write a temporary file, fsync it, rename it over: the old text or the new, never none, whatever the cut."""
    root = mounted.path
    (root / "text").write_bytes(b"0" * 5000)
    mounted.set_control("sync", "1")
    confirmed, chance = 0, random.Random(5)
    for number in range(1, 40):
        with (root / "text.tmp").open("wb") as file:
            file.write(f"{number}".encode() * 5000)
            file.flush()
            os.fsync(file.fileno())
        (root / "text.tmp").rename(root / "text")
        if chance.random() < 0.5:
            fsync_dir(root)
            confirmed = number
        if chance.random() < 0.5:
            mounted.power_cut(chance.choice(["none", "all", f"{number}"]))
            data = (root / "text").read_bytes()
            found = int(data[: len(data) // 5000])
            assert data == f"{found}".encode() * 5000
            assert confirmed <= found <= number
            confirmed = found


def change_a_name(root: Path, chance: random.Random) -> None:
    """Do one random change of a name, if the tree permits it."""
    names = ("a", "b", "c", "d/a", "d/b", "e/a", "e/d/a", "d", "e", "e/d")
    one, two = (root / chance.choice(names) for _ in range(2))
    calls: list[Callable[[], object]] = [
        one.touch,
        one.mkdir,
        one.unlink,
        one.rmdir,
        lambda: one.rename(two),
        lambda: os.link(one, two),
        lambda: os.symlink("somewhere", one),
    ]
    with contextlib.suppress(OSError):
        chance.choice(calls)()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_cut_leaves_a_state_that_was(mounted: TemporaryMount, seed: int) -> None:
    root, chance = mounted.path, random.Random(seed)
    for number in range(30):
        states = [tree(root)]
        for _ in range(chance.randint(1, 20)):
            change_a_name(root, chance)
            states.append(tree(root))
            if chance.random() < 0.05:
                root.chmod(0o755)  # else its barrier may have nothing to commit
                fsync_dir(root)
                states = states[-1:]
        survive = chance.choice(["none", "all", f"{number}"])
        mounted.power_cut(survive)
        after = tree(root)
        assert after in states
        if survive != f"{number}":
            assert after == states[0 if survive == "none" else -1]
        assert tree(root) == {name: data for name, data in tree(mounted.store).items() if name != ".fremap-journal"}
