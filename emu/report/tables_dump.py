"""A live page table read from RAM and explained, entry by entry, as kernels dump theirs."""

from collections.abc import Iterator
from typing import NamedTuple

from emu.hw.physmem import PhysMem
from emu.hw.pte_format import PteFormat
from emu.hw.swapops import pte_to_swp_entry, swp_offset, swp_type
from emu.report.tables_layout import level_name, size_of
from emu.report.tables_names import leaf_parts, table_parts


class Row(NamedTuple):
    """One entry that is not zero: where it is met, and what it says."""

    level: int
    vaddr: int
    entry: int
    flags: str
    meaning: str


def rights(fmt: PteFormat, entry: int) -> str:
    """Return what user mode may do through a leaf alone, as r, w and x."""
    number = sum((entry >> bit & 1) << place for place, bit in enumerate(fmt.walk.leaf_bits))
    allowed = fmt.walk.leaf_allowed[number]
    return "".join(letter if allowed >> bit & 1 else "-" for bit, letter in enumerate("rwx"))


def _flags(fmt: PteFormat, entry: int, level: int, *, is_leaf: bool) -> str:
    parts = leaf_parts(fmt, level) if is_leaf else table_parts(fmt, level)
    names = [
        part.name for part in reversed(parts) if part.high == part.low and part.name > "0" and entry >> part.low & 1
    ]
    return " ".join(name for name in names if name != "-")


def _describe_absent(fmt: PteFormat, entry: int) -> tuple[str, str]:
    """Do describe() for a PTE that the hardware does not take for valid: its bits are the kernel's own."""
    if fmt.pte_protnone(entry):
        return "PROTNONE", f"frame {fmt.pte_pfn(entry)}, no access at all"
    if fmt.pte_file(entry):
        return "FILE", f"file PTE: page {fmt.pte_to_pgoff(entry)} of the file, not mapped now"
    swapped = pte_to_swp_entry(fmt, entry)
    return "", f"swap PTE: area {swp_type(swapped)}, slot {swp_offset(swapped)}"


def describe(fmt: PteFormat, entry: int, level: int) -> tuple[str, str]:
    """Return the names of an entry's set bits, and a sentence of what it means."""
    is_last = level == fmt.nr_levels - 1
    if entry == 0:
        return "", "nothing"
    if not fmt.pte_hw_present(entry):
        return _describe_absent(fmt, entry) if is_last else ("", "not present")
    if not fmt.entry_is_leaf(entry, level):
        return _flags(fmt, entry, level, is_leaf=False), f"table in frame {fmt.table_pfn(entry)}"
    state = [rights(fmt, entry), "dirty" if fmt.pte_dirty(entry) else "clean"]
    state += [] if fmt.pte_young(entry) else ["not accessed"]
    size = "" if is_last else f"page of {size_of(1 << fmt.levels[level].shift)}, "
    return _flags(fmt, entry, level, is_leaf=True), f"{size}frame {fmt.pte_pfn(entry)}: {', '.join(state)}"


def _entry(ram: PhysMem, fmt: PteFormat, table_pfn: int, index: int) -> int:
    words = ram.u64 if fmt.pte_bytes == 8 else ram.u32
    return int(words[(table_pfn << fmt.page_shift) // fmt.pte_bytes + index])


def _canonical(fmt: PteFormat, vaddr: int) -> int:
    upper = fmt.sign_extended and vaddr >> fmt.va_bits - 1
    return vaddr | 2**64 - (1 << fmt.va_bits) if upper else vaddr


def walk_rows(ram: PhysMem, fmt: PteFormat, root_pfn: int, vaddr: int) -> Iterator[Row]:
    """Yield the entries that a walk of `vaddr` reads, root first, up to a page or to nothing."""
    table = root_pfn
    for level in range(fmt.nr_levels):
        entry = _entry(ram, fmt, table, fmt.index(vaddr, level))
        yield Row(level, vaddr, entry, *describe(fmt, entry, level))
        if not fmt.pte_hw_present(entry) or fmt.entry_is_leaf(entry, level):
            return
        table = fmt.table_pfn(entry)


def dump_rows(ram: PhysMem, fmt: PteFormat, root_pfn: int, level: int = 0, base: int = 0) -> Iterator[Row]:
    """Yield every entry of the tree that is not zero, depth first, by rising address."""
    shift, bits = fmt.levels[level]
    for index in range(1 << bits):
        entry = _entry(ram, fmt, root_pfn, index)
        if entry == 0:
            continue
        vaddr = _canonical(fmt, base | index << shift)
        yield Row(level, vaddr, entry, *describe(fmt, entry, level))
        if fmt.pte_hw_present(entry) and not fmt.entry_is_leaf(entry, level):
            yield from dump_rows(ram, fmt, fmt.table_pfn(entry), level + 1, base | index << shift)


def as_lines(fmt: PteFormat, rows: Iterator[Row]) -> list[str]:
    """Lay rows out as text, each level further in."""
    digits = fmt.pte_bytes * 2
    lines = []
    for row in rows:
        name = "  " * row.level + level_name(fmt, row.level)
        lines.append(f"{row.vaddr:#018x} {name:<15} {row.entry:0{digits}x}  {row.flags:<24} {row.meaning}".rstrip())
    return lines
