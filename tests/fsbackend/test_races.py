"""Many threads on few files, a flusher that never rests, a store that fails: nothing is lost, and nothing left over."""

import contextlib
import os
import random
import threading
import time
from pathlib import Path

import pytest

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.cachedfile import CachedFile
from fsbackend.dirstore import DirStore
from fsbackend.durability import DurabilityJournal
from fsbackend.faultyio import FaultyIo
from fsbackend.filesystem import FileSystem
from fsbackend.flusher import Flusher
from fsbackend.inject import Injector
from fsbackend.node import ROOT_ID, Cred, Node, SetAttr
from fsbackend.pagepool import SLAB_BLOCKS
from fsbackend.throttle import DirtyParams

CRED = Cred(os.geteuid(), os.getegid())
PART = 300_000
"""Bytes of each file that one thread writes to: parts meet within a page."""
NR_THREADS = 4
LIMITS = DirtyParams(background_bytes=64 << 10, dirty_bytes=1 << 30, expire_s=0.0, periodic_s=0.001)
FAULTS = ("store.write p=0.1 error=EIO", "store.write p=0.1 torn", "store.fsync p=0.2 error=EIO")


class Mount:
    """A filesystem without a kernel, with a flusher."""

    def __init__(self, store: Path, caps: str, *, journal: bool, direct: bool = False) -> None:
        self.store = store
        self.injector = Injector(1)
        self.io = FaultyIo(self.injector, DurabilityJournal() if journal else None)
        self.cache = Cache(BackingDevInfo("test", parse_caps(caps), LIMITS), self.io)
        self.cache.direct = direct
        self.fs = FileSystem(DirStore(str(store)), self.cache, parse_caps(caps))
        self.flusher = Flusher(self.cache, after_pass=self.fs.reap)
        self.nodes: list[Node] = []

    def check_clean(self) -> None:
        """Everything was written back, and closed: all counters are zero, all memory is in the pool."""
        bdi, pool = self.cache.bdi, self.cache.pool
        assert (bdi.nr_dirty, bdi.nr_writeback) == (0, 0)
        assert not self.cache.dirty_files
        assert sum(map(len, pool._free.values())) == pool.nr_slabs * SLAB_BLOCKS
        assert not self.fs.lingering
        assert not self.fs.handles
        assert not any(isinstance(node.data, CachedFile) for node in self.nodes)


class Writer:
    """One thread: writes to a part of each file of its own, and knows what has to be there."""

    def __init__(self, mount: Mount, number: int, nr_files: int) -> None:
        self.mount = mount
        self.fs = mount.fs
        self.chance = random.Random(number)
        self.base = number * PART
        self.want = [bytearray(PART) for _ in range(nr_files)]
        self.number = number
        self.handles = [self.fs.open(node.id, os.O_RDWR) for node in mount.nodes]

    def write(self, index: int) -> None:
        start = self.chance.randrange(PART)
        data = self.chance.randbytes(min(self.chance.choice([1, 4096, 10_000, 200_000]), PART - start))
        if self.chance.random() < 0.5:
            start, data = start & ~4095, data[: PART - (start & ~4095)]
        self.fs.write(self.handles[index], self.base + start, memoryview(data))
        self.want[index][start : start + len(data)] = data

    def read(self, index: int) -> None:
        start = self.chance.randrange(PART)
        out = bytearray(min(5000, PART - start))
        done = self.fs.read(self.handles[index], self.base + start, memoryview(out))
        assert out[:done] == self.want[index][start : start + done]

    def fsync(self, index: int) -> None:
        with contextlib.suppress(OSError):
            self.fs.fsync(self.handles[index], datasync=self.chance.random() < 0.5)

    def grow(self, index: int) -> None:
        """Set the size, beyond all parts: whatever is there is zeros."""
        size = NR_THREADS * PART + self.chance.randrange(50_000)
        self.fs.setattr(self.mount.nodes[index].id, SetAttr(nbytes=size))

    def reopen(self, index: int) -> None:
        node = self.mount.nodes[index]
        self.fs.release(self.handles[index])
        self.handles[index] = self.fs.open(node.id, os.O_RDWR)

    def temporary(self, _index: int) -> None:
        """Make a file, write to it, remove it, forget it: its dirty pages go, whoever writes them back just then."""
        name = b"temporary-%d" % self.number
        node, handle = self.fs.create(ROOT_ID, name, 0o600, os.O_RDWR, CRED)
        self.fs.write(handle, 0, memoryview(bytes(100_000)))
        self.fs.unlink(ROOT_ID, name)
        if self.chance.random() < 0.5:
            self.fs.release(handle)
            self.fs.forget(node.id, node.nlookup)
        else:
            self.fs.forget(node.id, node.nlookup)
            self.fs.release(handle)

    def run(self, until_s: float) -> None:
        calls = [self.write, self.write, self.write, self.read, self.fsync, self.grow, self.reopen, self.temporary]
        while time.monotonic() < until_s:
            self.chance.choice(calls)(self.chance.randrange(len(self.want)))


@pytest.mark.parametrize(
    ("caps", "journal", "direct", "faults"),
    [
        ("disk", False, False, ()),
        ("disk", True, True, ()),
        ("disk,stable_writes", False, False, FAULTS),
        ("disk", True, False, (*FAULTS, "store.write p=0.3 reorder")),
        ("disk,no_acct_dirty", False, False, FAULTS),
    ],
)
def test_nothing_is_lost_and_nothing_left_over(
    tmp_path: Path, caps: str, *, journal: bool, direct: bool, faults: tuple[str, ...]
) -> None:
    mount = Mount(tmp_path, caps, journal=journal, direct=direct)
    for index in range(2):
        node, handle = mount.fs.create(ROOT_ID, b"file-%d" % index, 0o600, os.O_RDWR, CRED)
        mount.nodes.append(node)
        mount.fs.setattr(node.id, SetAttr(nbytes=NR_THREADS * PART))
        mount.fs.release(handle)
    writers = [Writer(mount, number, len(mount.nodes)) for number in range(NR_THREADS)]
    bugs: list[BaseException] = []

    def run(writer: Writer, until_s: float) -> None:
        try:
            writer.run(until_s)
        except BaseException as error:  # noqa: BLE001 - the thread's end is the test's business
            bugs.append(error)

    mount.injector.set_rules(faults)
    mount.flusher.start()
    until_s = time.monotonic() + 1.0
    threads = [threading.Thread(target=run, args=(writer, until_s)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not bugs, bugs
    mount.injector.set_rules([])
    assert not mount.fs.sync()
    mount.flusher.stop()
    for index in range(len(mount.nodes)):
        want = b"".join(bytes(writer.want[index]) for writer in writers)
        stored = (tmp_path / f"file-{index}").read_bytes()
        assert stored[: len(want)] == want
        assert not any(stored[len(want) :])
    for writer in writers:
        for handle in writer.handles:
            mount.fs.release(handle)
    mount.fs.reap()
    mount.check_clean()
    mount.fs.close()
