"""Page tables in RAM against a dictionary, and against what the hardware walks."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.errors import KernelBug
from emu.hw.mmu import R_FAULT, AccessKind, Mmu
from emu.hw.physmem import PhysMem
from emu.hw.pte import get_format
from emu.mm_types.pgtable import NoFrameError, PageTable, TlbGather, set_pte, set_ptes
from emu.mm_types.vma import VmArea

FORMATS = ("x86_64", "i386")
PAGE = 4096
LEAF = {"x86_64": 512, "i386": 1024}
"""PTEs of a leaf table."""


def table(fmt: str, nr_frames: int = 64) -> PageTable:
    ram = PhysMem(nr_frames * PAGE, 12)
    return PageTable(ram, get_format(fmt), ram.alloc_frame, ram.free_frame)


def owner(pt: PageTable) -> tuple[Any, VmArea, list[tuple[int, int, int]]]:
    """Return a stand-in for an mm, a VMA of it, and what its reverse map is told."""
    mm = cast("Any", SimpleNamespace(pt=pt, page_shift=12, fmt=pt.fmt))
    vma = VmArea(mm, 0, 1 << 31, 0, 0, None)
    told: list[tuple[int, int, int]] = []
    vma.pte_changed = lambda _mm, _vma, vaddr, old, new: told.append((vaddr, old, new))
    vma.ptes_changed = lambda _mm, _vma, *arrays: told.extend(zip(*(a.tolist() for a in arrays), strict=True))
    return mm, vma, told


@pytest.mark.parametrize("fmt", FORMATS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_against_a_dictionary(fmt: str, data: st.DataObject) -> None:
    pt = table(fmt)
    mm, vma, _ = owner(pt)
    # Around the borders of leaf tables, in neighbouring and far ones.
    far = st.integers(7 * LEAF[fmt], 7 * LEAF[fmt] + 2)
    pages = st.one_of(st.integers(0, 3), st.integers(LEAF[fmt] - 2, LEAF[fmt] + 2), far)
    ptes = st.integers(0, (1 << 8 * pt.fmt.pte_bytes) - 1)
    model: dict[int, int] = {}
    for page, pte in data.draw(st.lists(st.tuples(pages, ptes), max_size=20)):
        pt.leaf(page * PAGE)
        set_pte(mm, vma, page * PAGE, pt.get(page * PAGE), pte)
        model[page] = pte
    known = sorted({page * PAGE for page in model})
    if known:
        changed = data.draw(st.lists(st.sampled_from(known), unique=True))
        news = [data.draw(ptes) for _ in changed]
        vaddrs = np.array(changed, np.uint64)
        if changed:
            assert [pt.get(vaddr) for vaddr in vaddrs.tolist()] == [model[vaddr // PAGE] for vaddr in changed]
            olds = np.array([pt.get(vaddr) for vaddr in vaddrs.tolist()], np.uint64)
            set_ptes(mm, vma, vaddrs, olds, np.array(news, np.uint64))
        model.update({vaddr // PAGE: new for vaddr, new in zip(changed, news, strict=True)})
    start, last = sorted((data.draw(pages), data.draw(pages)))
    vaddrs, found = pt.entries(start * PAGE, (last + 1) * PAGE)
    wanted = [(page * PAGE, pte) for page, pte in sorted(model.items()) if pte and start <= page <= last]
    assert list(zip(vaddrs.tolist(), found.tolist(), strict=True)) == wanted
    for page in range(10):
        assert pt.get(page * PAGE) == model.get(page, 0)


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_hardware_walks_what_the_kernel_wrote(fmt: str) -> None:
    pt = table(fmt)
    mm, vma, told = owner(pt)
    cpu = Mmu(pt.ram, pt.fmt)
    cpu.load_root(pt.root_pfn, 1)
    for place, page in enumerate((0, LEAF[fmt] - 1, LEAF[fmt], 9 * LEAF[fmt] + 5)):
        pfn = pt.ram.alloc_frame()
        pt.ram.frame(pfn)[:8] = (place + 77).to_bytes(8, "little")
        vaddr = page * PAGE
        assert cpu.access(vaddr, AccessKind.LOAD, 0) >= 0
        assert cpu.regs[R_FAULT]
        pt.leaf(vaddr)
        set_pte(mm, vma, vaddr, 0, pt.fmt.mk_pte(pfn, write=False, execute=False))
        assert cpu.access(vaddr, AccessKind.LOAD, 0) == place + 77
        assert not cpu.regs[R_FAULT]
        assert pt.fmt.pte_young(pt.get(vaddr)), "the accessed bit is set in the very table that the kernel reads"
    assert [vaddr // PAGE for vaddr, _, _ in told] == [0, LEAF[fmt] - 1, LEAF[fmt], 9 * LEAF[fmt] + 5]


@pytest.mark.parametrize("fmt", FORMATS)
def test_tables_are_freed_when_they_are_empty_and_only_then(fmt: str) -> None:
    pt = table(fmt)
    mm, vma, _ = owner(pt)
    before = pt.ram.nr_free
    far = 1 << (30 if fmt == "i386" else 45)
    for vaddr in (0, far):
        pt.leaf(vaddr)
    assert pt.ram.nr_free == before - (2 if fmt == "i386" else 6)
    assert len(pt.table_pfns()) == len(set(pt.table_pfns())) == (3 if fmt == "i386" else 7)
    set_pte(mm, vma, 0, 0, 7)
    span = LEAF[fmt] * PAGE
    with pytest.raises(KernelBug, match="freed with PTEs in it"):
        pt.free_range(0, span)


@pytest.mark.parametrize("fmt", FORMATS)
def test_free_range_spares_tables_that_are_not_wholly_inside(fmt: str) -> None:
    pt = table(fmt)
    before = pt.ram.nr_free
    span = LEAF[fmt] * PAGE
    pt.leaf(0)
    pt.leaf(span)
    assert pt.free_range(PAGE, 2 * span) == 1
    assert pt.leaf_keys(0, 2 * span) == [0]
    assert pt.free_range(0, span) == 1
    assert pt.ram.nr_free == before, "the upper tables went with the last leaf"
    pt.leaf(0)
    pt.free_all()
    assert pt.ram.nr_free == before + 1, "the root, too"


@pytest.mark.parametrize("fmt", FORMATS)
def test_no_frame_for_a_table(fmt: str) -> None:
    pt = table(fmt, nr_frames=16)
    while pt.ram.alloc_frame() >= 0:
        pass
    with pytest.raises(NoFrameError):
        pt.leaf(0)
    assert pt.get(0) == 0


def test_gather_pays_single_pages_then_everything_and_nothing_twice() -> None:
    paid: list[list[int] | None] = []
    mm = cast("Any", object())
    with TlbGather(mm, lambda _mm, vaddrs: paid.append(vaddrs)) as tlb:
        tlb.add(1)
        tlb.add(2)
        tlb.flush()
        tlb.flush()
        for vaddr in range(TlbGather.CEILING + 1):
            tlb.add(vaddr)
    assert paid == [[1, 2], None]
    with TlbGather(mm, lambda _mm, vaddrs: paid.append(vaddrs)):
        pass
    assert len(paid) == 2
    tlb = TlbGather(mm, lambda _mm, vaddrs: paid.append(vaddrs))
    tlb.add_all()
    tlb.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert paid[2:] == [None], "a flush owed is paid on the way out, come what may"
