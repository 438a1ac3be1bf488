"""What a CPU's TLBs hold, decoded: for check.py and for people."""

from collections.abc import Iterator
from typing import NamedTuple

from emu.hw import state as s
from emu.hw.mmu import Mmu

_FRONT_ROW = int(s.FRONT_MASK) + 1


class TlbEntry(NamedTuple):
    """One cached translation; `writable` for user mode, `dirty` if a store needs no walk. Level 0 is the front."""

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


def front_entries(mmu: Mmu) -> Iterator[TlbEntry]:
    """Yield what the front serves, in user mode and to the address space that is loaded."""
    rows = mmu.state[int(s.FRONT_TAGS) : int(s.FRONT_TAGS) + 2 * _FRONT_ROW].reshape(2, _FRONT_ROW)
    loads, stores = rows.tolist()
    xors = mmu.state[int(s.FRONT_XOR) : int(s.FRONT_XOR) + _FRONT_ROW].tolist()
    asid = (mmu.regs[s.R_CONTEXT] & int(s.TAG_ASID)) >> int(s.ASID_SHIFT)
    for load, store, xor in zip(loads, stores, xors, strict=True):
        for vaddr in {load, store} - {int(s.EMPTY)}:
            pfn, is_store = (vaddr ^ xor) >> mmu.fmt.page_shift, vaddr == store
            yield TlbEntry(0, asid, vaddr, pfn, writable=is_store, dirty=is_store, is_global=False)


class PwcEntry(NamedTuple):
    """Where the page-walk cache believes a table to lie: that of `level` for the addresses `region` << its span."""

    level: int
    asid: int
    region: int
    table_pfn: int


def pwc_entries(mmu: Mmu) -> Iterator[PwcEntry]:
    """Yield the valid entries of the page-walk cache."""
    state = mmu.state
    if not state[s.G_PWC_ON]:
        return
    nr_words = 2 * (int(state[s.G_PWC_MASK]) + 1)
    for level in range(1, mmu.fmt.nr_levels):
        first = int(state[int(s.L_PWC_BASE) + level])
        words = state[first : first + nr_words].tolist()
        for tag, datum in zip(words[::2], words[1::2], strict=True):
            if tag & int(s.TAG_VALID):
                asid = (tag & int(s.TAG_ASID)) >> int(s.ASID_SHIFT)
                table_pfn = (datum & int(s.DATA_PHYS)) >> mmu.fmt.page_shift
                yield PwcEntry(level, asid, tag & int(s.TAG_PAGE), table_pfn)
