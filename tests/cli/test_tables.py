"""fremap tables: every format explained, its live page table decoded as the format itself decodes it."""

import re

import pytest

from emu.hw.pte import FORMATS
from emu.hw.pte_format import PteFormat
from emu.report.tables_dump import as_lines, describe, dump_rows, walk_rows
from emu.report.tables_layout import draw, explain, size_of
from emu.report.tables_live import live_example
from emu.report.tables_names import file_parts, leaf_parts, table_parts
from tests.cli.test_frame import fremap
from tests.emu.hw.space import Space

by_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)


@by_format
def test_the_drawn_bits_are_all_bits_once(fmt: PteFormat) -> None:
    drawings = [leaf_parts(fmt, level) for level in range(fmt.nr_levels)]
    drawings += [table_parts(fmt, level) for level in range(fmt.nr_levels - 1)]
    drawings.append(file_parts(fmt))
    for parts in drawings:
        bits = [bit for part in parts for bit in range(part.low, part.high + 1)]
        assert sorted(bits) == list(range(fmt.pte_bytes * 8))
        assert len({len(line) for line in draw(parts)[1:4]}) == 1


@by_format
def test_the_names_stand_where_the_format_has_its_bits(fmt: PteFormat) -> None:
    entry = fmt.mk_pte(3, write=True, execute=False, accessed=True, dirty=True)
    names = describe(fmt, entry, fmt.nr_levels - 1)[0].split()
    wanted = {"A", "D"} if not fmt.name.startswith("arm64") else {"AF", "dirty", "DBM"}
    assert wanted <= set(names)
    bare = describe(fmt, fmt.mk_pte(3, write=False, execute=False), fmt.nr_levels - 1)[0].split()
    assert not wanted & set(bare)


@by_format
def test_an_entry_is_explained_as_the_format_reads_it(fmt: PteFormat) -> None:
    last = fmt.nr_levels - 1
    assert describe(fmt, 0, last) == ("", "nothing")
    assert "page 77 of the file" in describe(fmt, fmt.pgoff_to_pte(77), last)[1]
    assert "frame 9, no access" in describe(
        fmt, fmt.mk_pte(9, write=False, execute=False, protnone=True), last
    )[1]
    assert describe(fmt, fmt.mk_table(5, last - 1), last - 1)[1] == "table in frame 5"
    assert "frame 9: rw" in describe(fmt, fmt.mk_pte(9, write=True, execute=False), last)[1]
    assert "clean" in describe(fmt, fmt.mk_pte(9, write=True, execute=False), last)[1]
    huge = max(level for level in range(last) if fmt.has_huge(level))
    text = describe(fmt, fmt.mk_huge_pte(huge, 0, write=False, execute=True), huge)[1]
    assert f"page of {size_of(1 << fmt.levels[huge].shift)}" in text
    assert "-w-" not in text
    assert "x" in text.split(": ")[1]


@by_format
def test_a_dump_finds_every_entry_and_a_walk_its_own(fmt: PteFormat) -> None:
    space = Space(fmt.name)
    vaddrs = [0x4000_0000, 0x4000_0000 + 5 * fmt.page_size, fmt.task_size - fmt.page_size]
    for vaddr in vaddrs:
        space.map(vaddr)
    rows = list(dump_rows(space.physmem, fmt, space.root))
    assert [row.vaddr for row in rows if row.level == fmt.nr_levels - 1] == vaddrs
    walk = list(walk_rows(space.physmem, fmt, space.root, vaddrs[1]))
    assert [row.level for row in walk] == list(range(fmt.nr_levels))
    assert walk[-1].entry == space.get(vaddrs[1])
    assert len(as_lines(fmt, iter(rows))) == len(rows)


@by_format
def test_the_live_example_shows_what_was_done(fmt: PteFormat) -> None:
    text = "\n".join(live_example(fmt.name))
    assert re.findall(r"page (\d) of the file", text) == ["3", "2", "1", "0"]
    assert re.findall(r": (r.)., (clean|dirty)", text) == [("r-", "clean"), ("rw", "dirty"), ("r-", "dirty")]
    assert "no access at all" in text


@by_format
def test_explanations_name_their_source(fmt: PteFormat) -> None:
    text = "\n".join(explain(fmt))
    assert fmt.file_source in text
    assert f"{fmt.file_bits} bits of page offset" in text


def test_the_command() -> None:
    listing = fremap("tables")
    assert listing.returncode == 0
    assert [line.split()[0] for line in listing.stdout.splitlines()] == list(FORMATS)
    walk = fremap("tables", "--format", "i386", "--va", "0xbfffffff")
    assert walk.returncode == 0
    assert "index = 767 of 1024" in walk.stdout
    assert "walk of 0xbfffffff" in walk.stdout
    for wrong in (["--format", "vax"], ["--live"], ["--format", "i386", "--va", "here"]):
        done = fremap("tables", *wrong)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
