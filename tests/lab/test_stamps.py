"""Stamps tell page, generation and tearing apart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.lab.errors import LabError
from emu.lab.stamps import TORN, cyclic_permutation, first_words, generations_of, page_words
from emu.lab.verify import read_by_ordinary_process


def stamped(seed: int, generations: list[int], page_size: int, first_pgoff: int = 0) -> np.ndarray:
    rows = [page_words(seed, [first_pgoff + i], g, page_size)[0] for i, g in enumerate(generations)]
    return np.concatenate(rows).view(np.uint8)


@given(
    seed=st.integers(-5, 1 << 70),
    generations=st.lists(st.integers(0, 2), min_size=1, max_size=8),
    first=st.integers(0, 1 << 40),
    page_shift=st.sampled_from([12, 14, 16]),
)
def test_each_page_is_recognised(seed: int, generations: list[int], first: int, page_shift: int) -> None:
    pages = stamped(seed, generations, 1 << page_shift, first)
    assert generations_of(pages, seed, first, 1 << page_shift).tolist() == generations


@given(at=st.integers(0, 4095), flip=st.integers(1, 255))
def test_one_changed_byte_is_seen(at: int, flip: int) -> None:
    pages = stamped(7, [1, 2], 4096)
    pages[4096 + at] ^= flip
    assert generations_of(pages, 7, 0, 4096).tolist() == [1, TORN]


@given(cut=st.integers(1, 511))
def test_a_page_torn_between_generations_is_seen(cut: int) -> None:
    old, new = page_words(3, [5], 1, 4096)[0], page_words(3, [5], 2, 4096)[0]
    torn = np.concatenate([new[:cut], old[cut:]]).view(np.uint8)
    assert generations_of(torn, 3, 5, 4096).tolist() == [TORN]


def test_a_page_in_the_wrong_place_or_cut_short_is_no_page() -> None:
    pages = stamped(1, [0, 0], 4096)
    assert generations_of(pages, 1, 1, 4096).tolist() == [TORN, TORN]
    assert generations_of(pages[:6000], 1, 0, 4096).tolist() == [0, TORN]


def test_stamps_are_distinct_over_pages_and_generations() -> None:
    words = np.concatenate([first_words(0, np.arange(100_000), g) for g in range(3)])
    assert len(np.unique(words)) == 300_000


@given(nr_pages=st.integers(2, 300), seed=st.integers(0, 1000))
def test_the_permutation_is_one_cycle(nr_pages: int, seed: int) -> None:
    permutation = cyclic_permutation(nr_pages, np.random.default_rng(seed))
    at, seen = 0, set()
    while at not in seen:
        seen.add(at)
        at = int(permutation[at])
    assert len(seen) == nr_pages


def test_one_page_has_no_permutation_without_fixed_points() -> None:
    with pytest.raises(ValueError, match="at least 2 pages"):
        cyclic_permutation(1, np.random.default_rng(0))


def test_another_process_reads_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(stamped(9, [0, 1, 2], 4096).tobytes())
    two.write_bytes(b"")
    found = read_by_ordinary_process([one, two], 9, 4096)
    assert [pages.tolist() for pages in found] == [[0, 1, 2], []]
    with pytest.raises(LabError, match="No such file"):
        read_by_ordinary_process([tmp_path / "none"], 9, 4096)
