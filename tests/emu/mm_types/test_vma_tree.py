"""VmaTree against brute force, and a VMA's arithmetic."""

import itertools
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emu.errors import KernelBug
from emu.mm_types import vma_tree
from emu.mm_types.vma import VM_NONLINEAR, VM_SHARED, VmArea
from emu.mm_types.vma_tree import VmaTree

PAGE = 4096
TOP = 64
_mm = cast("Any", SimpleNamespace(page_shift=12))


def area(first: int, last: int) -> VmArea:
    return VmArea(_mm, first * PAGE, last * PAGE, VM_SHARED, 0, None)


@st.composite
def layouts(draw: st.DrawFn) -> list[VmArea]:
    """Draw VMAs that do not overlap, some of them adjacent."""
    borders = sorted(draw(st.sets(st.integers(1, TOP), max_size=16)))
    pairs = list(itertools.pairwise(borders))
    return [area(a, b) for a, b in pairs if draw(st.booleans())]


@given(layouts(), st.integers(0, TOP + 2), st.integers(1, 20), st.data())
def test_queries_against_brute_force(vmas: list[VmArea], at: int, length: int, data: st.DataObject) -> None:
    tree = VmaTree()
    for vma in data.draw(st.permutations(vmas)):
        tree.insert(vma)
    for vma in list(vmas):
        # A look-up leaves it in the cache of one.
        assert tree.find(vma.start) is vma
        if data.draw(st.booleans()):
            tree.remove(vma)
            vmas.remove(vma)
    vaddr, end = at * PAGE, (at + length) * PAGE
    assert list(tree) == vmas
    assert len(tree) == len(vmas)
    for place in (vaddr, vaddr + 1, vaddr + PAGE - 1):
        assert tree.find(place) is next((vma for vma in vmas if place < vma.end), None)
    assert tree.prev(vaddr) is next((vma for vma in vmas[::-1] if vma.start < vaddr), None)
    assert tree.overlapping(vaddr, end) == [vma for vma in vmas if vma.start < end and vaddr < vma.end]


def check_links(tree: VmaTree, vmas: list[VmArea]) -> None:
    assert list(tree) == vmas
    for below, above in itertools.pairwise([None, *vmas, None]):
        assert below is None or below.vm_next is above
        assert above is None or above.vm_prev is below


STEPS = st.tuples(st.sampled_from(["insert", "remove", "shrink", "cut", "merge", "grow"]), st.integers(0, 63))


def change(tree: VmaTree, vmas: list[VmArea], step: str, page: int) -> None:
    """Take one step at the first VMA that ends above `page`, in the tree and in the sorted list, if it can be taken."""
    place = next((place for place, vma in enumerate(vmas) if vma.end > page * PAGE), len(vmas))
    if step == "insert" and (place == len(vmas) or vmas[place].start > page * PAGE):
        vmas.insert(place, area(page, page + 1))
        tree.insert(vmas[place])
    elif step == "insert" or place == len(vmas):
        return
    elif step == "remove":
        tree.remove(vmas.pop(place))
    else:
        reshape(tree, vmas, place, step)


def reshape(tree: VmaTree, vmas: list[VmArea], place: int, step: str) -> None:
    vma, start, end = vmas[place], vmas[place].start, vmas[place].end
    if step == "shrink" and vma.nr_pages > 1:
        tree.resize(vma, start, end - PAGE)
    elif step == "cut" and vma.nr_pages > 1:
        tree.resize(vma, start, start + PAGE)
        vmas.insert(place + 1, area(vma.end // PAGE, end // PAGE))
        tree.insert(vmas[place + 1])
    elif step == "merge" and place + 1 < len(vmas):
        # Over the hole between them, if there is one, and perhaps over a border between leaves.
        above = vmas.pop(place + 1)
        tree.remove(above)
        tree.resize(vma, start, above.end)
    elif step == "grow" and start and (not place or vmas[place - 1].end < start):
        tree.resize(vma, start - PAGE, end)


@given(st.lists(STEPS, min_size=20, max_size=40))
@example([("remove", page) for page in range(64)])
@example([("merge", page) for page in range(64)])
@example([("remove", page) for page in range(10, 30)] + [("merge", page) for page in range(5, 64)])
def test_leaves_that_split_and_empty_keep_order_and_links(steps: list[tuple[str, int]]) -> None:
    """Random changes, with leaves of three VMAs at most, against a sorted list."""
    tree, vmas = VmaTree(), [area(page, page + 1) for page in range(1, TOP)]
    with patch.object(vma_tree, "_LEAF_MAX", 3):
        for vma in vmas:
            tree.insert(vma)
        for step, page in steps:
            change(tree, vmas, step, page)
            check_links(tree, vmas)
    for vaddr in range(0, (TOP + 2) * PAGE, PAGE):
        assert tree.find(vaddr) is next((vma for vma in vmas if vaddr < vma.end), None)
        assert tree.prev(vaddr) is next((vma for vma in vmas[::-1] if vma.start < vaddr), None)


def test_what_overlaps_or_is_not_there_is_a_bug() -> None:
    tree = VmaTree()
    tree.insert(area(2, 6))
    for first, last in ((1, 3), (2, 3), (5, 7), (1, 9)):
        with pytest.raises(KernelBug, match="overlaps"):
            tree.insert(area(first, last))
    with pytest.raises(KernelBug, match="not in its mm"):
        tree.remove(area(2, 6))


@given(layouts(), st.integers(1, 10))
def test_gap_is_the_highest_that_fits(vmas: list[VmArea], nr_pages: int) -> None:
    tree = VmaTree()
    for vma in vmas:
        tree.insert(vma)
    taken = {page for vma in vmas for page in range(vma.start // PAGE, vma.end // PAGE)}
    fits = [first for first in range(1, TOP - nr_pages + 1) if not taken & set(range(first, first + nr_pages))]
    assert tree.gap(nr_pages * PAGE, PAGE, TOP * PAGE) == (fits[-1] * PAGE if fits else -1)


def test_resize_moves_the_key_and_forgets_the_cache() -> None:
    tree = VmaTree()
    vma = area(2, 6)
    tree.insert(vma)
    assert tree.find(5 * PAGE) is vma
    tree.resize(vma, 3 * PAGE, 5 * PAGE)
    assert tree.find(5 * PAGE) is None
    assert tree.overlapping(2 * PAGE, 3 * PAGE) == []
    assert tree.prev(4 * PAGE) is vma
    tree.remove(vma)
    assert tree.find(0) is None


def test_linear_arithmetic() -> None:
    vma = VmArea(_mm, 8 * PAGE, 12 * PAGE, VM_SHARED | VM_NONLINEAR, 100, None)
    assert vma.nonlinear
    assert vma.nr_pages == 4
    assert vma.linear_pgoff(9 * PAGE + 7) == 101
    assert vma.vma_address(103) == 11 * PAGE
    assert vma.vma_address(104) == vma.vma_address(99) == -1
    assert "SHARED" in repr(vma)
    assert "pgoff=100" in repr(vma)
