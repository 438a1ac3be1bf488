"""One CPU's memory management unit, as the emulated kernel drives it.

It never calls back and never raises for what a guest does: it says how far it got and what stopped it.
"""

from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emu.hw import access, invalidate, state, tlb
from emu.hw.cpu_state import describe_format, lay_out_tlb
from emu.hw.physmem import PhysMem
from emu.hw.pte_format import PteFormat
from emu.hw.tlb import TlbModel

if TYPE_CHECKING:
    from collections.abc import Callable

R_FAULT, R_CR2, R_ERROR = state.R_FAULT, state.R_CR2, state.R_ERROR

U64Array = npt.NDArray[np.uint64]
U8Array = npt.NDArray[np.uint8]

COUNTERS = {
    "accesses": state.C_ACCESSES,
    "tlb_l1_misses": state.C_L1_MISSES,
    "tlb_l2_hits": state.C_L2_HITS,
    "walks": state.C_WALKS,
    "walk_reads": state.C_WALK_READS,
    "pwc_hits": state.C_PWC_HITS,
    "accessed_set": state.C_ACCESSED_SET,
    "dirty_set": state.C_DIRTY_SET,
    "faults": state.C_FAULTS,
}


class AccessKind(IntEnum):
    """What an access does: bits 0 and 1 of its kind; bits 2 and 3 are log2 of 8 / nbytes."""

    LOAD = 0
    STORE = 1
    FETCH = 2


class Cause(IntEnum):
    """Why the CPU stopped, whatever the architecture: the value of ``regs[R_FAULT]``."""

    NONE = 0
    NOT_PRESENT = int(state.NOT_PRESENT)
    PERMISSION = int(state.PERMISSION)
    RESERVED = int(state.RESERVED)
    NOT_ACCESSED = int(state.NOT_ACCESSED)
    NOT_CANONICAL = int(state.NOT_CANONICAL)
    NO_MEMORY = int(state.NO_MEMORY)
    NO_TABLE_MEMORY = int(state.NO_TABLE_MEMORY)


def kind_of(kind: AccessKind, nbytes: int) -> int:
    """Return the number that stands in `kinds` for an access of 1, 2, 4 or 8 bytes."""
    return kind | {8: 0, 4: 1, 2: 2, 1: 3}[nbytes] << 2


class Mmu:
    """One CPU: TLBs, the page walker and the access unit over `physmem`.

    ``access(vaddr, kind, value) -> int`` does one access (the value comes back also for stores); give it
    plain ints: an IntEnum's member costs 9 us on its way into compiled code, an int 0.25;
    ``load_bytes(vaddr, buffer)`` and ``store_bytes(vaddr, buffer)`` copy uint8 arrays and return how many
    bytes were copied before a fault. After each, ``regs[R_FAULT]`` is nonzero (a `Cause`) if it faulted,
    with the address in ``regs[R_CR2]`` and the architecture's code in ``regs[R_ERROR]``.
    ``invalidate_page(vaddr, asid)``, ``invalidate_asid(asid)`` and ``invalidate_all()`` drop TLB entries.
    Where `hardware_ad` is false the CPU faults instead of setting accessed and dirty bits.
    """

    def __init__(
        self, physmem: PhysMem, fmt: PteFormat, model: TlbModel = tlb.DEFAULT, *, hardware_ad: bool = True
    ) -> None:
        if physmem.page_shift != fmt.page_shift:
            raise ValueError(
                f"RAM has frames of {physmem.page_size} bytes, {fmt.name} pages of {fmt.page_size}; make them equal"
            )
        self.physmem = physmem
        self.fmt = fmt
        self.model = model
        self.state: U64Array = lay_out_tlb(model, fmt)
        describe_format(self.state, fmt, hardware_ad=hardware_ad)
        self.state[state.R_RAM_BYTES] = physmem.nr_frames << physmem.page_shift
        self.regs = self.state.data.cast("B").cast("Q")
        self.access: Callable[[int, int, int], int] = partial(access.access, self.state, physmem.u64)
        self.load_bytes: Callable[[int, U8Array], int] = partial(
            access.load_bytes, self.state, physmem.u64, physmem.u8
        )
        self.store_bytes: Callable[[int, U8Array], int] = partial(
            access.store_bytes, self.state, physmem.u64, physmem.u8
        )
        self.invalidate_page: Callable[[int, int], None] = partial(invalidate.invalidate_page, self.state)
        self.invalidate_asid: Callable[[int], None] = partial(invalidate.invalidate_asid, self.state)
        self.invalidate_all: Callable[[], None] = partial(invalidate.invalidate_all, self.state)
        self.load_root(0, 0)

    def load_root(self, root_pfn: int, asid: int) -> None:
        """Translate through the table in frame `root_pfn` from now on, under `asid`; flushes nothing.

        ASIDs are 0 to 65535. (Writing CR3 with a PCID and bit 63 set, SATP, or TTBR0.)
        """
        if not 0 <= asid <= state.MAX_ASID:
            raise ValueError(f"ASID {asid} does not fit in 16 bits")
        self.regs[state.R_ROOT] = root_pfn << self.fmt.page_shift
        self.regs[state.R_CONTEXT] = 1 << 63 | asid << 45
        tlb.front_clear(self.state)

    def set_supervisor(self, on: bool) -> None:
        """Make the accesses that follow the kernel's (True) or user mode's (False, as at the start)."""
        self.regs[state.R_MODE] = 3 if on else 0
        tlb.front_clear(self.state)

    def run(
        self, vaddrs: U64Array, kinds: U8Array, values: U64Array, start: int = 0, stop: int | None = None
    ) -> int:
        """Do the accesses `start` to `stop`; return `stop`, or the index of the one that faulted.

        Loads write ``values[i]``, zero-extended; stores read it. The access that faulted was not done.
        """
        end = len(vaddrs) if stop is None else stop
        if not 0 <= start <= end <= min(len(vaddrs), len(kinds), len(values)):
            raise ValueError(f"batch {start}:{end} does not fit arrays of {len(vaddrs)}, {len(kinds)}, {len(values)}")
        reached: int = access.run(self.state, self.physmem.u64, vaddrs, kinds, values, start, end)
        return reached

    def counters(self) -> dict[str, int]:
        """Return what happened since the CPU was made; hits are accesses less misses."""
        return {name: self.regs[index] for name, index in COUNTERS.items()}
