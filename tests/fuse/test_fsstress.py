"""Many processes at one tree, with names in common: no errno that a disk would not give, and one truth at the end.

What the mount shows at the end, what it shows after it was mounted again, and what is in the store are the same.
"""

import errno
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=64 << 10, dirty_bytes=8 << 20, expire_s=0.05, periodic_s=0.02)
MakeMount = Callable[..., TemporaryMount]

USUAL = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,  # a directory into itself
    errno.ELOOP,
    errno.EPERM,  # a link of a directory
    errno.ENXIO,  # a FIFO without a reader
}


class Process:
    """One of the crowd: random calls on names that all share."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.fds: list[int] = []

    def name(self) -> Path:
        depth = self.chance.choice((1, 1, 2, 2, 3))
        return self.root.joinpath(*(self.chance.choice("abcdef") for _ in range(depth)))

    def step(self) -> None:
        path, other, chance = self.name(), self.name(), self.chance
        calls: list[Callable[[], object]] = [
            lambda: self.hold(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o644)),
            lambda: self.hold(os.open(path, os.O_RDWR | os.O_NONBLOCK)),
            self.use,
            self.use,
            self.use,
            lambda: os.mkdir(path),
            lambda: os.mkdir(path),
            lambda: os.rename(path, other),
            lambda: os.rename(path, other),
            lambda: os.link(path, other, follow_symlinks=False),
            lambda: os.symlink(chance.choice(("a", "../b", "nowhere")), path),
            lambda: os.mkfifo(path),
            lambda: os.unlink(path),
            lambda: os.rmdir(path),
            lambda: os.listdir(path),
            lambda: os.stat(path),
            lambda: os.chmod(path, chance.choice((0o600, 0o644, 0o755)), follow_symlinks=True),
            lambda: os.truncate(path, chance.randrange(100_000)),
            lambda: os.utime(path),
        ]
        chance.choice(calls)()

    def hold(self, fd: int) -> None:
        self.fds.append(fd)
        if len(self.fds) > 8:
            os.close(self.fds.pop(self.chance.randrange(8)))

    def use(self) -> None:
        if self.fds:
            fd, chance = self.chance.choice(self.fds), self.chance
            if stat.S_ISREG(os.fstat(fd).st_mode):
                calls: list[Callable[[], object]] = [
                    lambda: os.pwrite(fd, bytes([chance.randrange(256)]) * chance.randint(1, 30_000), 4096),
                    lambda: os.pread(fd, 30_000, 0),
                    lambda: os.fsync(fd),
                    lambda: os.ftruncate(fd, chance.randrange(50_000)),
                ]
                chance.choice(calls)()

    def run(self, seconds: float) -> int:
        until_s, nr_done = time.monotonic() + seconds, 0
        while time.monotonic() < until_s:
            try:
                self.step()
            except OSError as error:
                if error.errno not in USUAL:
                    raise
            nr_done += 1
        return nr_done


def tree(root: Path) -> dict[str, object]:
    """Return everything about a tree but inode numbers."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder) / name
            info = path.lstat()
            kind = stat.S_IFMT(info.st_mode)
            body: object = -1
            if kind == stat.S_IFREG:
                body = path.read_bytes()
            elif kind == stat.S_IFLNK:
                body = os.readlink(path)
            times = 0 if kind == stat.S_IFDIR else info.st_mtime_ns
            found[str(path.relative_to(root))] = (info.st_mode, info.st_nlink, times, body)
    return found


CHILD = """
import pathlib, sys
from tests.fuse.test_fsstress import Process
print(Process(pathlib.Path(sys.argv[1]), int(sys.argv[2])).run(float(sys.argv[3])))
"""


def crowd(mounted: TemporaryMount, nr_processes: int, seconds: float) -> None:
    here = Path(__file__).resolve().parents[2]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(mounted.path), str(number), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=here,
        )
        for number in range(nr_processes)
    ]
    for child in children:
        said, complained = child.communicate(timeout=seconds + 120)
        assert child.returncode == 0, complained
        assert int(said) > 20
    seen = tree(mounted.path)
    mounted.umount()
    if os.listdir(mounted.store):  # of a ramfs nothing is left
        assert tree(mounted.store) == seen
        mounted.remount()
        assert tree(mounted.path) == seen


@pytest.mark.parametrize("caps", ["disk", "ramfs"])
def test_a_crowd(make_mount: MakeMount, caps: str) -> None:
    crowd(make_mount(caps, params=BUSY), 4, 1.5)


def test_a_crowd_with_names_that_can_be_undone(make_mount: MakeMount) -> None:
    crowd(make_mount("disk", params=BUSY, metadata=True), 4, 1.5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("setting", ["plain", "power_cut", "metadata", "direct", "xattrs"])
def test_a_large_crowd(make_mount: MakeMount, setting: str) -> None:
    options = {} if setting == "plain" else {setting: True}
    crowd(make_mount("disk", params=BUSY, **options), 16, 60.0)
