"""Every call on names against every kind of path and file: the mount says what the host's own filesystem says."""

import itertools
import os
import stat
from collections.abc import Callable

import pytest

from tests.fuse.posix import KINDS, Script, World

pytestmark = pytest.mark.fuse

Same = Callable[[Script], None]

PATHS: tuple[str | bytes, ...] = (
    "file",
    "dir",
    "full",
    "fifo",
    "sock",
    "link",
    "dangling",
    "missing",
    "missing/x",
    "file/x",
    "file/.",
    "file/",
    "dir/",
    "dir/.",
    "dir/..",
    "full/inside",
    "linked/inside",
    "dangling/x",
    "loop",
    "loop/x",
    "n" * 255,
    "n" * 256,
    "dir/" + "n" * 256,
    "x/" * 2100 + "x",
    "./" * 2040 + "file",
    "",
    b"\xff\xfe",
)

CALLS: dict[str, Callable[[World, bytes], object]] = {
    "stat": lambda _, p: os.stat(p).st_mode,
    "lstat": lambda _, p: os.lstat(p).st_mode,
    "access": lambda _, p: os.access(p, os.R_OK),
    "readlink": lambda _, p: os.readlink(p),
    "listdir": lambda _, p: sorted(os.listdir(p)),
    "chmod": lambda _, p: os.chmod(p, 0o600),
    "chown": lambda _, p: os.chown(p, 12, 13),
    "lchown": lambda _, p: os.lchown(p, 14, 15),
    "utime": lambda _, p: os.utime(p, ns=(1, 2)),
    "lutime": lambda _, p: os.utime(p, ns=(3, 4), follow_symlinks=False),
    "truncate": lambda _, p: os.truncate(p, 10),
    "truncate negative": lambda _, p: os.truncate(p, -1),
    "mkdir": lambda _, p: os.mkdir(p, 0o755),
    "mkfifo": lambda _, p: os.mkfifo(p, 0o644),
    "mknod file": lambda _, p: os.mknod(p, stat.S_IFREG | 0o640),
    "mknod sock": lambda _, p: os.mknod(p, stat.S_IFSOCK | 0o640),
    "mknod null": lambda _, p: os.mknod(p, stat.S_IFCHR | 0o640, os.makedev(1, 3)),
    "symlink": lambda _, p: os.symlink(b"target", p),
    "link to": lambda w, p: os.link(w.path("target"), p),
    "link from": lambda w, p: os.link(p, w.path("other")),
    "link followed": lambda w, p: os.link(p, w.path("other"), follow_symlinks=True),
    "rename to": lambda w, p: os.rename(w.path("target"), p),
    "rename dir to": lambda w, p: os.rename(w.path("folder"), p),
    "rename from": lambda w, p: os.rename(p, w.path("other")),
    "unlink": lambda _, p: os.unlink(p),
    "rmdir": lambda _, p: os.rmdir(p),
    "statvfs": lambda _, p: os.statvfs(p).f_namemax,
}
OPENS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY,
    "rw": os.O_RDWR,
    "creat": os.O_WRONLY | os.O_CREAT,
    "excl": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "trunc": os.O_WRONLY | os.O_TRUNC,
    "rtrunc": os.O_RDONLY | os.O_TRUNC,
    "append": os.O_WRONLY | os.O_APPEND,
    "dir": os.O_RDONLY | os.O_DIRECTORY,
    "dir creat": os.O_RDONLY | os.O_DIRECTORY | os.O_CREAT,
    "nofollow": os.O_RDONLY | os.O_NOFOLLOW,
    "path": os.O_PATH,
    "path nofollow": os.O_PATH | os.O_NOFOLLOW,
}


def furnish(world: World) -> None:
    """Make one of each kind."""
    for kind in KINDS:
        world.make(kind, kind, 0o755 if kind in {"dir", "full"} else 0o644)
    world.make("target", "file")
    world.make("folder", "full", 0o755)
    os.symlink(b"full", world.path("linked"))
    os.symlink(b"loop", world.path("loop"))


def clear(world: World) -> None:
    for folder, folders, files in os.walk(world.root, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            path = os.path.join(folder, name)
            (os.unlink if os.path.islink(path) else os.rmdir)(path)


def show_all(world: World) -> None:
    found = sorted(os.path.join(folder, name) for folder, names, files in os.walk(world.root) for name in names + files)
    world.show(*(os.fsdecode(path[len(world.root) + 1 :]) for path in found))


def on_every_path(world: World, call: Callable[[str | bytes], None]) -> None:
    """Make a call on each path, in a tree that is made anew whenever it was changed."""
    fresh: list[str] = []
    for path in PATHS:
        if not fresh:
            furnish(world)
            start = len(world.record)
            show_all(world)
            fresh = world.record[start:]
        call(path)
        start = len(world.record)
        show_all(world)
        if world.record[start:] != fresh:
            clear(world)
            fresh = []


@pytest.mark.parametrize("name", list(CALLS))
def test_a_call_on_every_path(same: Same, name: str) -> None:
    same(
        lambda world: on_every_path(
            world, lambda path: world.do(f"{name} {path!r:.40}", lambda: CALLS[name](world, world.path(path)))
        )
    )


@pytest.mark.parametrize("name", list(OPENS))
def test_an_open_of_every_path(same: Same, name: str) -> None:
    same(lambda world: on_every_path(world, lambda path: world.try_open(path, OPENS[name])))


def test_rename_of_every_kind_over_every_kind(same: Same) -> None:
    def script(world: World) -> None:
        for one, other in itertools.product(KINDS, KINDS):
            world.make("target", "file")
            world.make("one", one)
            world.make("other", other)
            world.do(f"rename {one} over {other}", lambda: os.rename(world.path("one"), world.path("other")))
            show_all(world)
            clear(world)
        for one in KINDS:
            world.make("one", one)
            world.do(f"rename {one} to itself", lambda: os.rename(world.path("one"), world.path("one")))
            world.do(f"rename {one} to dot", lambda: os.rename(world.path("one"), world.path(".")))
            world.do(f"rename {one} into itself", lambda: os.rename(world.path("one"), world.path("one/x")))
            world.do(f"rename {one} to dotdot", lambda: os.rename(world.path("one"), world.path("one/..")))
            show_all(world)
            clear(world)

    same(script)


def test_links_and_what_rename_does_to_them(same: Same) -> None:
    def script(world: World) -> None:
        for kind in ("file", "fifo", "sock", "link"):
            world.make("one", kind)
            world.do("link", lambda: os.link(world.path("one"), world.path("two"), follow_symlinks=False))
            world.do("link again", lambda: os.link(world.path("one"), world.path("two"), follow_symlinks=False))
            world.show("one", "two")
            world.do("rename over its link", lambda: os.rename(world.path("one"), world.path("two")))
            world.show("one", "two")
            os.mkdir(world.path("dir"))
            world.do("rename", lambda: os.rename(world.path("two"), world.path("dir/three")))
            world.show("one", "two", "dir", "dir/three")
            world.do("unlink", lambda: os.unlink(world.path("one")))
            world.show("one", "dir/three")
            clear(world)
        world.make("dir", "dir", 0o755)
        world.do("link of a directory", lambda: os.link(world.path("dir"), world.path("again")))

    same(script)


def test_links_of_directories_are_counted(same: Same) -> None:
    def script(world: World) -> None:
        for name in ("a", "b", "a/x", "a/y", "a/x/z"):
            os.mkdir(world.path(name))
        world.show(".", "a", "b", "a/x")
        os.rename(world.path("a/x"), world.path("b/x"))
        world.show("a", "b", "b/x", "b/x/z")
        os.rename(world.path("a/y"), world.path("b/x/z"))
        world.show("a", "b/x", "b/x/z")
        os.rmdir(world.path("b/x/z"))
        world.show("b", "b/x")

    same(script)


def test_a_directory_that_is_gone(same: Same) -> None:
    """A directory without a name that a process stands in takes no entries, and lists none."""

    def script(world: World) -> None:
        os.mkdir(world.path("dir"))
        fd = os.open(world.path("dir"), os.O_RDONLY)
        os.chdir(fd)
        os.rmdir(world.path("dir"))
        world.do("open", lambda: os.open("x", os.O_CREAT | os.O_WRONLY))
        world.do("mkdir", lambda: os.mkdir("x"))
        world.do("symlink", lambda: os.symlink("y", "x"))
        world.do("rename", lambda: os.rename(world.path("target"), b"x"))
        world.do("stat", lambda: os.fstat(fd).st_nlink)
        world.do("listdir", lambda: os.listdir(fd))
        world.do("fchmod", lambda: os.fchmod(fd, 0o711))
        world.do("mode", lambda: oct(os.fstat(fd).st_mode))
        os.close(fd)

    same(script)


def test_listing_while_it_changes(same: Same) -> None:
    """Entries that stay are seen once each, whatever comes and goes between two reads of the directory."""

    def script(world: World) -> None:
        names = {f"entry-{number:04}" for number in range(500)}
        for name in names:
            world.make(name, "file")
        seen: list[str] = []
        with os.scandir(os.fsdecode(world.root)) as entries:
            for number, entry in enumerate(entries):
                seen.append(entry.name)
                if entry.name in names and int(entry.name[-4:]) % 3 == 0:
                    os.unlink(entry.path)
                if number % 100 == 0:
                    world.make(f"new-{number}", "file")
        seen = [name for name in seen if name in names]
        world.note("seen once each", len(seen) == len(set(seen)) == len(names))
        world.note("left", sorted(names & set(os.listdir(os.fsdecode(world.root)))))

    same(script)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_entries(same: Same) -> None:
    def script(world: World) -> None:
        os.mkdir(world.path("dir"))
        for number in range(100_000):
            world.make(f"dir/{number:06}", "file")
        names = os.listdir(world.path("dir"))
        world.note("all there", (len(names), len(set(names))))
        world.do("rmdir", lambda: os.rmdir(world.path("dir")))
        with os.scandir(os.fsdecode(world.path("dir"))) as entries:
            for entry in entries:
                os.unlink(entry.path)
        world.do("rmdir", lambda: os.rmdir(world.path("dir")))

    same(script)


def test_deep_paths(same: Same) -> None:
    def script(world: World) -> None:
        os.chdir(world.root)
        for _ in range(60):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        world.do("write", lambda: os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY)))
        world.do("too long", lambda: os.stat(world.path(("d" * 100 + "/") * 60 + "bottom")))
        world.do("by pieces", lambda: os.stat("bottom").st_size)
        for _ in range(60):
            os.chdir("..")
        world.do("where we began", lambda: os.listdir(".") == ["d" * 100])

    same(script)


def test_other_devices_and_flags(same: Same) -> None:
    def script(world: World) -> None:
        world.make("file", "file")
        world.do("rename to another device", lambda: os.rename(world.path("file"), "/dev/shm/fremap-no"))
        world.do("link to another device", lambda: os.link(world.path("file"), "/dev/shm/fremap-no"))
        world.do("EXCL through a link", lambda: os.symlink("nothing", world.path("new")))
        world.try_open("new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        world.try_open("new", os.O_CREAT | os.O_WRONLY)
        world.show("new", "nothing")
        world.try_open("file", os.O_WRONLY | os.O_DIRECTORY)
        world.try_open("file", os.O_RDONLY | os.O_DIRECT)

    same(script)
