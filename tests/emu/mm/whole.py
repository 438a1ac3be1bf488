"""A machine with some of everything, for those who break it on purpose."""

from collections.abc import Callable
from pathlib import Path

from emu.check import check
from emu.mm.rmap.dirty_index import DirtyIndex
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VmArea
from tests.emu.mm.helpers import NR_PAGES, PAGE, Lab, map_nonlinear


class Whole(Lab):
    """A machine with some of everything: linear, nonlinear, private; clean and dirty; two processes."""

    def __init__(self, directory: Path, fmt: str) -> None:
        super().__init__(directory, fmt, cpus=2)
        self.k = self.machine.kernel
        self.mm = self.process.mm
        self.nonlinear = map_nonlinear(self.process, self.path, NR_PAGES)
        self.private = self.process.mmap(-1, PAGE, 2)
        self.process.store(self.private.vaddr, b"anon")
        self.process.load(self.at(0), 4 * PAGE)
        self.process.store(self.at(1), b"dirty")
        self.process.load(self.nonlinear.vaddr, PAGE)
        self.process.store(self.nonlinear.vaddr + PAGE, b"dirty")
        self.child = self.process.fork()
        self.child.load(self.at(0), 8)
        check(self.machine)

    def pfn(self, page: int) -> int:
        return self.machine.format.pte_pfn(self.pte(page))

    @property
    def linear_vma(self) -> VmArea:
        return next(v for v in self.process.vmas if v.start <= self.at(0) < v.end and v.mapping is not None)

    @property
    def nonlinear_vma(self) -> VmArea:
        return next(v for v in self.process.vmas if v.nonlinear)

    @property
    def index(self) -> DirtyIndex:
        assert isinstance(self.k.rmap, DirtyIndex)
        return self.k.rmap

    def poke(self, page: int, change: Callable[[int], int], *, flush: bool = True) -> None:
        """Change a PTE of the linear mapping behind everybody's back."""
        vma = self.linear_vma
        set_pte(self.mm, vma, self.at(page), self.pte(page), change(self.pte(page)))
        if flush:
            self.k.flush_tlb_mm(self.mm)


Break = Callable[[Whole], object]
BREAKS: dict[str, tuple[Break, str]] = {}
"""What breaks one invariant, and what check must say of it."""


def breaks(says: str) -> Callable[[Break], Break]:
    """Enter a function into BREAKS."""

    def note(how: Break) -> Break:
        BREAKS[how.__name__] = how, says
        return how

    return note
