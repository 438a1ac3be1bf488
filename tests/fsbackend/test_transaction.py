"""Which barriers confirm names: of inodes that changed in the running transaction, and then all names before."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.durability import DurabilityJournal
from fsbackend.faultyio import FaultyIo
from fsbackend.filesystem import FileSystem
from fsbackend.inject import Injector
from fsbackend.namejournal import JournaledStore
from fsbackend.node import ROOT_ID, Cred, Node, SetAttr
from fsbackend.transaction import Transactions

CRED = Cred(os.geteuid(), os.getegid())


class Mount:
    """A filesystem without a kernel, whose names can be undone; `a` has 8 KiB; all is durable."""

    def __init__(self, store: Path) -> None:
        caps = parse_caps("disk")
        self.injector = Injector()
        io = FaultyIo(self.injector, DurabilityJournal())
        self.store = JournaledStore(str(store), io)
        self.fs = FileSystem(self.store, Cache(BackingDevInfo("test", caps), io), caps)
        self.node, self.number = self.fs.create(ROOT_ID, b"a", 0o644, os.O_RDWR, CRED)
        self.write(0, 8192)
        self.fs.create(ROOT_ID, b"old", 0o644, os.O_RDWR, CRED)
        self.dir = self.fs.mkdir(ROOT_ID, b"dir", 0o755, CRED)
        self.fs.sync()

    def write(self, offset: int, nbytes: int) -> None:
        self.fs.write(self.number, offset, memoryview(b"x" * nbytes))

    def rename_elsewhere(self) -> None:
        self.fs.rename(ROOT_ID, b"old", self.dir.id, b"new")

    def pending(self) -> list[bytes]:
        return [change.path for change in self.store.pending()]


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


def nothing(_mount: Mount) -> None: ...


def overwrite(mount: Mount) -> None:
    mount.write(100, 5000)


def append(mount: Mount) -> None:
    mount.write(8192, 1)


def truncate(mount: Mount) -> None:
    mount.fs.setattr(mount.node.id, SetAttr(nbytes=5000))


def fill_a_hole(mount: Mount) -> None:
    mount.fs.setattr(mount.node.id, SetAttr(nbytes=1 << 20))
    mount.fs.fsync(mount.number, datasync=False)
    mount.write(500_000, 10)


def set_mode(mount: Mount) -> None:
    mount.fs.setattr(mount.node.id, SetAttr(mode=0o600))


def rename(mount: Mount) -> None:
    mount.fs.rename(ROOT_ID, b"a", ROOT_ID, b"b")


def link(mount: Mount) -> None:
    mount.fs.link(mount.node.id, mount.dir.id, b"hard")


def unlink(mount: Mount) -> None:
    mount.fs.unlink(ROOT_ID, b"a")


@pytest.mark.parametrize(
    ("change", "fsync_commits", "fdatasync_commits"),
    [
        (nothing, False, False),
        (overwrite, True, False),
        (append, True, True),
        (truncate, True, True),
        (fill_a_hole, True, True),
        (set_mode, True, False),
        (rename, True, False),
        (link, True, False),
        (unlink, True, False),
    ],
)
def test_what_a_barrier_of_a_file_commits(
    mount: Mount, change: Callable[[Mount], None], fsync_commits: bool, fdatasync_commits: bool
) -> None:
    if change is not fill_a_hole:  # whose own barrier would commit it
        mount.rename_elsewhere()
    change(mount)
    if change is fill_a_hole:
        mount.rename_elsewhere()
    mount.fs.fsync(mount.number, datasync=True)
    assert (b"dir/new" not in mount.pending()) is fdatasync_commits
    mount.fs.fsync(mount.number, datasync=False)
    assert (b"dir/new" not in mount.pending()) is fsync_commits
    assert mount.pending() == [] or not fsync_commits, "all names go with it"


def test_a_barrier_commits_a_transaction_once(mount: Mount) -> None:
    overwrite(mount)
    mount.fs.fsync(mount.number, datasync=False)
    mount.rename_elsewhere()
    mount.fs.fsync(mount.number, datasync=False)
    assert mount.pending() == [b"dir/new"], "what changed of the file was committed before the name changed"


def test_a_barrier_of_a_directory(mount: Mount) -> None:
    other = mount.fs.mkdir(ROOT_ID, b"other", 0o755, CRED)
    mount.fs.sync()
    mount.rename_elsewhere()
    mount.fs.fsyncdir(other.id)
    assert mount.pending() == [b"dir/new"]
    mount.fs.fsyncdir(ROOT_ID)
    assert mount.pending() == [], "a name went from here"


def test_a_new_file_takes_all_names_with_it(mount: Mount) -> None:
    mount.rename_elsewhere()
    _node, number = mount.fs.create(ROOT_ID, b"new", 0o644, os.O_RDWR, CRED)
    mount.fs.fsync(number, datasync=True)
    assert mount.pending() == []


def test_a_barrier_that_fails_commits_nothing_and_the_next_one_does(mount: Mount) -> None:
    mount.rename_elsewhere()
    overwrite(mount)
    mount.injector.set_rules(["store.fsync times=1 error=EIO"])
    with pytest.raises(OSError, match="Input/output"):
        mount.fs.fsync(mount.number, datasync=False)
    assert mount.pending() == [b"dir/new"]
    mount.fs.fsync(mount.number, datasync=False)
    assert mount.pending() == []


def test_an_inode_that_the_kernel_forgot_is_known_again(mount: Mount) -> None:
    node: Node
    node, number = mount.fs.create(ROOT_ID, b"new", 0o644, os.O_RDWR, CRED)
    mount.fs.release(number)
    mount.fs.forget(node.id, node.nlookup)
    assert not node.id
    node = mount.fs.lookup(ROOT_ID, b"new")
    mount.fs.fsync(mount.fs.open(node.id, os.O_RDONLY), datasync=True)
    assert mount.pending() == []


def test_commits_that_end_in_another_order() -> None:
    transactions = Transactions()
    transactions.inode_changed((1, 1), data=True)
    first = transactions.begin_commit((1, 1), datasync=True)
    transactions.inode_changed((1, 2), data=False)
    assert transactions.begin_commit((1, 2), datasync=True) == 0
    second = transactions.begin_commit((1, 2), datasync=False)
    transactions.inode_changed((1, 1), data=False)
    transactions.committed(second)
    transactions.committed(first)
    assert (first, second, transactions.begin_commit((1, 2), datasync=False)) == (1, 2, 0)
    assert transactions.begin_commit((1, 1), datasync=True) == 0
    assert transactions.begin_commit((1, 1), datasync=False) == 3
