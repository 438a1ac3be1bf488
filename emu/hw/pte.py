"""The page-table formats by name."""

from emu.hw import formats_arm64, formats_riscv, formats_x86
from emu.hw.pte_format import BitField, PteFormat
from emu.hw.walk_rules import Level, Rule, Step

__all__ = ["FORMATS", "BitField", "Level", "PteFormat", "Rule", "Step", "get_format"]

FORMATS: dict[str, PteFormat] = {
    fmt.name: fmt
    for fmt in (
        formats_x86.I386,
        formats_x86.I386_PAE,
        formats_x86.X86_64,
        formats_x86.X86_64_LA57,
        formats_riscv.SV32,
        formats_riscv.SV39,
        formats_riscv.SV48,
        formats_riscv.SV57,
        formats_arm64.ARM64_4K,
        formats_arm64.ARM64_16K,
        formats_arm64.ARM64_64K,
    )
}


def get_format(name: str) -> PteFormat:
    """Return the format called `name`.

    Raises
    ------
    ValueError
        If there is none; the line lists those there are.

    """
    if name not in FORMATS:
        raise ValueError(f"no page-table format {name!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[name]
