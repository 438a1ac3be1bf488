"""Power cuts of files that grow, shrink, are punched, mapped and written past the cache: none and all are exact.

With `none` a file is, byte for byte, what its last fsync made durable; with `all`, what the program last saw. With
a seed every page holds bytes that were once there, or zeros where the file had grown.
"""

import contextlib
import mmap
import os
import random
from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.storeio import fallocate
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=16 << 10, dirty_bytes=64 << 20, expire_s=0.02, periodic_s=0.01)
LAZY = DirtyParams(expire_s=3600, periodic_s=3600)
PAGE = 4096
MAX_BYTES = 40 * PAGE

MakeMount = Callable[..., TemporaryMount]


class Victim:
    """A file, what it holds, and what of it is durable."""

    def __init__(self, mounted: TemporaryMount, name: str, chance: random.Random) -> None:
        self.path = mounted.path / name
        self.chance = chance
        self.fd = os.open(self.path, os.O_CREAT | os.O_RDWR)
        os.fsync(self.fd)
        self.now = bytearray()
        self.durable = b""
        self.log: list[str] = []

    def close(self) -> None:
        os.close(self.fd)

    def _put(self, start: int, data: bytes) -> None:
        self.now.extend(bytes(max(start - len(self.now), 0)))
        self.now[start : start + len(data)] = data

    def _data(self, most: int) -> bytes:
        return bytes([self.chance.randrange(1, 256)]) * self.chance.randint(1, max(most, 1))

    def write(self) -> None:
        start = self.chance.randrange(MAX_BYTES)
        data = self._data(min(5 * PAGE, MAX_BYTES - start))
        os.pwrite(self.fd, data, start)
        self._put(start, data)
        self.log.append(f"write {start} {len(data)}")

    def write_direct(self) -> None:
        start = self.chance.randrange(MAX_BYTES // PAGE) * PAGE
        fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT)
        with mmap.mmap(-1, PAGE) as buffer:
            buffer[:] = bytes([self.chance.randrange(1, 256)]) * PAGE
            os.pwritev(fd, [buffer], start)
            self._put(start, buffer[:])
        os.close(fd)
        self.log.append(f"direct {start}")

    def store(self) -> None:
        if self.now:
            start = self.chance.randrange(len(self.now))
            data = self._data(min(PAGE, len(self.now) - start))
            with mmap.mmap(self.fd, len(self.now)) as mapped:
                mapped[start : start + len(data)] = data
                mapped.flush()  # else the kernel alone knows of it, and a cut drops it whatever survives
            self._put(start, data)
            self.durable = bytes(self.now)
            self.log.append(f"store and msync {start} {len(data)}")

    def truncate(self) -> None:
        nbytes = self.chance.randrange(MAX_BYTES)
        os.ftruncate(self.fd, nbytes)
        del self.now[nbytes:]
        self._put(nbytes, b"")
        self.log.append(f"truncate {nbytes}")

    def punch(self) -> None:
        if self.now:
            start = self.chance.randrange(len(self.now))
            nbytes = min(self.chance.randint(1, 5 * PAGE), len(self.now) - start)
            fallocate(self.fd, 3, start, nbytes)
            self._put(start, bytes(nbytes))
            self.log.append(f"punch {start} {nbytes}")

    def fsync(self) -> None:
        os.fsync(self.fd)
        self.durable = bytes(self.now)
        self.log.append("fsync")

    def step(self) -> None:
        calls = [self.write, self.write, self.write_direct, self.store, self.truncate, self.punch, self.fsync]
        self.chance.choice(calls)()

    def after_cut(self, survive: str) -> None:
        """Check what a cut has left, and go on from there."""
        data = self.path.read_bytes()
        story = f"cut {survive}: " + ", ".join(self.log[-12:])
        if survive == "none":
            assert data == self.durable, story
        elif survive == "all":
            assert data == self.now, story
        else:
            assert len(data) <= MAX_BYTES + 5 * PAGE, story
        with contextlib.suppress(OSError):  # EIO: something is gone that was written to this descriptor
            os.fsync(self.fd)
        os.fsync(self.fd)
        self.now, self.durable = bytearray(data), data
        self.log = []


def cut_and_check(mounted: TemporaryMount, nr_cuts: int, seed: int) -> None:
    chance = random.Random(seed)
    victims = [Victim(mounted, name, chance) for name in "ab"]
    try:
        for _ in range(nr_cuts):
            for _ in range(chance.randint(1, 15)):
                chance.choice(victims).step()
            survive = chance.choice(["none", "none", "all", str(chance.randrange(1000))])
            mounted.power_cut(survive)
            for victim in victims:
                victim.after_cut(survive)
    finally:
        for victim in victims:
            victim.close()


SETTINGS = {
    "flushed": (BUSY, ()),
    "cached": (LAZY, ()),
    "reordered": (BUSY, ("store.write reorder",)),
    "some reordered": (BUSY, ("store.write p=0.5 reorder=8",)),
}


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_none_and_all_are_exact(make_mount: MakeMount, setting: str) -> None:
    params, rules = SETTINGS[setting]
    cut_and_check(make_mount("disk", params=params, power_cut=True, inject=list(rules)), 40, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("setting", list(SETTINGS))
def test_many(make_mount: MakeMount, setting: str, seed: int) -> None:
    params, rules = SETTINGS[setting]
    cut_and_check(make_mount("disk", params=params, power_cut=True, inject=list(rules)), 1000, seed)
