"""The kernel looks up ``.`` and ``..`` on its way from a file handle to a name: that must rename nothing."""

import os
from pathlib import Path

import pytest

from fsbackend.bdi import BackingDevInfo, parse_caps
from fsbackend.cache import Cache
from fsbackend.dirstore import DirStore
from fsbackend.filesystem import FileSystem
from fsbackend.node import ROOT_ID, Cred
from fsbackend.ramstore import RamStore
from fsbackend.storeio import StoreIo
from fsbackend.throttle import DirtyParams

CRED = Cred(os.geteuid(), os.getegid())


@pytest.fixture(params=["disk", "ramfs"])
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> FileSystem:
    caps, io = parse_caps(request.param), StoreIo()
    store = DirStore(str(tmp_path)) if request.param == "disk" else RamStore(io)
    return FileSystem(store, Cache(BackingDevInfo("test", caps, DirtyParams()), io), caps)


def test_dots_rename_nothing(fs: FileSystem) -> None:
    above = fs.mkdir(ROOT_ID, b"above", 0o755, CRED)
    below = fs.mkdir(above.id, b"below", 0o755, CRED)
    file, number = fs.create(below.id, b"file", 0o644, os.O_RDWR, CRED)
    assert fs.lookup(below.id, b"..") is above
    assert fs.lookup(above.id, b"..") is fs.node(ROOT_ID)
    assert fs.lookup(below.id, b".") is below
    assert fs.lookup(file.id, b".") is file
    assert [above.name, below.name, file.name] == [b"above", b"below", b"file"]
    assert below.parent is above
    assert file.path() == b"above/below/file"
    fs.release(number)


def test_nothing_is_above_the_root(fs: FileSystem) -> None:
    root = fs.node(ROOT_ID)
    assert fs.lookup(ROOT_ID, b"..") is root
    assert root.parent is None


def test_a_directory_forgotten_is_found_from_below(fs: FileSystem) -> None:
    above = fs.mkdir(ROOT_ID, b"above", 0o755, CRED)
    below = fs.mkdir(above.id, b"below", 0o755, CRED)
    fs.forget(above.id, above.nlookup)
    assert fs.lookup(below.id, b"..") is above
    assert fs.lookup(ROOT_ID, b"above") is above
    assert fs.lookup(above.id, b"below") is below
