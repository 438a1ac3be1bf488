"""The compiled walker against the reference walker: same address, same fault code, same bits written back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.hw import walk
from emu.hw.mmu import R_CR2, R_ERROR, R_FAULT, AccessKind, kind_of
from emu.hw.pte import FORMATS
from tests.emu.hw.plain import plain
from tests.emu.hw.reference import WALKERS, Memory
from tests.emu.hw.space import Space

NR_FRAMES = 12
by_format = pytest.mark.parametrize("name", FORMATS)


@st.composite
def chains(draw: st.DrawFn, name: str) -> tuple[int, list[int], AccessKind, bool]:
    """Draw an address, an entry for each level on its way, the kind of access, and who makes it."""
    fmt = FORMATS[name]
    vaddr = draw(st.integers(0, (1 << fmt.va_bits) - 1)) & ~7
    if fmt.sign_extended and vaddr >> fmt.va_bits - 1:
        vaddr |= 2**64 - (1 << fmt.va_bits)
    if draw(st.integers(0, 15)) == 0:
        vaddr ^= 1 << draw(st.integers(fmt.va_bits - 1, 63))
    leaf_level = draw(st.sampled_from([fmt.nr_levels - 1] * 3 + list(range(fmt.nr_levels))))
    entries = []
    for level in range(fmt.nr_levels):
        if level < leaf_level or not (level == fmt.nr_levels - 1 or fmt.has_huge(level)):
            entry = fmt.mk_table(2 + level, level)
        else:
            rights = {key: draw(st.booleans()) for key in ("write", "execute", "user", "accessed", "dirty")}
            entry = fmt.mk_pte(draw(st.integers(0, NR_FRAMES + 1)), **rights)
            if level < fmt.nr_levels - 1:
                size = fmt.levels[level].shift - fmt.page_shift
                entry = entry & ~fmt.pfn_mask | fmt.mkhuge.set
                entry &= ~fmt.mkhuge.clear
                entry |= draw(st.sampled_from([0, 0, 0, 1 << size])) << fmt.pfn_shift & fmt.pfn_mask
        for flip in draw(st.lists(st.integers(0, fmt.pte_bytes * 8 - 1), max_size=2)):
            entry ^= 1 << flip
        entries.append(entry)
    return vaddr, entries, draw(st.sampled_from(list(AccessKind))), draw(st.booleans())


def build(name: str, vaddr: int, entries: list[int]) -> Space:
    """Return a machine whose tables stand in frames 1 (the root), 2, 3, ..., with these entries in them."""
    space = Space(name, NR_FRAMES)
    fmt = space.fmt
    space.physmem.u64[:] = 0
    for level, entry in enumerate(entries):
        at = (space.root + level << fmt.page_shift) // fmt.pte_bytes + fmt.index(vaddr, level)
        space.words()[at] = entry
    return space


@by_format
@settings(deadline=None)
@given(data=st.data())
def test_the_walker_does_what_the_manual_says(name: str, data: st.DataObject) -> None:
    vaddr, entries, kind, user = data.draw(chains(name))
    space = build(name, vaddr, entries)
    mmu, page_shift = space.mmu, space.fmt.page_shift
    memory = Memory(bytearray(space.physmem.u8.tobytes()))
    phys, code = WALKERS[name](memory, space.root << page_shift, vaddr, kind, user)
    mmu.set_supervisor(not user)
    before = space.physmem.u8.tobytes()
    where = mmu.access(vaddr, kind_of(kind, 1), 0)
    if phys is None:
        assert mmu.regs[R_FAULT] != 0
        assert mmu.regs[R_CR2] == vaddr
        assert mmu.regs[R_ERROR] == code
        assert where == 0
    else:
        assert mmu.regs[R_FAULT] == 0
        if kind == AccessKind.STORE:
            memory.ram[phys] = 0
        else:
            assert where == before[phys] or phys < (space.fmt.nr_levels + 1) << page_shift
    assert space.physmem.u8.tobytes() == bytes(memory.ram)


@by_format
@settings(deadline=None)
@given(data=st.data())
def test_the_compiled_walker_is_its_own_source(name: str, data: st.DataObject) -> None:
    vaddr, entries, kind, user = data.draw(chains(name))
    one, two = build(name, vaddr, entries), build(name, vaddr, entries)
    for space in (one, two):
        space.mmu.set_supervisor(not user)
    jitted = walk.walk(one.mmu.state, one.physmem.u64, vaddr, int(kind))
    other = plain(walk.walk)(two.mmu.state, two.physmem.u64, np.uint64(vaddr), np.uint64(kind))
    assert int(jitted) == int(other)
    assert one.mmu.state.tolist() == two.mmu.state.tolist()
    assert one.physmem.u8.tobytes() == two.physmem.u8.tobytes()


@by_format
def test_the_walk_of_each_large_page_reaches_every_page_of_it(name: str) -> None:
    fmt = FORMATS[name]
    for level in range(fmt.nr_levels - 1):
        if not fmt.has_huge(level):
            continue
        space = Space(name, 64)
        vaddr = 1 << fmt.levels[0].shift
        space.set(vaddr, fmt.mk_huge_pte(level, 0, write=True, execute=False), level)
        for page in (1, 2, 33):
            at = page << fmt.page_shift | 0x128
            space.mmu.access(vaddr + at, AccessKind.STORE, page + 5)
            assert space.fault()[0] == 0
            assert space.peek(page, 0x128) == page + 5
        assert fmt.pte_dirty(space.get(vaddr, level))
