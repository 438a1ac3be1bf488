"""The names of the bits of page-table entries, as the architectures' manuals and Linux call them."""

from typing import NamedTuple

from emu.hw.pte_format import PteFormat


class Part(NamedTuple):
    """Bits `high` to `low` of an entry: a short name for drawings, and what they mean."""

    high: int
    low: int
    name: str
    meaning: str


def _one(bit: int, name: str, meaning: str) -> Part:
    return Part(bit, bit, name, meaning)


_X86_LOW = (
    _one(0, "P", "present"),
    _one(1, "RW", "may be written"),
    _one(2, "US", "user mode may use it"),
    _one(3, "PWT", "write-through"),
    _one(4, "PCD", "not cached"),
    _one(5, "A", "accessed: set by the walk"),
)
_X86_LEAF = (
    *_X86_LOW,
    _one(6, "D", "dirty: set by the walk of a store"),
    _one(8, "G", "global: survives a change of address space"),
    Part(11, 9, "sw", "free for software"),
)
_X86_TABLE = (*_X86_LOW, _one(6, "-", "ignored"), Part(11, 8, "sw", "free for software"))
_NX = _one(63, "NX", "not executed")

_RISCV = (
    _one(0, "V", "valid"),
    _one(1, "R", "may be read"),
    _one(2, "W", "may be written (needs R)"),
    _one(3, "X", "may be executed"),
    _one(4, "U", "user mode's page"),
    _one(5, "G", "global"),
    _one(6, "A", "accessed"),
    _one(7, "D", "dirty"),
    Part(9, 8, "RSW", "free for software"),
)

_ARM_LEAF = (
    _one(0, "V", "valid"),
    _one(1, "PG", "page; 0: a block"),
    Part(4, 2, "Attr", "kind of memory (MAIR index)"),
    _one(5, "NS", "non-secure"),
    _one(6, "USR", "AP[1]: user mode may use it"),
    _one(7, "RO", "AP[2]: read-only; cleared by the first store if DBM"),
    Part(9, 8, "SH", "shareability"),
    _one(10, "AF", "accessed"),
    _one(11, "nG", "not global"),
    _one(51, "DBM", "writable: the hardware may clear RO, which means dirty"),
    _one(52, "C", "contiguous (a hint)"),
    _one(53, "PXN", "the kernel does not execute it"),
    _one(54, "UXN", "user mode does not execute it"),
    _one(55, "dirty", "software: dirty, kept while write-protected"),
    Part(58, 56, "sw", "free for software"),
    Part(63, 59, "-", "ignored here"),
)
_ARM_TABLE = (
    _one(0, "V", "valid"),
    _one(1, "T", "a table; 0: a block"),
    Part(11, 2, "-", "ignored"),
    Part(58, 51, "-", "ignored"),
    _one(59, "PXN", "the kernel executes nothing below"),
    _one(60, "UXN", "user mode executes nothing below"),
    _one(61, "noU", "APTable[0]: not for user mode"),
    _one(62, "RO", "APTable[1]: nothing below is written"),
    _one(63, "NS", "non-secure"),
)


def _frame(fmt: PteFormat, level: int, *, is_leaf: bool) -> Part:
    low = fmt.pfn_mask.bit_length()
    start = fmt.pfn_shift
    meaning = "number of the frame" if is_leaf else "number of the next table's frame"
    if is_leaf and level < fmt.nr_levels - 1:
        start += fmt.levels[level].shift - fmt.page_shift
        meaning = "number of the first frame, aligned"
    return Part(low - 1, start, "frame", meaning)


def _fill(parts: list[Part], nr_bits: int) -> list[Part]:
    """Return the parts from the top down, with what lies between them marked as reserved or ignored."""
    filled: list[Part] = []
    next_bit = nr_bits - 1
    for part in sorted(parts, reverse=True):
        if part.high < next_bit:
            filled.append(Part(next_bit, part.high + 1, "", "reserved or ignored"))
        filled.append(part)
        next_bit = part.low - 1
    if next_bit >= 0:
        filled.append(Part(next_bit, 0, "", "reserved or ignored"))
    return filled


def leaf_parts(fmt: PteFormat, level: int) -> list[Part]:
    """Return the bits of an entry of `level` that maps a page, the highest first."""
    frame = _frame(fmt, level, is_leaf=True)
    if fmt.name.startswith("sv"):
        named: tuple[Part, ...] = _RISCV
    elif fmt.name.startswith("arm64"):
        named = _ARM_LEAF
    else:
        is_large = level < fmt.nr_levels - 1
        bit_7 = _one(7, "PS", "a large page") if is_large else _one(7, "PAT", "kind of memory")
        named = (*_X86_LEAF, bit_7, *((_NX,) if fmt.pte_bytes == 8 else ()))
    return _fill([*named, frame], fmt.pte_bytes * 8)


def table_parts(fmt: PteFormat, level: int) -> list[Part]:
    """Return the bits of an entry of `level` that points to a table, the highest first."""
    frame = _frame(fmt, level, is_leaf=False)
    if fmt.name.startswith("sv"):
        named: tuple[Part, ...] = (_RISCV[0], Part(3, 1, "000", "R, W and X: no page"), _RISCV[5], _RISCV[8])
    elif fmt.name.startswith("arm64"):
        named = _ARM_TABLE
    elif fmt.name == "i386_pae" and level == 0:
        named = (_X86_LOW[0], _X86_LOW[3], _X86_LOW[4], Part(11, 9, "sw", "free for software"))
    else:
        size = _one(7, "PS", "0: a table") if fmt.has_huge(level) else _one(7, "0", "reserved")
        named = (*_X86_TABLE, size, *((_NX,) if fmt.pte_bytes == 8 else ()))
    return _fill([*named, frame], fmt.pte_bytes * 8)


def file_parts(fmt: PteFormat) -> list[Part]:
    """Return the bits of a file PTE, the highest first."""
    parts = [
        Part(field.pte_bit + field.nr_bits - 1, field.pte_bit, f"off[{field.value_bit + field.nr_bits - 1}:"
             f"{field.value_bit}]", "bits of the page offset in the file")
        for field in fmt.file_fields
    ]
    present = fmt.present_mask.bit_length() - 1
    flag = fmt.file_mask.bit_length() - 1
    none = fmt.protnone_mask.bit_length() - 1
    parts += [
        _one(present, "0", "not present"),
        _one(flag, "FILE", "1: a file PTE"),
        _one(none, "0", "1 would be PROT_NONE"),
    ]
    return [part if part.name else part._replace(meaning="0") for part in _fill(parts, fmt.pte_bytes * 8)]
