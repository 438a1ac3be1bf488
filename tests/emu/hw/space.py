"""An address space for tests: page tables written by hand into RAM, as a kernel would, and one CPU over it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from emu.hw.mmu import Mmu
from emu.hw.physmem import PhysMem
from emu.hw.pte import PteFormat, get_format
from emu.hw.tlb import DEFAULT, TlbModel

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]


class Space:
    """RAM, a root table, and a CPU that translates through it under ASID 1."""

    def __init__(self, name: str, nr_frames: int = 64, model: TlbModel = DEFAULT, **options: Any) -> None:
        self.fmt: PteFormat = get_format(name)
        self.physmem = PhysMem(nr_frames << self.fmt.page_shift, self.fmt.page_shift, seed=7)
        self.root = self.table()
        self.mmu = Mmu(self.physmem, self.fmt, model, **options)
        self.mmu.load_root(self.root, 1)

    def frame(self) -> int:
        pfn = self.physmem.alloc_frame()
        assert pfn > 0
        return pfn

    def table(self) -> int:
        pfn = self.frame()
        self.physmem.zero_frame(pfn)
        return pfn

    def words(self) -> Any:
        return self.physmem.u64 if self.fmt.pte_bytes == 8 else self.physmem.u32

    def where(self, vaddr: int, level: int = -1) -> int:
        """Return the index in words() of the entry of `vaddr` at `level`, building the tables above it."""
        level %= self.fmt.nr_levels
        table = self.root
        for upper in range(level):
            at = (table << self.fmt.page_shift) // self.fmt.pte_bytes + self.fmt.index(vaddr, upper)
            if not self.fmt.table_present(int(self.words()[at])):
                self.words()[at] = self.fmt.mk_table(self.table(), upper)
            table = self.fmt.table_pfn(int(self.words()[at]))
        return (table << self.fmt.page_shift) // self.fmt.pte_bytes + self.fmt.index(vaddr, level)

    def set(self, vaddr: int, pte: int, level: int = -1) -> None:
        self.words()[self.where(vaddr, level)] = pte

    def get(self, vaddr: int, level: int = -1) -> int:
        return int(self.words()[self.where(vaddr, level)])

    def map(self, vaddr: int, *, write: bool = True, execute: bool = False, **flags: Any) -> int:
        """Map a fresh frame at `vaddr` and return its pfn."""
        pfn = self.frame()
        self.set(vaddr, self.fmt.mk_pte(pfn, write=write, execute=execute, **flags))
        return pfn

    def run(self, vaddrs: list[int], kinds: list[int], values: list[int]) -> tuple[int, list[int]]:
        loaded = np.array(values, np.uint64)
        reached = self.mmu.run(np.array(vaddrs, np.uint64), np.array(kinds, np.uint8), loaded)
        return reached, loaded.tolist()

    def fault(self) -> tuple[int, int, int]:
        """Return cause, address and code of the last fault."""
        return self.mmu.regs[0], self.mmu.regs[1], self.mmu.regs[2]

    def peek(self, pfn: int, at: int = 0) -> int:
        return int.from_bytes(self.physmem.frame(pfn)[at : at + 8], "little")

    def poke(self, pfn: int, value: int, at: int = 0) -> None:
        self.physmem.frame(pfn)[at : at + 8] = value.to_bytes(8, "little")


