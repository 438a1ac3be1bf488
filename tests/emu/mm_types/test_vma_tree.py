"""VmaTree against brute force, and a VMA's arithmetic."""

import itertools
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from emu.mm_types.vma import VM_NONLINEAR, VM_SHARED, VmArea, VmaTree

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
