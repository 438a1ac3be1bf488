"""A cached file under a writer that never rests: what was dirty when a barrier began is in the store when it ends."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.cachedfile import CachedFile
from fsbackend.dirtyfile import MAX_BATCH_BYTES
from fsbackend.faultyio import FaultyIo
from fsbackend.flusher import Flusher
from fsbackend.inject import Injector
from fsbackend.node import Node
from fsbackend.pages import CHUNK_SIZE
from fsbackend.storeio import ShortWriteError, StoreIo
from fsbackend.throttle import DirtyParams

MIB = 1 << 20
NR_WRITES_MAX = 100


class BusyIo(StoreIo):
    """A store at each of whose writes a program writes, too; some of its operations fail."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.refused_offset = -1
        self.refuses_truncate = False
        self.refuses_reads = False
        self.nr_writes = 0

    def pwrite_all(self, node: Node, fd: int, buffers: Sequence[memoryview], offset: int) -> None:
        self.nr_writes += 1
        assert self.nr_writes < NR_WRITES_MAX, "writeback does not end"
        self.meanwhile()
        if offset == self.refused_offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().pwrite_all(node, fd, buffers, offset)

    def pread_into(self, node: Node, fd: int, out: memoryview, offset: int) -> int:
        if self.refuses_reads:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread_into(node, fd, out, offset)

    def truncate(self, node: Node, fd: int, nbytes: int) -> None:
        if self.refuses_truncate:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().truncate(node, fd, nbytes)


class Files:
    """A cache over one directory, and files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.io = BusyIo()
        self.now_s = 0.0
        caps = parse_caps("disk")
        self.cache = Cache(BackingDevInfo("test", caps, DirtyParams(expire_s=10)), self.io, clock=self.tick)
        self.files: list[CachedFile] = []

    def tick(self) -> float:
        self.now_s += 1.0
        return self.now_s

    def make(self, name: str) -> CachedFile:
        fd = os.open(self.folder / name, os.O_CREAT | os.O_RDWR)
        file = CachedFile(self.cache, Node(len(self.files) + 1, 0o100000), fd, parse_caps("disk"))
        self.files.append(file)
        return file

    def stored(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path)
    yield made
    for file in made.files:
        file.discard()
        file.close()


def put(file: CachedFile, offset: int, data: bytes) -> None:
    file.write(offset, memoryview(data), direct=False)


def test_a_barrier_reaches_the_end_of_a_file_whose_head_is_rewritten(files: Files) -> None:
    file = files.make("file")
    put(file, 0, b"old!" * (4 * MIB))
    files.io.meanwhile = lambda: put(file, 0, b"new!" * MIB)
    file.fsync(datasync=False)
    assert files.stored("file")[4 * MIB :] == b"old!" * (3 * MIB)
    assert file.pages.nr_dirty() == 4 * MIB // 4096, "the head is dirty again, for the next barrier"


def test_a_barrier_does_not_follow_a_writer_who_appends(files: Files) -> None:
    file = files.make("file")
    put(file, 0, b"x" * (6 * MIB))
    files.io.meanwhile = lambda: put(file, file.nbytes, b"y" * (5 * MIB))
    assert file.write_back_all() == 6 * MIB // 4096
    assert files.stored("file") == b"x" * (6 * MIB)


def test_a_small_file_takes_one_batch(files: Files) -> None:
    file = files.make("file")
    put(file, 5000, b"x")
    assert file.write_back_all() == 1
    assert files.io.nr_writes == 1
    assert file.write_back_all() == 0
    assert files.io.nr_writes == 1


def test_idle_time_between_two_writebacks_is_not_taken_for_a_slow_disk(files: Files) -> None:
    """Each writeback here takes a second; between them nobody wrote for a day."""
    file = files.make("file")
    law = files.cache.bdi.throttle
    for _ in range(3):
        files.now_s += 86_400
        put(file, 0, b"x" * MIB)
        file.write_back_all()
    assert law.avg_write_bandwidth > 0.3 * MIB / 4096


def test_a_truncation_that_the_store_refuses_changes_nothing(files: Files) -> None:
    file = files.make("file")
    put(file, 0, b"x" * 10_000)
    files.io.refuses_truncate = True
    with pytest.raises(OSError, match="Input/output"):
        file.truncate(5000)
    assert (file.nbytes, file.pages.nr_dirty(), files.cache.bdi.nr_dirty) == (10_000, 3, 3)
    file.fsync(datasync=False)
    assert files.stored("file") == b"x" * 10_000


@pytest.mark.parametrize("offset", [0, 4096, 5000])
def test_a_write_whose_last_page_cannot_be_read_changes_nothing(files: Files, offset: int) -> None:
    """It spans two chunks: what is in the first must neither be there uncounted, nor be lost from the list."""
    (files.folder / "file").write_bytes(b"old!" * 100_000)
    file = files.make("file")
    files.io.refuses_reads = True
    with pytest.raises(OSError, match="Input/output"):
        put(file, offset, b"n" * (CHUNK_SIZE + 100))
    assert (file.pages.nr_pages, files.cache.bdi.nr_dirty, len(file.pages.chunks)) == (0, 0, 0)
    files.io.refuses_reads = False
    put(file, offset, b"n" * (CHUNK_SIZE + 100))
    file.fsync(datasync=False)
    assert files.cache.bdi.nr_dirty == 0
    assert files.stored("file").count(b"n") == CHUNK_SIZE + 100


@pytest.mark.parametrize("nr_taken", [1, 5000])
def test_a_direct_write_that_the_store_takes_in_part_is_short(
    files: Files, monkeypatch: pytest.MonkeyPatch, nr_taken: int
) -> None:
    file = files.make("file")
    put(file, 0, b"dirty" * 1000)
    real = os.pwritev

    def pwritev(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset > 4000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, [buffers[0][:nr_taken]], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", pwritev)
        with pytest.raises(ShortWriteError, match="No space left") as told:
            file.write(4000, memoryview(b"new" * 10_000), direct=True)
        with pytest.raises(OSError, match="No space left"):
            file.write(9001, memoryview(b"new"), direct=True)
    assert told.value.nbytes == nr_taken
    assert file.nbytes == max(5000, 4000 + nr_taken)
    file.fsync(datasync=False)
    want = bytearray(b"dirty" * 1000)
    want[4000 : 4000 + nr_taken] = (b"new" * 10_000)[:nr_taken]
    assert files.stored("file") == want


def test_what_a_torn_direct_write_left_beyond_the_end_is_cut_off(files: Files) -> None:
    injector = Injector(1)
    files.cache.io = FaultyIo(injector, None)
    injector.set_rules(["store.write torn"])
    file = files.make("file")
    for _ in range(5):
        with pytest.raises(OSError, match="Input/output"):
            file.write(0, memoryview(b"torn" * 5000), direct=True)
        assert files.stored("file") == b""


def test_the_flusher_goes_on_where_it_left_off(files: Files) -> None:
    file = files.make("file")
    put(file, 0, b"old!" * (4 * MIB))
    files.io.meanwhile = lambda: put(file, 0, b"new!" * MIB)
    for _ in range(16 * MIB // MAX_BATCH_BYTES):
        assert file.write_back_some(pace=False) == MAX_BATCH_BYTES // 4096
    assert files.stored("file")[4 * MIB :] == b"old!" * (3 * MIB)
    files.io.meanwhile = lambda: None
    file.write_back_some(pace=False)
    assert files.stored("file")[: 4 * MIB] == b"new!" * MIB
    assert not file.pages.nr_pages
    assert not files.cache.dirty_files


def test_the_flusher_gets_past_a_part_that_the_store_refuses(files: Files) -> None:
    file = files.make("file")
    put(file, 0, b"x" * (8 * MIB))
    files.io.refused_offset = 0
    with pytest.raises(OSError, match="Input/output"):
        file.write_back_some(pace=False)
    file.write_back_some(pace=False)
    assert files.stored("file")[4 * MIB :] == b"x" * (4 * MIB)
    assert list(files.cache.dirty_files.values()) == [1.0], "what failed is as old as it was"
    files.io.refused_offset = -1
    file.write_back_some(pace=False)
    assert files.stored("file") == b"x" * (8 * MIB)


def test_a_file_that_is_always_written_to_does_not_keep_others_from_expiring(files: Files) -> None:
    hot, cold = files.make("hot"), files.make("cold")
    put(hot, 0, b"x" * CHUNK_SIZE)
    files.io.meanwhile = lambda: put(hot, 0, b"y" * CHUNK_SIZE)
    files.now_s += 20
    put(cold, 0, b"cold")
    flusher = Flusher(files.cache)
    flusher.write_expired()
    assert (files.stored("hot")[:1], files.stored("cold")) == (b"y", b"")
    files.now_s += 20
    flusher.write_expired()
    assert files.stored("cold") == b"cold"
