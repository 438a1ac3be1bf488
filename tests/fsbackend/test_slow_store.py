"""A store that takes its time holds up who asked for it, and nobody else; what is not durable is known meanwhile."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.dirstore import DirStore
from fsbackend.durability import Choice, DurabilityJournal
from fsbackend.faultyio import FaultyIo
from fsbackend.filesystem import FileSystem
from fsbackend.inject import Injector
from fsbackend.namejournal import JournaledStore
from fsbackend.node import ROOT_ID, Cred, Node, SetAttr
from fsbackend.throttle import DirtyParams

CRED = Cred(os.geteuid(), os.getegid())


class Slow:
    """A filesystem whose injected delays last until `go` is set; `waiting` says that one has begun."""

    def __init__(self, store: Path, *, metadata: bool = False) -> None:
        caps = parse_caps("disk")
        self.injector = Injector()
        self.waiting, self.go = threading.Event(), threading.Event()
        self.injector.sleep = self._sleep
        self.io = FaultyIo(self.injector, DurabilityJournal())
        backing = JournaledStore(str(store), self.io) if metadata else DirStore(str(store))
        self.fs = FileSystem(backing, Cache(BackingDevInfo("test", caps, DirtyParams()), self.io), caps)

    def _sleep(self, _delay_s: float) -> None:
        self.waiting.set()
        assert self.go.wait(20)

    def make(self, name: bytes = b"file") -> tuple[Node, int]:
        """Make a file with a dirty page."""
        node, number = self.fs.create(ROOT_ID, name, 0o644, os.O_RDWR, CRED)
        self.fs.write(number, 0, memoryview(b"x" * 8192))
        return node, number

    @contextmanager
    def during(self, *calls: object) -> Iterator[None]:
        """Run the calls in threads of their own; inside, the first is in a delay of the store."""
        threads = [threading.Thread(target=call) for call in calls]  # type: ignore[arg-type]
        try:
            threads[0].start()
            assert self.waiting.wait(20)
            for thread in threads[1:]:
                thread.start()
            yield
        finally:
            self.go.set()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()

    def names_are_free(self) -> bool:
        """Return whether the namespace's lock can be had; it is for everybody's lookups."""
        free = self.fs.lock.acquire(timeout=0.5)
        if free:
            self.fs.lock.release()
        return free


@pytest.mark.parametrize("rule", ["store.truncate delay=1", "store.write delay=1"])
def test_a_truncation_that_waits_for_the_store_locks_no_names(tmp_path: Path, rule: str) -> None:
    slow = Slow(tmp_path)
    node, _number = slow.make()
    slow.injector.set_rules([rule])
    truncate = lambda: slow.fs.setattr(node.id, SetAttr(nbytes=100))  # noqa: E731 - one call, for a thread
    calls = [truncate] if "truncate" in rule else [slow.fs.sync, truncate]
    with slow.during(*calls):
        assert slow.names_are_free()
    assert slow.fs.attr(node).nbytes == 100
    assert node.data is not None
    assert node.data.nr_open == 1


@pytest.mark.parametrize("metadata", [False, True])
def test_the_barrier_of_a_directory_locks_no_names(
    tmp_path: Path, metadata: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(tmp_path, metadata=metadata)
    fsync = os.fsync

    def slow_fsync(fd: int) -> None:
        slow.injector.sleep(1.0)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    with slow.during(lambda: slow.fs.fsyncdir(ROOT_ID)):
        assert slow.names_are_free()
    slow.fs.close()


def test_changes_of_names_are_confirmed_once_by_barriers_side_by_side(tmp_path: Path) -> None:
    slow = Slow(tmp_path, metadata=True)
    store = slow.fs.store
    assert isinstance(store, JournaledStore)
    slow.fs.mkdir(ROOT_ID, b"one", 0o755, CRED)
    began = [store.nr_changes(), store.nr_changes()]
    store.confirm(began[0])
    slow.fs.mkdir(ROOT_ID, b"two", 0o755, CRED)
    store.confirm(began[1])
    assert [change.path for change in store.pending()] == [b"two"]
    slow.fs.close()


def test_the_last_forget_of_a_removed_file_does_not_wait_for_its_writeback(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    node, number = slow.make()
    (file,) = slow.fs.cache.oldest()
    slow.injector.set_rules(["store.write delay=1"])
    with slow.during(file.write_back_all):
        slow.fs.unlink(ROOT_ID, b"file")
        slow.fs.forget(node.id, node.nlookup)
        closer = threading.Thread(target=slow.fs.release, args=(number,))
        closer.start()
        closer.join(0.5)
        stuck = closer.is_alive()
    closer.join(20)
    assert not stuck
    slow.fs.reap()
    assert file.fd < 0
    assert node.id == 0
    assert slow.fs.cache.bdi.nr_dirty == 0


def test_a_barrier_waits_for_a_write_whose_pre_image_was_taken_before_it(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    node, number = slow.make()
    slow.fs.fsync(number, datasync=False)
    file, journal = node.data, slow.io.journal
    assert journal is not None
    keep = journal.before_write

    def slow_keep(node: Node, fd: int, offset: int, nbytes: int) -> None:
        keep(node, fd, offset, nbytes)
        slow.injector.sleep(1.0)

    journal.before_write = slow_keep  # type: ignore[method-assign]
    fd = file.fd  # type: ignore[union-attr]
    confirmed = threading.Event()

    def barrier() -> None:
        slow.io.fsync(node, fd, datasync=False)
        confirmed.set()

    with slow.during(lambda: slow.io.pwrite_all(node, fd, [memoryview(b"UNSYNCED")], 0), barrier):
        too_early = confirmed.wait(0.3)
    assert not too_early, "what comes after the barrier would be confirmed by it"
    assert node not in journal.files
    slow.io.pwrite_all(node, fd, [memoryview(b"LATER..!")], 0)
    journal.cut(node, fd, Choice("none"))
    assert os.pread(fd, 8, 0) == b"UNSYNCED"


def test_close_reports_an_error_and_leaves_it_to_fsync(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    _node, number = slow.make()
    slow.injector.set_rules(["store.write nth=1 error=EIO"])
    (file,) = slow.fs.cache.oldest()
    with pytest.raises(OSError, match="Input/output"):
        file.write_back_all()
    for _ in range(2):  # a forked child's close, and another's
        with pytest.raises(OSError, match="Input/output"):
            slow.fs.flush(number)
    with pytest.raises(OSError, match="Input/output"):
        slow.fs.fsync(number, datasync=False)
    slow.fs.fsync(number, datasync=False)
    slow.fs.flush(number)
