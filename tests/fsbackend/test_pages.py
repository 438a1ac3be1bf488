"""The page map against plain bytes, and the durability journal against what a cut may leave."""

import os
import random
from pathlib import Path

import pytest

from fsbackend.durability import Choice, DurabilityJournal
from fsbackend.node import Node
from fsbackend.pagepool import HEADER_NBYTES, PagePool
from fsbackend.pages import CHUNK_SHIFT, CHUNK_SIZE, PAGE_SHIFT, PAGE_SIZE, PageMap, bit_runs


@pytest.mark.parametrize(
    ("mask", "runs"),
    [(0, []), (1, [(0, 1)]), (0b1011, [(0, 2), (3, 1)]), (0xFFFFFFFF, [(0, 32)]), (1 << 31 | 1, [(0, 1), (31, 1)])],
)
def test_bit_runs(mask: int, runs: list[tuple[int, int]]) -> None:
    assert list(bit_runs(mask)) == runs


@pytest.mark.parametrize("seed", range(5))
def test_a_map_over_a_store_is_one_file(seed: int) -> None:
    chance = random.Random(seed)
    size = 600_000
    store = bytearray(chance.randbytes(size))
    model = bytearray(store)
    pages = PageMap(PagePool())

    def fill(offset: int, page: memoryview) -> None:
        data = store[offset : offset + PAGE_SIZE]
        page[: len(data)] = data
        page[len(data) :] = bytes(PAGE_SIZE - len(data))

    for _ in range(500):
        start = chance.randrange(size - 1)
        nbytes = min(chance.choice([1, 10, 4096, 5000, 131_072, 140_000]), size - start)
        what = chance.random()
        if what < 0.2 and start + CHUNK_SIZE <= size:
            start -= start % CHUNK_SIZE
            block = pages.pool.alloc()
            block.memory[:] = model[start : start + CHUNK_SIZE] = chance.randbytes(CHUNK_SIZE)
            before = pages.nr_dirty()
            assert pages.adopt(start, block) == pages.nr_dirty() - before
            assert block.taken
        elif what < 0.5:
            data = chance.randbytes(nbytes)
            model[start : start + nbytes] = data
            before = pages.nr_dirty()
            assert pages.write(start, memoryview(data), fill) == pages.nr_dirty() - before
        elif what < 0.8:
            out = bytearray(store[start : start + nbytes])
            pages.overlay(start, memoryview(out))
            assert out == model[start : start + nbytes]
        else:
            failed = chance.random() < 0.3
            for run in list(pages.dirty_runs())[:3]:
                memory = pages.start_writeback(*run)
                at = (run[0] << CHUNK_SHIFT) + (run[1] << PAGE_SHIFT)
                if not failed:
                    kept = memory[: max(size - at, 0)]
                    store[at : at + len(kept)] = kept
                pages.end_writeback(*run, failed=failed)
        assert pages.nr_pages == pages.nr_dirty()
    pages.clear()
    assert not pages.chunks


def test_a_block_that_was_taken_stays_so() -> None:
    """Written back and freed before its reader looked, its memory must not be read into by that reader again."""
    pool = PagePool()
    pages = PageMap(pool)
    block = pool.alloc()
    pages.adopt(0, block)
    for run in list(pages.dirty_runs()):
        pages.start_writeback(*run)
        pages.end_writeback(*run, failed=False)
    assert not pages.chunks
    assert block.taken
    again = pool.alloc()
    assert again.address == block.address, "the pool gave the same memory to another"
    assert block.taken
    assert not again.taken


def test_the_pool_takes_back_and_gives_again() -> None:
    pool = PagePool()
    taken = [pool.alloc() for _ in range(200)]
    assert len({block.address for block in taken}) == 200
    assert all(len(block.memory) == CHUNK_SIZE == len(block.request) - HEADER_NBYTES for block in taken)
    nr_slabs = pool.nr_slabs
    for block in taken:
        block.free()
    again = [pool.alloc() for _ in range(200)]
    assert pool.nr_slabs == nr_slabs
    for block in again:
        block.free()
    while pool.nr_slabs:
        pool.trim()


@pytest.mark.parametrize("survive", ["none", "all", "5"])
def test_a_cut_leaves_old_or_new_pages(tmp_path: Path, survive: str) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        os.write(fd, b"o" * PAGE_SIZE * 8)
        journal, node = DurabilityJournal(), Node(1, 0o100000)
        journal.before_write(node, fd, PAGE_SIZE, PAGE_SIZE * 10)
        os.pwrite(fd, b"n" * PAGE_SIZE * 10, PAGE_SIZE)
        journal.cut(node, fd, Choice(survive))
        data = os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)
    if survive == "none":
        assert data == b"o" * PAGE_SIZE * 8
    if survive == "all":
        assert data == b"o" * PAGE_SIZE + b"n" * PAGE_SIZE * 10
    pages = [data[start : start + PAGE_SIZE] for start in range(0, len(data), PAGE_SIZE)]
    assert all(page in {b"o" * PAGE_SIZE, b"n" * PAGE_SIZE, bytes(PAGE_SIZE)} for page in pages)
    assert bytes(PAGE_SIZE) not in pages[:8]
