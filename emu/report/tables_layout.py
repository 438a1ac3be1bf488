"""A page-table format explained on paper: how an address is cut, and what each bit of an entry is."""

from emu.hw.pte_format import PteFormat
from emu.report.tables_names import Part, file_parts, leaf_parts, table_parts

_ROW_BITS = 32
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB")


def size_of(nbytes: int) -> str:
    """Write a power of two of bytes, such as ``2 MiB``."""
    number = (nbytes.bit_length() - 1) // 10
    return f"{nbytes >> 10 * number} {_UNITS[number]}"


def level_name(fmt: PteFormat, level: int) -> str:
    """Return what the architecture calls the entries of a level (0 = root)."""
    if fmt.name.startswith("arm64"):
        return f"L{level + fmt.walk.first_level}"
    if fmt.name.startswith("sv"):
        return f"L{fmt.nr_levels - 1 - level}"
    if fmt.name == "i386_pae":
        return ("PDPTE", "PDE", "PTE")[level]
    return ("PML5E", "PML4E", "PDPTE", "PDE", "PTE")[level - fmt.nr_levels]


def _bits(part: Part) -> str:
    return str(part.high) if part.high == part.low else f"{part.high}:{part.low}"


def draw(parts: list[Part]) -> list[str]:
    """Draw the parts as boxes, the highest bit left, 32 bits a row: bit numbers, then names."""
    rows = []
    top = max(part.high for part in parts)
    for start in range(top // _ROW_BITS * _ROW_BITS, -1, -_ROW_BITS):
        here = [
            part._replace(high=min(part.high, start + _ROW_BITS - 1), low=max(part.low, start))
            for part in parts
            if part.high >= start and part.low < start + _ROW_BITS
        ]
        widths = [max(len(_bits(part)), len(part.name), 1) for part in here]
        line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
        numbers = " " + " ".join(f" {_bits(part):^{width}} " for part, width in zip(here, widths, strict=True))
        names = "|" + "|".join(f" {part.name:^{width}} " for part, width in zip(here, widths, strict=True)) + "|"
        rows += [numbers.rstrip(), line, names, line]
    return rows


def _meanings(parts: list[Part]) -> list[str]:
    return [f"  {_bits(part):>7}  {part.name:<6} {part.meaning}" for part in parts if part.name]


def address_lines(fmt: PteFormat, vaddr: int | None = None) -> list[str]:
    """Say how an address is cut into indexes; with `vaddr`, that one."""
    lines = []
    for level, (shift, bits) in enumerate(fmt.levels):
        span = size_of(1 << shift)
        large = f"; or a page of {span}" if fmt.has_huge(level) else ""
        index = "" if vaddr is None else f" = {fmt.index(vaddr, level)}"
        cut = f"{shift + bits - 1}:{shift}"
        lines.append(
            f"  bits {cut:>5}  index{index} of {1 << bits} in the {level_name(fmt, level)} table: {span}{large}"
        )
    offset = "" if vaddr is None else f" = {vaddr & fmt.page_size - 1:#x}"
    cut = f"{fmt.page_shift - 1}:0"
    lines.append(f"  bits {cut:>5}  offset{offset} in the page of {size_of(fmt.page_size)}")
    rest = "repeat the one below" if fmt.sign_extended else "are 0"
    if fmt.va_bits < 64:
        lines.append(f"  bits {'63:' + str(fmt.va_bits):>5}  {rest}")
    return lines


def explain(fmt: PteFormat) -> list[str]:
    """Return the whole explanation of a format, as lines."""
    last = fmt.nr_levels - 1
    lines = [
        (f"{fmt.name}: {fmt.nr_levels} levels, entries of {fmt.pte_bytes} bytes, pages of {size_of(fmt.page_size)},"
        f" addresses of {fmt.va_bits} bits, user mode below {fmt.task_size:#x}"),
        "",
        "An address",
        *address_lines(fmt),
    ]
    leaf, table = leaf_parts(fmt, last), table_parts(fmt, last - 1)
    lines += ["", f"An entry that maps a page ({level_name(fmt, last)})", *draw(leaf), *_meanings(leaf)]
    lines += ["", f"An entry that points to a table ({level_name(fmt, last - 1)})", *draw(table), *_meanings(table)]
    huge = [level for level in range(last) if fmt.has_huge(level)]
    if huge:
        parts = leaf_parts(fmt, huge[-1])
        size = size_of(1 << fmt.levels[huge[-1]].shift)
        lines += ["", f"An entry that maps a page of {size} ({level_name(fmt, huge[-1])})", *draw(parts)]
    lines += [
        "",
        (f"A file PTE: {fmt.file_bits} bits of page offset, files up to "
        f"{size_of((fmt.max_pgoff + 1) * fmt.page_size)}"),
        *draw(file_parts(fmt)),
        f"  source: {fmt.file_source}",
        (f"  swap entry: type in {fmt.swap_type.nr_bits} bits from bit {fmt.swap_type.pte_bit}, offset in "
        f"{fmt.swap_offset.nr_bits} from bit {fmt.swap_offset.pte_bit}"),
    ]
    return lines
