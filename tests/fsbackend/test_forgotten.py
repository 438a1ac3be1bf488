"""An inode that the kernel forgets before a barrier: a power cut still knows what of it was durable."""

import os
from pathlib import Path

import pytest

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.dirstore import DirStore
from fsbackend.durability import DurabilityJournal
from fsbackend.faultyio import FaultyIo
from fsbackend.filesystem import FileSystem
from fsbackend.inject import Injector
from fsbackend.namejournal import JournaledStore
from fsbackend.node import ROOT_ID, Cred
from fsbackend.powercut import Gate, PowerCutter
from fsbackend.throttle import DirtyParams


class Served:
    """A filesystem as a daemon makes it, without a kernel above it."""

    def __init__(
        self, store: Path, *, rules: tuple[str, ...] = (), metadata: bool = False, overrides: tuple[str, ...] = ()
    ) -> None:
        caps = parse_caps("disk")
        injector = Injector()
        injector.set_rules(rules)
        self.journal = DurabilityJournal()
        self.io = FaultyIo(injector, self.journal)
        names = JournaledStore(str(store), self.io) if metadata else DirStore(str(store))
        cache = Cache(BackingDevInfo("test", caps, DirtyParams()), self.io)
        self.fs = FileSystem(names, cache, caps, overrides)
        self.cutter = PowerCutter(self.fs, self.io, self.journal, Gate())
        self.cred = Cred(os.geteuid(), os.getegid())

    def write(self, name: bytes, data: bytes, *, sync: bool) -> None:
        """Open or make a file, write, perhaps fsync, close, have the flusher write, and be forgotten."""
        node, number = self.fs.create(ROOT_ID, name, 0o644, os.O_RDWR, self.cred)
        self.fs.write(number, 0, memoryview(data))
        if sync:
            self.fs.fsync(number, datasync=False)
        self.fs.release(number)
        for file in self.fs.cache.oldest():
            file.write_back_all()
        self.fs.forget(node.id, node.nlookup)
        self.fs.reap()

    def read(self, name: bytes) -> bytes:
        """Return a file's bytes as a program sees them."""
        node = self.fs.lookup(ROOT_ID, name)
        number = self.fs.open(node.id, os.O_RDONLY)
        out = bytearray(1 << 16)
        done = self.fs.read(number, 0, memoryview(out))
        self.fs.release(number)
        self.fs.forget(node.id, 1)
        return bytes(out[:done])


@pytest.fixture(params=[(), ("store.write reorder",)], ids=["in order", "reordered"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Served:
    return Served(tmp_path, rules=request.param)


def test_what_was_synced_after_it_was_forgotten_stays(served: Served) -> None:
    served.write(b"file", b"first" * 2000, sync=True)
    served.write(b"file", b"never" * 2000, sync=False)
    served.write(b"file", b"third" * 2000, sync=True)
    served.cutter.cut()
    assert served.read(b"file") == b"third" * 2000


def test_what_was_not_synced_goes(served: Served) -> None:
    served.write(b"file", b"first" * 2000, sync=True)
    served.write(b"file", b"never" * 2000, sync=False)
    assert served.read(b"file") == b"never" * 2000
    served.write(b"file", b"again" * 2000, sync=False)
    served.cutter.cut()
    assert served.read(b"file") == b"first" * 2000


def test_nothing_waits_after_a_barrier(served: Served) -> None:
    for number in range(5):
        served.write(b"file-%d" % number, b"x" * 5000, sync=False)
    assert len(served.fs.waiting) == 5
    assert served.fs.sync() == []
    assert not served.fs.waiting
    assert set(served.fs.nodes) == {ROOT_ID}


def test_the_way_to_a_waiting_inode_waits_too(served: Served) -> None:
    """A directory renamed while the file in it was forgotten: the cut finds the file all the same."""
    fs = served.fs
    folder = fs.mkdir(ROOT_ID, b"folder", 0o755, served.cred)
    node, number = fs.create(folder.id, b"file", 0o644, os.O_RDWR, served.cred)
    fs.fsync(number, datasync=False)
    fs.write(number, 0, memoryview(b"never" * 2000))
    fs.release(number)
    for file in fs.cache.oldest():
        file.write_back_all()
    fs.forget(node.id, node.nlookup)
    fs.forget(folder.id, folder.nlookup)
    fs.reap()
    assert set(fs.waiting) == {node, folder}
    fs.rename(ROOT_ID, b"folder", ROOT_ID, b"moved")
    served.cutter.cut()
    assert fs.lookup(fs.lookup(ROOT_ID, b"moved").id, b"file") is node
    assert fs.attr(node).nbytes == 0
    assert fs.sync() == []
    assert not fs.waiting


def test_a_removed_file_does_not_wait(served: Served) -> None:
    served.write(b"file", b"x" * 5000, sync=False)
    served.fs.unlink(ROOT_ID, b"file")
    served.fs.reap()
    assert not served.fs.waiting
    assert not served.journal.files
    assert not served.io.disk_cache.files
    assert set(served.fs.nodes) == {ROOT_ID}


@pytest.mark.parametrize("rules", [(), ("store.write reorder",)], ids=["in order", "reordered"])
@pytest.mark.parametrize("overrides", [(), ("file-*=ramfs",)], ids=["in the store", "in RAM"])
def test_a_removed_file_waits_for_its_removal_only(
    tmp_path: Path, rules: tuple[str, ...], overrides: tuple[str, ...]
) -> None:
    """With --metadata a removal may be undone until any barrier: then nothing of the file is kept any more."""
    served = Served(tmp_path, rules=rules, metadata=True, overrides=overrides)
    served.write(b"other", b"x", sync=True)
    for number in range(5):
        served.write(b"file-%d" % number, b"x" * 5000, sync=False)
        served.fs.unlink(ROOT_ID, b"file-%d" % number)
    served.fs.reap()
    assert len(served.fs.waiting) + len(served.fs.lingering) == 5
    served.write(b"other", b"y", sync=True)
    assert not served.fs.waiting
    assert not served.fs.lingering
    assert not served.journal.files
    assert set(served.fs.nodes) == {ROOT_ID}
    assert served.fs.close() == []
