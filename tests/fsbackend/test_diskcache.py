"""The disk's cache that reorders: what is held, what is read, what a barrier and a cut leave; against plain bytes."""

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsbackend.durability import Choice
from fsbackend.faultyio import FaultyIo
from fsbackend.inject import Injector
from fsbackend.node import Node

PAGE = 4096


class File:
    """A store's file under a rule."""

    def __init__(self, path: Path, rule: str, seed: int = 0) -> None:
        self.injector = Injector(seed)
        self.injector.set_rules([rule])
        self.io = FaultyIo(self.injector, None, seed)
        self.node = Node(1, stat.S_IFREG)
        self.fd = os.open(path, os.O_CREAT | os.O_RDWR)
        self.path = path

    def write(self, data: bytes, offset: int) -> None:
        self.io.pwrite_all(self.node, self.fd, [memoryview(data)], offset)

    def read(self, nbytes: int, offset: int) -> bytes:
        out = bytearray(nbytes)
        done = self.io.pread_into(self.node, self.fd, memoryview(out), offset)
        return bytes(out[:done])

    def held(self) -> int:
        cache = self.io.disk_cache
        assert cache.nr_pages == sum(len(held.pages) for held in cache.files.values())
        assert all(held.pages for held in cache.files.values()), "a file with nothing held is let go"
        return cache.nr_pages


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    yield tmp_path / "file"
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before, "descriptors leak"


@pytest.mark.parametrize("rule", ["reorder", "reorder=3", "store.write p=0.5 reorder"])
@pytest.mark.parametrize("seed", range(5))
def test_reads_and_barriers_against_plain_bytes(path: Path, rule: str, seed: int) -> None:
    file = File(path, rule, seed)
    chance, model = random.Random(seed), bytearray()
    for _ in range(300):
        start = chance.randrange(20 * PAGE)
        data = bytes([chance.randrange(1, 256)]) * chance.randint(1, 3 * PAGE)
        model.extend(bytes(max(start + len(data) - len(model), 0)))
        model[start : start + len(data)] = data
        file.write(data, start)
        assert file.read(len(model), 0) == model
        start = chance.randrange(len(model))
        assert file.read(5000, start) == model[start : start + 5000]
        assert file.held() <= (3 if "3" in rule else 256)
        if chance.random() < 0.1:
            file.io.fsync(file.node, file.fd, datasync=True)
            assert file.held() == 0
            assert path.read_bytes() == model
        if chance.random() < 0.1:
            nbytes = chance.randrange(20 * PAGE)
            file.io.truncate(file.node, file.fd, nbytes)
            del model[nbytes:]
            model.extend(bytes(nbytes - len(model)))
    file.io.sync_store(file.fd)
    assert path.read_bytes() == model
    os.close(file.fd)


def test_two_writes_of_one_page_keep_their_order(path: Path) -> None:
    for seed in range(20):
        file = File(path, "store.write every=2 reorder", seed)
        file.write(b"-", 100)
        file.write(b"held" * 1024, 0)
        file.write(b"later", 10)  # not held: it goes straight to the store
        file.io.fsync(file.node, file.fd, datasync=False)
        assert path.read_bytes()[:20] == b"heldheldhe" + b"later" + b"dheld"
        os.close(file.fd)


def test_a_cut_leaves_any_subset(path: Path) -> None:
    left = set()
    for seed in range(12):
        path.unlink(missing_ok=True)
        file = File(path, "reorder", seed)
        for page in range(6):
            file.write(b"x" * PAGE, page * PAGE)
        file.io.cut(Choice("none"))
        assert file.held() == 0
        data = path.read_bytes()
        left.add(tuple(data[page * PAGE] == ord("x") for page in range(6)))
        os.close(file.fd)
    assert len(left) > 6


def test_times_are_those_of_the_writes(path: Path) -> None:
    file = File(path, "reorder", 1)
    for page in range(8):
        file.write(b"x" * PAGE, page * PAGE)
    os.utime(file.fd, ns=(1, 2))
    file.io.fsync(file.node, file.fd, datasync=False)
    assert os.fstat(file.fd).st_mtime_ns == 2
    os.close(file.fd)


def test_a_file_that_is_gone_is_forgotten(path: Path) -> None:
    file = File(path, "reorder", 3)
    while not file.held():
        file.write(b"x" * PAGE * 4, 0)
    assert file.io.remembers(file.node)
    file.io.forget(file.node)
    assert file.held() == 0
    assert not file.io.remembers(file.node)
    os.close(file.fd)
