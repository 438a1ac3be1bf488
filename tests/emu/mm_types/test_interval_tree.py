"""The interval tree against brute force."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import KernelBug
from emu.mm_types.interval_tree import IntervalTree


@dataclass(frozen=True, eq=False)
class Span:
    pgoff: int
    nr_pages: int


spans = st.builds(Span, st.integers(0, 70), st.one_of(st.integers(1, 5), st.integers(1, 300)))


@given(st.lists(spans, max_size=30), st.data(), st.integers(0, 400), st.integers(1, 400))
def test_stab_and_overlap_against_brute_force(items: list[Span], data: st.DataObject, at: int, length: int) -> None:
    tree: IntervalTree[Span] = IntervalTree()
    for item in items:
        tree.insert(item)
    gone = data.draw(st.sets(st.sampled_from(items))) if items else set()
    for item in gone:
        tree.remove(item)
    left = [item for item in items if item not in gone]
    assert len(tree) == len(left)
    assert bool(tree) == bool(left)
    assert set(tree) == set(left)
    stabbed = tree.stab(at)
    assert len(stabbed) == len(set(stabbed))
    assert set(stabbed) == {item for item in left if item.pgoff <= at < item.pgoff + item.nr_pages}
    hit = tree.overlapping(at, at + length)
    assert len(hit) == len(set(hit))
    assert set(hit) == {item for item in left if item.pgoff < at + length and at < item.pgoff + item.nr_pages}


def test_twice_in_and_twice_out_are_bugs() -> None:
    tree: IntervalTree[Span] = IntervalTree()
    item = Span(5, 3)
    tree.insert(item)
    with pytest.raises(KernelBug, match="filed twice"):
        tree.insert(item)
    tree.remove(item)
    with pytest.raises(KernelBug, match="not filed"):
        tree.remove(item)
    assert not tree


def test_a_query_over_everything_finds_far_intervals() -> None:
    tree: IntervalTree[Span] = IntervalTree()
    far = Span(1 << 40, 1)
    tree.insert(far)
    assert tree.overlapping(0, 1 << 62) == [far]
    assert tree.stab(1 << 40) == [far]
    assert tree.stab(0) == []
