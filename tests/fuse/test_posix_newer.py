"""Calls that libfuse2 is too old for: renameat2's flags, O_TMPFILE, holes; the host's filesystem is the judge."""

import itertools
import mmap
import os
import random
from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount
from tests.fuse.calls import EXCHANGE, NOREPLACE, WHITEOUT, give_name, renameat2
from tests.fuse.posix import MEMBER, OWNER, STRANGER, Script, World, contents

pytestmark = pytest.mark.fuse

Same = Callable[[Script], None]
MakeMount = Callable[..., TemporaryMount]

MOVED = ("file", "dir", "full", "link")


# ---- renameat2


@pytest.mark.parametrize("flags", [NOREPLACE, EXCHANGE, WHITEOUT])
def test_renames_with_flags(same: Same, flags: int) -> None:
    def script(world: World) -> None:
        for number, (one, other) in enumerate(itertools.product(MOVED, (*MOVED, "missing"))):
            place = f"case-{number}"
            world.make(place, "dir", 0o755)
            world.make(f"{place}/one", one)
            world.make(f"{place}/sub", "dir", 0o755)
            if other != "missing":
                world.make(f"{place}/sub/other", other)
            call = f"rename {one} to {other}"
            old, new = world.path(f"{place}/one"), world.path(f"{place}/sub/other")
            world.do(call, lambda old=old, new=new: renameat2(old, new, flags))  # type: ignore[misc]
            world.show(f"{place}/one", f"{place}/sub/other", f"{place}/one/inside", f"{place}/sub/other/inside", place)

    same(script)


def test_flags_that_do_not_go_together(same: Same) -> None:
    def script(world: World) -> None:
        world.make("one", "file")
        for flags in (NOREPLACE | EXCHANGE, WHITEOUT | EXCHANGE, NOREPLACE | WHITEOUT, 8, -1):
            old, new = world.path("one"), world.path(f"new {flags}")
            world.do(f"{flags}", lambda old=old, new=new, flags=flags: renameat2(old, new, flags))  # type: ignore[misc]
            world.show("one", f"new {flags}")

    same(script)


def test_exchange_of_names_that_depend_on_each_other(same: Same) -> None:
    def script(world: World) -> None:
        for name in ("a", "a/b", "a/b/c", "z"):
            world.make(name, "dir", 0o755)
        world.make("file", "file")
        os.link(world.path("file"), world.path("hard"))
        for old, new in (("a", "a/b"), ("a/b", "a"), ("a", "a"), ("file", "hard"), ("a/b/c", "z"), ("a", "missing")):
            call = f"exchange {old} {new}"
            world.do(call, lambda old=old, new=new: renameat2(world.path(old), world.path(new), EXCHANGE))  # type: ignore[misc]
            world.show("a", "a/b", "a/b/c", "z", "file", "hard")

    same(script)


def test_what_an_exchange_leaves_open_stays_open(same: Same) -> None:
    def script(world: World) -> None:
        for name in ("one", "other"):
            with open(world.path(name), "wb") as file:
                file.write(name.encode() * 1000)
        one, other = os.open(world.path("one"), os.O_RDWR), os.open(world.path("other"), os.O_RDWR)
        world.moved("exchange", lambda: renameat2(world.path("one"), world.path("other"), EXCHANGE))
        os.pwrite(one, b"still one", 0)
        os.ftruncate(other, 20)
        os.fsync(one)
        for name in ("one", "other"):
            contents(world, name)
        os.unlink(world.path("one"))
        world.note("of the one that is gone", os.pread(other, 30, 0))
        renameat2(world.path("other"), world.path("one"), NOREPLACE)
        world.note("by its old name again", os.stat(world.path("one")).st_ino == os.fstat(one).st_ino)

    same(script)


def test_sticky_directories_guard_both_names_of_an_exchange(same: Same) -> None:
    def script(world: World) -> None:
        world.make("sticky", "dir", 0o1777)
        for who in (OWNER, STRANGER):
            world.make(f"sticky/{who[0]}", "file", 0o644, who)
        for user in (OWNER, MEMBER, STRANGER):
            with world.user(user):
                for flags in (EXCHANGE, NOREPLACE, WHITEOUT):
                    old, new = world.path("sticky/1000"), world.path("sticky/1002")
                    world.do(f"{user} {flags}", lambda old=old, new=new, flags=flags: renameat2(old, new, flags))  # type: ignore[misc]

    same(script)


# ---- O_TMPFILE


def test_nameless_files(same: Same) -> None:
    def script(world: World) -> None:
        world.make("dir", "dir", 0o755)
        for flags, mode in itertools.product((0, os.O_EXCL), (0o600, 0o4755)):
            fd = world.open("dir", os.O_TMPFILE | os.O_RDWR | flags, mode)
            assert fd is not None
            os.write(fd, b"some bytes")
            info = os.fstat(fd)
            world.note(
                "nameless", (oct(info.st_mode), info.st_nlink, info.st_size, sorted(os.listdir(world.path("dir"))))
            )
            name = f"dir/linked-{flags:o}-{mode:o}"
            world.do("give a name", lambda fd=fd, name=name: give_name(fd, world.path(name)))  # type: ignore[misc]
            world.show(name)
            world.note("links", os.fstat(fd).st_nlink)
            world.do("another", lambda fd=fd, name=name: give_name(fd, world.path(name + "2")))  # type: ignore[misc]
            os.ftruncate(fd, 4)
            os.close(fd)
            if os.path.exists(world.path(name)):
                contents(world, name)
        for name, flags in (("dir", os.O_RDONLY), ("dir", os.O_WRONLY), ("missing", os.O_RDWR), ("dir/x", os.O_RDWR)):
            world.try_open(name, os.O_TMPFILE | flags)
        world.make("file", "file")
        world.try_open("file", os.O_TMPFILE | os.O_RDWR)

    same(script)


def test_who_may_make_nameless_files(same: Same) -> None:
    def script(world: World) -> None:
        world.make("dir", "dir", 0o2770, OWNER)
        for user in (OWNER, MEMBER, STRANGER):
            with world.user(user):
                fd = world.open("dir", os.O_TMPFILE | os.O_RDWR, 0o640)
                if fd is None:
                    continue
                world.do("give a name", lambda fd=fd, user=user: give_name(fd, world.path(f"dir/{user[0]}")))  # type: ignore[misc]
                os.close(fd)
            world.show(f"dir/{user[0]}")

    same(script)


# ---- holes


def _seeks(world: World, fd: int, size: int) -> None:
    for whence, name in ((os.SEEK_DATA, "data"), (os.SEEK_HOLE, "hole")):
        for offset in (-1, 0, 1, 4095, 4096, 5000, 65536, 131072, 200000, 262144, size - 1, size, size + 1):
            world.do(f"{name} from {offset}", lambda offset=offset, whence=whence: os.lseek(fd, offset, whence))  # type: ignore[misc]


def test_holes(same: Same) -> None:
    def script(world: World) -> None:
        fd = world.open("sparse", os.O_RDWR | os.O_CREAT)
        assert fd is not None
        for size in (0, 1, 4096, 300_000, 262_144):
            os.ftruncate(fd, size)
            _seeks(world, fd, size)
        os.pwrite(fd, b"x" * 4096, 65536)  # dirty
        _seeks(world, fd, 262_144)
        os.fsync(fd)
        os.pwrite(fd, b"y" * 10_000, 128 * 1024)
        _seeks(world, fd, 262_144)
        os.pwrite(fd, b"z", 300_000)
        _seeks(world, fd, 300_001)
        os.ftruncate(fd, 131_000)
        _seeks(world, fd, 131_000)

    same(script)


def test_random_holes_hold_only_zeros(shared_mount: TemporaryMount) -> None:
    chance = random.Random(8)
    path = shared_mount.path / "random-holes"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(60):
            match chance.randrange(4):
                case 0:
                    os.ftruncate(fd, chance.randrange(1 << 20))
                case 1:
                    os.fsync(fd)
                case _:
                    os.pwrite(fd, b"d" * chance.randrange(1, 40_000), chance.randrange(1 << 20))
            size, whole, end = os.fstat(fd).st_size, bytearray(os.pread(fd, 2 << 20, 0)), 0
            while end < size:
                try:
                    start = os.lseek(fd, end, os.SEEK_DATA)
                except OSError:
                    start = size
                assert not any(whole[end:start])
                end = os.lseek(fd, start, os.SEEK_HOLE) if start < size else size
                assert end > start or start == size
    finally:
        os.close(fd)
        path.unlink()


def test_bytes_stored_through_a_mapping_are_no_hole(mounted: TemporaryMount) -> None:
    fd = os.open(mounted.path / "mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    with mmap.mmap(fd, 1 << 20) as mapping:
        mapping[300_000:300_001] = b"m"  # dirty in the kernel only
        assert os.lseek(fd, 0, os.SEEK_DATA) == 300_000 // 4096 * 4096
        mapping[100_000:100_001] = b"m"
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert os.lseek(fd, 0, os.SEEK_DATA) == 100_000 // 4096 * 4096
        mapping[4096 * 100 : 4096 * 101] = b"n" * 4096
        assert os.lseek(fd, 4096 * 100, os.SEEK_HOLE) == 4096 * 101
        assert (mapping[100_000], mapping[300_000]) == (ord("m"), ord("m"))
    os.close(fd)


# ---- what a power cut makes of them


def test_a_power_cut_undoes_exchanges_whiteouts_and_links(make_mount: MakeMount) -> None:
    mounted = make_mount("disk", metadata=True)
    for name in ("one", "other", "third"):
        (mounted.path / name).write_text(name)
    for name in ("one", "other", "third", "."):
        fd = os.open(mounted.path / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    renameat2(mounted.path / "one", mounted.path / "other", EXCHANGE)
    if os.geteuid() == 0:
        renameat2(mounted.path / "third", mounted.path / "moved", WHITEOUT)
    fd = os.open(mounted.path, os.O_TMPFILE | os.O_RDWR)
    give_name(fd, mounted.path / "named")
    os.close(fd)
    assert (mounted.path / "one").read_text() == "other"
    mounted.power_cut("none")
    assert sorted(os.listdir(mounted.path)) == ["one", "other", "third"]
    assert [(mounted.path / name).read_text() for name in ("one", "other", "third")] == ["one", "other", "third"]
