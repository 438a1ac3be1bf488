"""Each open descriptor hears of each writeback error once; of one that nobody heard of, the next opener, too."""

import errno
import os
import threading
from pathlib import Path

import pytest

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.dirstore import DirStore
from fsbackend.dirtyfile import MAX_BATCH_BYTES
from fsbackend.errseq import ErrSeq
from fsbackend.faultyio import FaultyIo
from fsbackend.filesystem import FileSystem
from fsbackend.inject import Injector
from fsbackend.node import ROOT_ID, Cred, Node
from fsbackend.openfiles import MAX_LINGERING
from fsbackend.pages import PAGE_SIZE


class Mount:
    """A filesystem without a kernel."""

    def __init__(self, store: Path, *overrides: str) -> None:
        caps = parse_caps("disk")
        self.injector = Injector()
        self.cache = Cache(BackingDevInfo("test", caps), FaultyIo(self.injector, None))
        self.fs = FileSystem(DirStore(str(store)), self.cache, caps, overrides)

    def make(self, name: bytes = b"file") -> tuple[Node, int]:
        node, number = self.fs.create(ROOT_ID, name, 0o644, os.O_RDWR, Cred(os.geteuid(), os.getegid()))
        self.fs.write(number, 0, memoryview(b"x" * 8192))
        return node, number

    def fail_writeback(self) -> None:
        self.injector.set_rules(["store.write nth=1 error=EDQUOT"])
        (file,) = self.cache.oldest()
        with pytest.raises(OSError, match="quota"):
            file.write_back_all()

    def says(self, number: int) -> list[int]:
        """Return what two calls of fsync say."""
        said = []
        for _ in range(2):
            try:
                self.fs.fsync(number, datasync=True)
                said.append(0)
            except OSError as error:
                said.append(error.errno or -1)
        return said


def test_an_error_that_nobody_heard_of_meets_the_next_opener(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    node, first = mount.make()
    mount.fail_writeback()
    second = mount.fs.open(node.id, os.O_RDONLY)
    assert mount.says(second) == [errno.EDQUOT, 0]
    third = mount.fs.open(node.id, os.O_RDWR)
    assert mount.says(third) == [0, 0], "by now somebody was told"
    assert mount.says(first) == [errno.EDQUOT, 0]


def test_an_error_outlives_the_descriptors(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    node, number = mount.make()
    mount.fs.release(number)
    mount.fail_writeback()
    (file,) = mount.cache.oldest()
    file.write_back_all()
    mount.fs.reap()
    assert node.data is None
    assert mount.says(mount.fs.open(node.id, os.O_RDONLY)) == [errno.EDQUOT, 0]
    assert mount.says(mount.fs.open(node.id, os.O_RDONLY)) == [0, 0]


def test_fsync_goes_on_after_a_batch_that_fails(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    node, number = mount.make()
    nbytes = 5 * MAX_BATCH_BYTES // 2
    mount.fs.write(number, 0, memoryview(b"x" * nbytes))
    mount.injector.set_rules(["store.write nth=1 error=EIO"])
    with pytest.raises(OSError, match="Input/output"):
        mount.fs.fsync(number, datasync=False)
    assert node.data is not None
    assert node.data.nr_pages == MAX_BATCH_BYTES // PAGE_SIZE, "the first batch"
    with (tmp_path / "file").open("rb") as file:
        assert file.read() == bytes(MAX_BATCH_BYTES) + b"x" * (nbytes - MAX_BATCH_BYTES)
    mount.fs.fsync(number, datasync=False)
    assert (tmp_path / "file").read_bytes() == b"x" * nbytes


def test_close_tells_of_what_failed_since_the_open_only(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    node, first = mount.make()
    mount.fail_writeback()
    later = mount.fs.open(node.id, os.O_RDONLY)
    mount.fs.flush(later)
    with pytest.raises(OSError, match="quota"):
        mount.fs.flush(first)


def test_bytes_that_are_gone_are_told_to_those_who_were_there(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    node, first = mount.make()
    mount.fs.lost(first)
    assert mount.says(mount.fs.open(node.id, os.O_RDWR)) == [0, 0]
    mount.fs.flush(first)
    assert mount.says(first) == [errno.EIO, 0]


def test_an_error_that_comes_while_another_is_told_is_told_later() -> None:
    errors = ErrSeq()
    errors.failed(errno.EIO)
    since, failed = errors.advance(0)
    errors.failed(errno.ENOSPC)
    assert (failed, errors.advance(since)) == (errno.EIO, (2, errno.ENOSPC))


def test_files_that_stay_in_ram_do_not_make_others_wait_at_close(tmp_path: Path) -> None:
    mount = Mount(tmp_path, "ram-*=ramfs")
    for number in range(MAX_LINGERING + 1):
        mount.fs.release(mount.make(b"ram-%d" % number)[1])
    node, number = mount.make()
    mount.fs.release(number)
    assert node.data is not None
    assert node.data.nr_pages == 2, "it was written back at close"
    assert mount.fs.lingering == {node}


def test_no_forget_waits_for_a_writeback_that_begins_just_then(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    node, number = mount.make()
    mount.fs.unlink(ROOT_ID, b"file")
    mount.fs.release(number)
    (file,) = mount.cache.oldest()
    with file.io_lock:
        forgetter = threading.Thread(target=mount.fs.forget, args=(node.id, node.nlookup))
        forgetter.start()
        forgetter.join(5)
        assert not forgetter.is_alive()
    mount.fs.reap()
    assert (file.fd, mount.cache.bdi.nr_dirty, mount.cache.oldest()) == (-1, 0, [])
