"""Files of a disk that an override keeps in RAM: plain bytes to a program, never in the store, gone with the power."""

import json
import os
import random
from pathlib import Path

import pytest

from fsbackend.handles import Override
from fsbackend.node import ROOT_ID, Node, SetAttr
from fsbackend.pages import CHUNK_SIZE
from fsbackend.ramfile import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE
from tests.fsbackend.test_forgotten import Served

OLD = bytes(range(1, 251)) * 1200


@pytest.fixture
def served(tmp_path: Path) -> Served:
    made = Served(tmp_path)
    made.fs.overrides = [Override("wal*=ramfs")]
    (tmp_path / "wal").write_bytes(OLD)
    return made


def look_up(served: Served, name: bytes = b"wal") -> Node:
    return served.fs.lookup(ROOT_ID, name)


def read(served: Served, number: int, offset: int, nbytes: int) -> bytes:
    out = bytearray(b"\xff" * nbytes)
    return bytes(out[: served.fs.read(number, offset, memoryview(out))])


def test_what_was_truncated_away_does_not_come_back(served: Served) -> None:
    node = look_up(served)
    number = served.fs.open(node.id, os.O_RDWR)
    served.fs.setattr(node.id, SetAttr(nbytes=0))
    served.fs.setattr(node.id, SetAttr(nbytes=8192))
    assert read(served, number, 0, 1 << 20) == bytes(8192)
    served.fs.release(number)
    number = served.fs.open(node.id, os.O_RDWR)
    assert read(served, number, 0, 1 << 20) == bytes(8192), "closed and opened again"
    served.fs.write(number, 5000, memoryview(b"x"))
    assert read(served, number, 0, 1 << 20) == bytes(5000) + b"x" + bytes(3191)
    served.fs.setattr(node.id, SetAttr(nbytes=0))
    served.fs.setattr(node.id, SetAttr(nbytes=len(OLD)))
    served.fs.release(number)
    assert read(served, served.fs.open(node.id, os.O_RDONLY), 0, 1 << 20) == bytes(len(OLD)), "the store's size, only"


@pytest.mark.parametrize("seed", range(5))
def test_it_is_one_file(served: Served, tmp_path: Path, seed: int) -> None:
    """Random writes, sizes and holes against plain bytes."""
    chance = random.Random(seed)
    node = look_up(served)
    number = served.fs.open(node.id, os.O_RDWR)
    model = bytearray(OLD)

    def overwrite(start: int, data: bytes) -> None:
        model.extend(bytes(max(start - len(model), 0)))
        model[start : start + len(data)] = data

    for _ in range(300):
        start, nbytes = chance.randrange(2 * len(OLD)), chance.choice([1, 100, 4096, 9000, CHUNK_SIZE, 200_000])
        what = chance.choice(["write", "write", "truncate", "punch", "zero", "allocate", "reopen", "read"])
        if what == "write":
            data = chance.randbytes(nbytes)
            served.fs.write(number, start, memoryview(data))
            overwrite(start, data)
        elif what == "truncate":
            served.fs.setattr(node.id, SetAttr(nbytes=start))
            del model[start:]
            overwrite(start, b"")
        elif what == "punch":
            served.fs.fallocate(number, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, start, nbytes)
            model[start : start + nbytes] = bytes(max(min(nbytes, len(model) - start), 0))
        elif what == "zero":
            served.fs.fallocate(number, FALLOC_ZERO_RANGE, start, nbytes)
            overwrite(start, bytes(nbytes))
        elif what == "allocate":
            served.fs.fallocate(number, 0, start, nbytes)
            model.extend(bytes(max(start + nbytes - len(model), 0)))
        elif what == "reopen":
            served.fs.release(number)
            number = served.fs.open(node.id, os.O_RDWR)
        assert served.fs.attr(node).nbytes == len(model)
        assert read(served, number, start, nbytes) == model[start : start + nbytes]
    assert read(served, number, 0, 1 << 21) == model
    assert served.fs.sync() == []
    assert (tmp_path / "wal").read_bytes() == OLD


def test_fallocate_writes_nothing_to_the_store(served: Served, tmp_path: Path) -> None:
    number = served.fs.open(look_up(served).id, os.O_RDWR)
    served.fs.write(number, 0, memoryview(b"in RAM only"))
    served.fs.fallocate(number, 0, 0, len(OLD) + 5000)
    assert read(served, number, 0, 1 << 20) == b"in RAM only" + OLD[11:] + bytes(5000)
    with pytest.raises(OSError, match="not supported"):
        served.fs.fallocate(number, 8, 0, 4096)
    assert (tmp_path / "wal").read_bytes() == OLD


@pytest.mark.parametrize("survive", ["none", "all", "7"])
def test_a_power_cut_takes_it(served: Served, tmp_path: Path, survive: str) -> None:
    (tmp_path / "wal-short").write_bytes(OLD)
    node, short = look_up(served), look_up(served, b"wal-short")
    number = served.fs.open(node.id, os.O_RDWR)
    served.fs.write(number, 0, memoryview(b"x" * (len(OLD) + 1)))
    served.fs.fsync(number, datasync=False)
    served.fs.setattr(short.id, SetAttr(nbytes=10))
    told = {row["path"]: row["dirty_pages"] for row in json.loads(served.cutter.unsynced())}
    assert told == {"wal": len(OLD) // 4096 + 1, "wal-short": 0}
    served.cutter.cut(survive)
    assert served.cutter.unsynced() == "[]\n"
    assert read(served, number, 0, 1 << 20) == OLD
    assert (served.fs.attr(node).nbytes, served.fs.attr(short).nbytes) == (len(OLD), len(OLD))


def test_one_that_is_the_stores_file_is_closed(served: Served, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index in range(20):
        name = b"wal-%d" % index
        (tmp_path / os.fsdecode(name)).write_bytes(OLD)
        node = look_up(served, name)
        number = served.fs.open(node.id, os.O_RDWR)
        assert read(served, number, 0, 10) == OLD[:10]
        served.fs.release(number)
        assert node.data is None
        served.fs.forget(node.id, node.nlookup)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert set(served.fs.nodes) == {ROOT_ID}
