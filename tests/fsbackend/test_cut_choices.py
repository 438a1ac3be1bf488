"""What of unsynced writes a seeded cut lets live: half of the pages, wherever they are; holes stay holes."""

import os
from pathlib import Path

import pytest

from fsbackend.node import ROOT_ID, SetAttr
from fsbackend.pages import PAGE_SIZE
from tests.fsbackend.test_forgotten import Served

NR_PAGES = 256
HUGE = 1 << 40


@pytest.mark.parametrize("where", ["in the mount's cache", "in the store", "in the disk's cache"])
def test_half_of_the_pages_live(tmp_path: Path, where: str) -> None:
    served = Served(tmp_path)
    nr_alive = 0
    for seed in range(4):
        served.write(b"file", b"o" * PAGE_SIZE * NR_PAGES, sync=True)
        served.io.injector.set_rules(["store.write reorder=100000"] if "disk" in where else [])
        node = served.fs.lookup(ROOT_ID, b"file")
        number = served.fs.open(node.id, os.O_RDWR)
        served.fs.write(number, 0, memoryview(b"n" * PAGE_SIZE * NR_PAGES))
        if "mount" not in where:
            for file in served.fs.cache.oldest():
                file.write_back_all()
        served.cutter.cut(f"{seed}")
        served.fs.release(number)
        data = (tmp_path / "file").read_bytes()
        assert set(data) <= set(b"on")
        nr_alive += data.count(b"n") // PAGE_SIZE
        served.io.injector.set_rules([])
    assert 0.44 < nr_alive / (4 * NR_PAGES) < 0.56


def truncate(served: Served, nbytes: int) -> None:
    node = served.fs.lookup(ROOT_ID, b"file")
    served.fs.setattr(node.id, SetAttr(nbytes=nbytes))
    served.fs.forget(node.id, 1)


def test_a_hole_that_does_not_survive_is_not_filled(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.write(b"file", b"", sync=True)
    sizes = set()
    for seed in ("none", "1", "2", "3", "4", "5"):
        truncate(served, HUGE)
        served.write(b"file", b"n" * PAGE_SIZE, sync=False)
        served.cutter.cut(seed)
        info = (tmp_path / "file").stat()
        assert info.st_blocks < 100
        sizes.add(info.st_size)
        truncate(served, 0)
        served.fs.sync()
    assert sizes == {0, HUGE}


def test_a_hole_that_was_cut_off_is_there_again(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with (tmp_path / "file").open("wb") as file:
        file.write(b"o" * 5000)
        file.truncate(HUGE)
        file.seek(HUGE // 2)
        file.write(b"o" * 5000)
    truncate(served, 100)
    (journal,) = served.journal.files.values()
    assert len(journal.pages) == 4, "pre-images of data only"
    served.write(b"file", b"n" * 50_000, sync=False)
    served.cutter.cut("none")
    assert (tmp_path / "file").stat().st_size == HUGE
    with (tmp_path / "file").open("rb") as file:
        assert file.read(60_000) == b"o" * 5000 + bytes(55_000)
        file.seek(HUGE // 2 - 4096)
        assert file.read(12_288) == bytes(4096) + b"o" * 5000 + bytes(3192)
