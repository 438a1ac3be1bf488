"""What a CPU's TLBs hold, decoded: for check.py and for people."""

from collections.abc import Iterator
from typing import NamedTuple

from emu.hw import state as s
from emu.hw.mmu import Mmu


class TlbEntry(NamedTuple):
    """One cached translation; `writable` for user mode, `dirty` if a store needs no walk."""

    level: int
    asid: int
    vaddr: int
    pfn: int
    writable: bool
    dirty: bool
    is_global: bool


def tlb_entries(mmu: Mmu) -> Iterator[TlbEntry]:
    """Yield the valid entries of the first and second level."""
    state, fmt = mmu.state, mmu.fmt
    sign = 1 << (fmt.va_bits - 1)
    for level, base, ways, mask in (
        (1, s.G_L1_BASE, s.G_L1_WAYS, s.G_L1_MASK),
        (2, s.G_L2_BASE, s.G_L2_WAYS, s.G_L2_MASK),
    ):
        nr_ways, nr_sets = int(state[ways]), int(state[mask]) + 1
        first = int(state[base])
        # A set is a row: its tags, then its data.
        rows = state[first : first + nr_sets * nr_ways * 2].reshape(nr_sets, 2, nr_ways)
        tags, data = rows[:, 0, :].ravel().tolist(), rows[:, 1, :].ravel().tolist()
        for tag, datum in zip(tags, data, strict=True):
            if tag & int(s.TAG_VALID):
                vaddr = (tag & int(s.TAG_PAGE)) << fmt.page_shift
                if fmt.sign_extended and vaddr & sign:
                    vaddr |= (1 << 64) - (sign << 1)
                yield TlbEntry(
                    level=level,
                    asid=(tag & int(s.TAG_ASID)) >> int(s.ASID_SHIFT),
                    vaddr=vaddr & ((1 << 64) - 1),
                    pfn=(datum & int(s.DATA_PHYS)) >> fmt.page_shift,
                    writable=bool(datum & 2),
                    dirty=bool(datum & int(s.DATA_DIRTY)),
                    is_global=bool(tag & int(s.TAG_GLOBAL)),
                )
