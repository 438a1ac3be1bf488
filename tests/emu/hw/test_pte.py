"""What a kernel does with entries, for every format; the file PTEs bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.hw.pte import FORMATS, PteFormat, get_format

FLAGS = st.fixed_dictionaries({name: st.booleans() for name in ("write", "execute", "accessed", "dirty")})
by_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no page-table format 'sv64'; there are: i386, .*arm64_64k"):
        get_format("sv64")


@pytest.mark.parametrize(
    ("name", "pgoff", "pte"),
    [
        # Linux v2.6.20 include/asm-i386/pgtable-2level.h: off[4:0] in bits 1-5, off[28:5] in bits 8-31
        ("i386", 0, 0x40),
        ("i386", 0b11111, 0b111110 | 0x40),
        ("i386", 1 << 5, 1 << 8 | 0x40),
        ("i386", (1 << 29) - 1, 0xFFFF_FF7E),
        # pgtable-3level.h: the high word
        ("i386_pae", 0x1234_5678, 0x1234_5678_0000_0040),
        ("i386_pae", (1 << 32) - 1, 0xFFFF_FFFF_0000_0040),
        # include/asm-x86_64/pgtable.h: from bit 12
        ("x86_64", 1, 0x1040),
        ("x86_64", (1 << 34) - 1, 0x3FFF_FFFF_F040),
    ],
)
def test_file_ptes_are_linux_s_own(name: str, pgoff: int, pte: int) -> None:
    fmt = get_format(name)
    assert fmt.pgoff_to_pte(pgoff) == pte
    assert fmt.pte_to_pgoff(pte) == pgoff


@pytest.mark.parametrize(("name", "file_bits"), [("i386", 29), ("i386_pae", 32), ("x86_64", 34)])
def test_the_offset_has_as_many_bits_as_in_linux(name: str, file_bits: int) -> None:
    assert get_format(name).file_bits == file_bits


@by_format
@settings(deadline=None)
@given(data=st.data())
def test_file_ptes_go_round_trip(fmt: PteFormat, data: st.DataObject) -> None:
    edges = [0, fmt.max_pgoff, *(1 << bit for bit in range(fmt.file_bits))]
    pgoff = data.draw(st.one_of(st.sampled_from(edges), st.integers(0, fmt.max_pgoff)))
    pte = fmt.pgoff_to_pte(pgoff)
    assert 0 < pte < 1 << fmt.pte_bytes * 8
    assert fmt.pte_to_pgoff(pte) == pgoff
    assert fmt.pte_file(pte)
    assert not fmt.pte_present(pte)
    assert not fmt.pte_hw_present(pte)
    many = np.array([0, pgoff, fmt.max_pgoff], np.uint64)
    ptes = fmt.pgoff_to_pte_bulk(many)
    assert ptes.tolist() == [fmt.pgoff_to_pte(int(one)) for one in many]
    assert fmt.pte_to_pgoff_bulk(ptes).tolist() == many.tolist()


@by_format
def test_an_offset_that_does_not_fit_is_refused(fmt: PteFormat) -> None:
    for pgoff in (fmt.max_pgoff + 1, -1):
        with pytest.raises(ValueError, match="does not fit"):
            fmt.pgoff_to_pte(pgoff)
    with pytest.raises(ValueError, match="does not fit"):
        fmt.pgoff_to_pte_bulk(np.array([0, fmt.max_pgoff + 1], np.uint64))


@by_format
@settings(deadline=None)
@given(flags=FLAGS, pfn=st.integers(1, (1 << 20) - 1))
def test_an_entry_says_what_it_was_made_of(fmt: PteFormat, flags: dict[str, bool], pfn: int) -> None:
    pte = fmt.mk_pte(pfn, **flags)
    assert fmt.pte_pfn(pte) == pfn
    assert fmt.pte_present(pte)
    assert fmt.pte_hw_present(pte)
    assert fmt.pte_write(pte) == flags["write"]
    assert fmt.pte_dirty(pte) == flags["dirty"]
    assert fmt.pte_young(pte) == flags["accessed"]
    if fmt.name != "i386":
        assert fmt.pte_exec(pte) == flags["execute"]


@by_format
@settings(deadline=None)
@given(flags=FLAGS)
def test_each_transform_changes_its_own_state_only(fmt: PteFormat, flags: dict[str, bool]) -> None:
    def state(pte: int) -> tuple[int, bool, bool, bool]:
        return fmt.pte_pfn(pte), fmt.pte_write(pte), fmt.pte_dirty(pte), fmt.pte_young(pte)

    pte = fmt.mk_pte(9, **flags)
    pfn, write, dirty, young = state(pte)
    assert state(fmt.pte_mkwrite(pte)) == (pfn, True, dirty, young)
    assert state(fmt.pte_wrprotect(pte)) == (pfn, False, dirty, young)
    assert state(fmt.pte_mkdirty(pte)) == (pfn, write, True, young)
    assert state(fmt.pte_mkclean(pte)) == (pfn, write, False, young)
    assert state(fmt.pte_mkyoung(pte)) == (pfn, write, dirty, True)
    assert state(fmt.pte_mkold(pte)) == (pfn, write, dirty, False)
    assert state(fmt.pte_mkwrite(fmt.pte_wrprotect(pte))) == (pfn, True, dirty, young)


@by_format
@settings(deadline=None)
@given(flags=FLAGS)
def test_protection_none_keeps_frame_dirty_and_accessed(fmt: PteFormat, flags: dict[str, bool]) -> None:
    pte = fmt.mk_pte(9, **flags)
    none = fmt.pte_modify(pte, read=False, write=False, execute=False)
    assert fmt.pte_protnone(none)
    assert fmt.pte_present(none)
    assert not fmt.pte_hw_present(none)
    assert not fmt.pte_write(none)
    again = fmt.pte_modify(none, read=True, write=True, execute=False)
    for one in (none, again):
        assert fmt.pte_pfn(one) == 9
        assert fmt.pte_dirty(one) == flags["dirty"]
        assert fmt.pte_young(one) == flags["accessed"]
    assert fmt.pte_write(again)
    assert fmt.pte_hw_present(again)


@by_format
def test_addresses_are_cut_into_indexes_and_back(fmt: PteFormat) -> None:
    vaddr = (fmt.task_size - 1) & ~(fmt.page_size - 1)
    total = sum(fmt.index(vaddr, level) << fmt.levels[level].shift for level in range(fmt.nr_levels))
    assert total == vaddr
    assert fmt.levels[-1].shift == fmt.page_shift
    assert sum(level.bits for level in fmt.levels) + fmt.page_shift == fmt.va_bits


@by_format
def test_tables_point_to_their_frames(fmt: PteFormat) -> None:
    for level in range(fmt.nr_levels - 1):
        entry = fmt.mk_table(77, level)
        assert fmt.table_pfn(entry) == 77
        assert fmt.table_present(entry)
        assert not fmt.entry_is_leaf(entry, level)


@by_format
def test_large_pages_are_aligned_leaves(fmt: PteFormat) -> None:
    for level in range(fmt.nr_levels - 1):
        pages = 1 << fmt.levels[level].shift - fmt.page_shift
        if not fmt.has_huge(level):
            with pytest.raises(ValueError, match="no large pages"):
                fmt.mk_huge_pte(level, 0, write=True, execute=False)
            continue
        pte = fmt.mk_huge_pte(level, pages, write=True, execute=False)
        assert fmt.entry_is_leaf(pte, level)
        assert fmt.pte_pfn(pte) == pages
        with pytest.raises(ValueError, match="not aligned"):
            fmt.mk_huge_pte(level, pages + 1, write=True, execute=False)
