"""Who may do what: owners, groups, strangers, sticky directories, set-user-id bits; the host's filesystem is the judge.

Left out, since Linux's FUSE client decides it alone: what becomes of a set-group-id bit without the group's right
to execute, once a mark for mandatory locks.
"""

import itertools
import os
import stat
from collections.abc import Callable

import pytest

from tests.fuse.posix import MEMBER, OTHERS, OWNER, STRANGER, Script, World

pytestmark = pytest.mark.fuse

Same = Callable[[Script], None]


def tidy(world: World, *names: str) -> None:
    for name in names:
        path = world.path(name)
        if os.path.lexists(path):
            (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)


CALLS: dict[str, Callable[[World], object]] = {
    "read": lambda w: os.close(os.open(w.path("dir/file"), os.O_RDONLY)),
    "write": lambda w: os.close(os.open(w.path("dir/file"), os.O_WRONLY)),
    "trunc": lambda w: os.close(os.open(w.path("dir/file"), os.O_WRONLY | os.O_TRUNC)),
    "truncate": lambda w: os.truncate(w.path("dir/file"), 5),
    "creat": lambda w: os.close(os.open(w.path("dir/new"), os.O_WRONLY | os.O_CREAT, 0o600)),
    "mkdir": lambda w: os.mkdir(w.path("dir/new")),
    "mkfifo": lambda w: os.mkfifo(w.path("dir/new")),
    "mknod": lambda w: os.mknod(w.path("dir/new"), stat.S_IFCHR, os.makedev(1, 3)),
    "symlink": lambda w: os.symlink("x", w.path("dir/new")),
    "link": lambda w: os.link(w.path("dir/file"), w.path("dir/new")),
    "rename": lambda w: os.rename(w.path("dir/file"), w.path("dir/new")),
    "unlink": lambda w: os.unlink(w.path("dir/file")),
    "rmdir": lambda w: os.rmdir(w.path("dir/sub")),
    "stat": lambda w: os.stat(w.path("dir/file")).st_size,
    "listdir": lambda w: sorted(os.listdir(w.path("dir"))),
    "enter": lambda w: os.stat(w.path("dir/file/../sub")).st_nlink,
    "chmod": lambda w: os.chmod(w.path("dir/file"), 0o640),
    "utime now": lambda w: os.utime(w.path("dir/file")),
    "utime": lambda w: os.utime(w.path("dir/file"), ns=(1, 2)),
    "access": lambda w: [os.access(w.path("dir/file"), how, effective_ids=True) for how in (4, 2, 1)],
}


@pytest.mark.parametrize("who", OTHERS, ids=["root", "owner", "member", "stranger"])
def test_modes_are_heeded(same: Same, who: tuple[int, int]) -> None:
    def script(world: World) -> None:
        modes = ((0o755, 0o644), (0o700, 0o600), (0o777, 0o000), (0o775, 0o060), (0o771, 0o604), (0o744, 0o666))
        for (dir_mode, file_mode), name in itertools.product(modes, CALLS):
            world.make("dir", "dir", dir_mode, OWNER)
            world.make("dir/file", "file", file_mode, OWNER)
            world.make("dir/sub", "dir", 0o755, OWNER)
            with world.user(who):
                world.do(f"{name} {dir_mode:o} {file_mode:o}", lambda name=name: CALLS[name](world))  # type: ignore[misc]
            world.show("dir/file", "dir/new")
            tidy(world, "dir/file", "dir/new", "dir/sub", "dir")

    same(script)


def test_sticky_directories(same: Same) -> None:
    def script(world: World) -> None:
        owners = (OWNER, MEMBER, STRANGER)
        for of_dir, of_file, who in itertools.product(owners, owners, owners):
            for kind in ("file", "dir", "link"):
                world.make("dir", "dir", 0o1777, of_dir)
                world.make("plain", "dir", 0o777, of_dir)
                world.make("dir/it", kind, 0o777, of_file)
                world.make("plain/other", kind, 0o777, who)
                with world.user(who):
                    said = f"{of_dir[0]} {of_file[0]} {who[0]} {kind}"
                    world.do(f"over {said}", lambda: os.rename(world.path("plain/other"), world.path("dir/it")))
                    world.do(f"away {said}", lambda: os.rename(world.path("dir/it"), world.path("plain/gone")))
                    remove = os.rmdir if kind == "dir" else os.unlink
                    world.do(f"remove {said}", lambda remove=remove: remove(world.path("dir/it")))  # type: ignore[misc]
                tidy(world, "dir/it", "plain/gone", "plain/other", "dir", "plain")

    same(script)


def test_chown(same: Same) -> None:
    def script(world: World) -> None:
        ids = (-1, OWNER[0], STRANGER[0])
        for who, uid, gid in itertools.product(OTHERS, ids, (-1, OWNER[1], STRANGER[1])):
            for mode in (0o6755, 0o2654, 0o4711):
                world.make("file", "file", mode, OWNER)
                with world.user(who):
                    said = f"chown {who} {uid} {gid} {mode:o}"
                    world.do(said, lambda u=uid, g=gid: os.chown(world.path("file"), u, g))  # type: ignore[misc]
                world.show("file")
                tidy(world, "file")
        for who in OTHERS:
            world.make("dir", "dir", 0o6755, OWNER)
            world.make("soft", "dangling", 0o777, OWNER)
            with world.user(who):
                world.do("chown of a directory", lambda: os.chown(world.path("dir"), -1, OWNER[1]))
                world.do("lchown", lambda: os.lchown(world.path("soft"), -1, OWNER[1]))
            world.show("dir", "soft")
            tidy(world, "dir", "soft")

    same(script)


def test_chmod(same: Same) -> None:
    def script(world: World) -> None:
        for who, mode in itertools.product(OTHERS, (0o000, 0o644, 0o1644, 0o2755, 0o2644, 0o4755, 0o6711, 0o7777)):
            for kind in ("file", "dir", "fifo"):
                world.make("it", kind, 0o640, OWNER)
                with world.user(who):
                    world.do(f"chmod {who} {mode:o} {kind}", lambda mode=mode: os.chmod(world.path("it"), mode))  # type: ignore[misc]
                world.show("it")
                tidy(world, "it")
        world.make("file", "file", 0o644, (OWNER[0], STRANGER[1]))
        with world.user(OWNER):
            world.do("set-group-id of a foreign group", lambda: os.chmod(world.path("file"), 0o2755))
        world.show("file")

    same(script)


def test_set_user_id_bits_go_when_the_bytes_change(same: Same) -> None:
    def script(world: World) -> None:
        ways: dict[str, Callable[[int], object]] = {
            "write": lambda fd: os.write(fd, b"x"),
            "pwrite of nothing": lambda fd: os.write(fd, b""),
            "ftruncate": lambda fd: os.ftruncate(fd, 3),
        }
        for who, mode, way in itertools.product(OTHERS, (0o6777, 0o2777, 0o4777, 0o2776), ways):
            world.make("file", "file", mode, OWNER)
            with world.user(who):
                fd = os.open(world.path("file"), os.O_RDWR)
                world.do(f"{way} {who} {mode:o}", lambda way=way, fd=fd: ways[way](fd))  # type: ignore[misc]
                os.close(fd)
            world.show("file")
            tidy(world, "file")
        for who in OTHERS:
            world.make("file", "file", 0o6777, OWNER)
            with world.user(who):
                world.do("truncate", lambda: os.truncate(world.path("file"), 7))
            world.show("file")
            with world.user(who):
                world.try_open("file", os.O_WRONLY | os.O_TRUNC)
            world.show("file")
            tidy(world, "file")

    same(script)


def test_who_may_set_times(same: Same) -> None:
    now, omit = (1 << 30) - 1, (1 << 30) - 2

    def script(world: World) -> None:
        pairs = {
            "now": (now, now),
            "omit": (omit, omit),
            "now omit": (now, omit),
            "omit now": (omit, now),
            "set": (1, 2),
        }
        for who, mode, (name, times) in itertools.product(OTHERS, (0o644, 0o666, 0o600), pairs.items()):
            world.make("file", "file", mode, OWNER)
            os.utime(world.path("file"), ns=(5_000_000_007, 6_000_000_009))
            with world.user(who):
                world.do(f"{name} {who} {mode:o}", lambda times=times: utimensat(world.path("file"), times))  # type: ignore[misc]
            info = os.stat(world.path("file"))
            kept = (info.st_atime_ns == 5_000_000_007, info.st_mtime_ns == 6_000_000_009)
            world.note("kept", (kept, info.st_atime_ns < 10, info.st_mtime_ns < 10))
            tidy(world, "file")

    same(script)


def utimensat(path: bytes, nanoseconds: tuple[int, int]) -> None:
    """Call utimensat(2) with tv_nsec as given, which may be UTIME_NOW or UTIME_OMIT."""
    import ctypes  # noqa: PLC0415 - in a forked child, used by one test

    libc = ctypes.CDLL(None, use_errno=True)
    times = (ctypes.c_long * 4)(0, nanoseconds[0], 0, nanoseconds[1])
    if libc.utimensat(-100, path, times, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def test_new_things_belong_to_their_maker(same: Same) -> None:
    def script(world: World) -> None:
        for dir_mode, who in itertools.product((0o777, 0o2777), OTHERS):
            world.make("dir", "dir", dir_mode, (OWNER[0], STRANGER[1]))
            os.chmod(world.path("dir"), dir_mode)
            with world.user(who):
                for mode in (0o2755, 0o4755, 0o644):
                    world.try_open("dir/file", os.O_CREAT | os.O_WRONLY, mode)
                    world.do("mkdir", lambda mode=mode: os.mkdir(world.path("dir/sub"), mode))  # type: ignore[misc]
                    world.do("mkfifo", lambda mode=mode: os.mkfifo(world.path("dir/fifo"), mode))  # type: ignore[misc]
                    world.do("symlink", lambda: os.symlink("x", world.path("dir/link")))
                    world.show("dir/file", "dir/sub", "dir/fifo", "dir/link")
                    tidy(world, "dir/file", "dir/sub", "dir/fifo", "dir/link")
            tidy(world, "dir")

    same(script)


def test_umask_and_programs(same: Same) -> None:
    def script(world: World) -> None:
        for mask in (0o000, 0o022, 0o077, 0o777):
            old = os.umask(mask)
            world.try_open("file", os.O_CREAT | os.O_WRONLY, 0o6777)
            world.do("mkdir", lambda: os.mkdir(world.path("dir"), 0o1777))
            world.do("mknod", lambda: os.mknod(world.path("node"), stat.S_IFIFO | 0o666))
            os.umask(old)
            world.show("file", "dir", "node")
            tidy(world, "file", "dir", "node")
        with open(world.path("script"), "wb") as file:
            file.write(b"#!/bin/sh\nexit 7\n")
        for who, mode in itertools.product(OTHERS, (0o644, 0o755, 0o700, 0o710)):
            os.chmod(world.path("script"), mode)
            os.chown(world.path("script"), *OWNER)
            with world.user(who):
                world.do(f"may run {mode:o}", lambda: os.access(world.path("script"), os.X_OK, effective_ids=True))

    same(script)
