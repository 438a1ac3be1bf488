"""A daemon that is not root: directories that may be entered and not listed, files of others that may be written."""

import errno
import os
import pickle
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsbackend.newerrequests import TMPFILE_NAME
from fsbackend.node import ROOT_ID, Cred, SetAttr
from tests.fsbackend.test_forgotten import Served

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")

USER = 1000


@pytest.fixture
def store() -> Iterator[Path]:
    """Return a user's own directory; not under pytest's, which root alone may enter."""
    with tempfile.TemporaryDirectory(prefix="fremap-test-") as name:
        os.chown(name, USER, USER)
        yield Path(name)


def as_user(call: Callable[[], object]) -> object:
    """Return what a call returns to that user, or the error it raises."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        answer: object = None
        try:
            os.setgroups([])
            os.setegid(USER)
            os.seteuid(USER)
            answer = call()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            answer = repr(error)
        finally:
            with os.fdopen(write_end, "wb") as pipe:
                pickle.dump(answer, pipe)
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pickle.load(pipe)
    os.waitpid(child, 0)
    return answer


def test_a_directory_to_enter_and_not_to_list(store: Path) -> None:
    def call() -> object:
        served = Served(store)
        fs = served.fs
        folder = fs.mkdir(ROOT_ID, b"dark", 0o311, served.cred)
        node, number = fs.create(folder.id, b"file", 0o600, os.O_RDWR, served.cred)
        fs.write(number, 0, memoryview(b"seen"))
        fs.release(number)
        below = fs.mkdir(folder.id, b"below", 0o755, served.cred)
        fs.rename(folder.id, b"file", below.id, b"moved")
        return fs.attr(fs.lookup(below.id, b"moved")).nbytes, fs.attr(node).nlink, fs.close()

    assert as_user(call) == (4, 1, [])


@pytest.mark.parametrize("rules", [(), ("reorder",)], ids=["in order", "reordered"])
def test_a_writable_file_of_another_owner(store: Path, rules: tuple[str, ...]) -> None:
    foreign = store / "foreign"
    foreign.write_bytes(b"old")
    foreign.chmod(0o666)

    def call() -> object:
        served = Served(store, rules=rules)
        served.write(b"foreign", b"x" * 5000, sync=True)
        return served.read(b"foreign") == b"x" * 5000, served.fs.close()

    assert as_user(call) == (True, [])
    assert foreign.read_bytes() == b"x" * 5000


def test_what_cannot_be_given_to_its_maker_is_not_made(store: Path) -> None:
    """Another user is let in, and may write to a directory: the daemon may not make files of that user."""

    def call() -> object:
        fs, stranger = Served(store).fs, Cred(USER + 1, USER + 1)
        refused = []
        for make in (
            lambda: fs.create(ROOT_ID, b"file", 0o644, os.O_RDWR, stranger),
            lambda: fs.create(ROOT_ID, TMPFILE_NAME, 0o644, os.O_RDWR, stranger),
            lambda: fs.mkdir(ROOT_ID, b"dir", 0o755, stranger),
            lambda: fs.symlink(ROOT_ID, b"link", b"target", stranger),
            lambda: fs.mknod(ROOT_ID, b"fifo", stat.S_IFIFO | 0o644, 0, stranger),
            lambda: fs.mknod(ROOT_ID, b"plain", stat.S_IFREG | 0o644, 0, stranger),
        ):
            try:
                make()
            except OSError as error:
                refused.append(error.errno)
        return refused, list(store.iterdir()), fs.close()

    assert as_user(call) == ([errno.EPERM] * 6, [], [])


def test_a_read_only_file_of_its_own(store: Path) -> None:
    """Made with mode 0444 and written through the descriptor that made it, as git does."""

    def call() -> object:
        served = Served(store)
        fs = served.fs
        node, number = fs.create(ROOT_ID, b"object", 0o444, os.O_RDWR, served.cred)
        fs.write(number, 0, memoryview(b"x" * 5000))
        fs.fsync(number, datasync=False)
        fs.release(number)
        fs.setattr(node.id, SetAttr(mtime_ns=7))
        return fs.attr(node).mtime_ns, served.read(b"object") == b"x" * 5000, fs.close()

    assert as_user(call) == (7, True, [])


def test_a_file_that_is_read_while_it_is_made_writable(store: Path) -> None:
    def call() -> object:
        served = Served(store)
        fs = served.fs
        node, number = fs.create(ROOT_ID, b"file", 0o444, os.O_RDWR, served.cred)
        fs.write(number, 0, memoryview(b"before and after"))
        fs.fsync(number, datasync=True)
        fs.release(number)
        reader = fs.open(node.id, os.O_RDONLY)
        refused = []
        for change in (lambda: fs.open(node.id, os.O_RDWR), lambda: fs.setattr(node.id, SetAttr(nbytes=9))):
            try:
                change()
            except OSError as error:
                refused.append(error.errno)
        fs.setattr(node.id, SetAttr(mode=0o644))
        fs.setattr(node.id, SetAttr(nbytes=9))
        fs.write(fs.open(node.id, os.O_WRONLY), 7, memoryview(b"!!"))
        out = bytearray(20)
        done = fs.read(reader, 0, memoryview(out))
        failed = fs.sync()
        return refused, bytes(out[:done]), failed, (store / "file").read_bytes()

    assert as_user(call) == ([errno.EACCES, errno.EACCES], b"before !!", [], b"before !!")
