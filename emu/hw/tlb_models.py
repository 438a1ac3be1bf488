"""TLB geometries as data, among them those of some well-known CPUs.

A preset has the CPU's data TLB for the smallest pages. What a model leaves out: other page sizes have no
arrays of their own (a large page is broken down into small ones, as the Cortex-A76 does for its first level),
replacement is first in, first out, and loads, stores and fetches share the entries.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlbModel:
    """Sizes of one CPU's TLBs. Sets are powers of two; `pwc_entries` is per level of tables, 0 for none."""

    name: str
    l1_sets: int
    l1_ways: int
    l2_sets: int
    l2_ways: int
    pwc_entries: int
    source: str

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be indexed by address bits."""
        for what, count in (("l1_sets", self.l1_sets), ("l2_sets", self.l2_sets)):
            if count < 1 or count & count - 1:
                raise ValueError(f"{what} is {count}; it must be a power of two")
        if self.pwc_entries < 0 or (self.pwc_entries and self.pwc_entries & self.pwc_entries - 1):
            raise ValueError(f"pwc_entries is {self.pwc_entries}; it must be 0 or a power of two")
        if min(self.l1_ways, self.l2_ways) < 1:
            raise ValueError("a TLB set needs at least one way")


_INTEL = "Intel 64 and IA-32 Architectures Optimization Reference Manual, "
_GUESSED_PWC = "; the page-walk cache's size is an assumption"

PRESETS: dict[str, TlbModel] = {
    model.name: model
    for model in (
        TlbModel("core2", 4, 4, 64, 4, 0, _INTEL + "Intel Core microarchitecture: DTLB0 16, DTLB1 256 entries"),
        TlbModel("nehalem", 16, 4, 128, 4, 32, _INTEL + "Nehalem: DTLB 64, STLB 512 entries, 4-way" + _GUESSED_PWC),
        TlbModel("haswell", 16, 4, 128, 8, 32, _INTEL + "Haswell: DTLB 64, STLB 1024 entries 8-way" + _GUESSED_PWC),
        TlbModel("skylake", 16, 4, 128, 12, 32, _INTEL + "Skylake: DTLB 64, STLB 1536 entries 12-way" + _GUESSED_PWC),
        TlbModel(
            "jaguar", 1, 40, 128, 4, 16,
            "AMD 52128, Software Optimization Guide for AMD Family 16h Processors, 2.6: 40 entries fully "
            "associative, 512 entries 4-way, a page directory cache of 16",
        ),
        TlbModel(
            "cortex_a72", 1, 32, 256, 4, 16,
            "Arm Cortex-A72 MPCore Processor Technical Reference Manual, 5.2: 32 entries fully associative, "
            "1024 entries 4-way" + _GUESSED_PWC,
        ),
        TlbModel(
            "cortex_a76", 1, 48, 256, 5, 16,
            "Arm Cortex-A76 Core Technical Reference Manual, A5.2: 48 entries fully associative, 1280 entries "
            "5-way" + _GUESSED_PWC,
        ),
    )
}
DEFAULT = PRESETS["skylake"]


def get_model(name: str) -> TlbModel:
    """Return the preset called `name`.

    Raises
    ------
    ValueError
        If there is none; the line lists those there are.

    """
    if name not in PRESETS:
        raise ValueError(f"no TLB model {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
