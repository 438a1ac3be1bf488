"""check() sees each way in which anonymous memory and swap can be wrong."""

import mmap
import re
from collections.abc import Callable

import pytest

from emu.check import check
from emu.errors import KernelBug
from emu.hw.swapops import swp_entry, swp_entry_to_pte
from emu.mm_types.anon_vma import AnonVma
from emu.mm_types.page import PG_SWAPCACHE
from emu.mm_types.pgtable import set_pte
from tests.emu.mm.helpers import PAGE, virtual_machine


class Swapped:
    """Two processes that share a page in memory (0), one on swap (1), one in the swap cache (2); page 3 is zero."""

    def __init__(self) -> None:
        self.machine = virtual_machine(swap=65 * PAGE, huge_pages=False, page_cluster=0)[0]
        self.k = self.machine.kernel
        self.process = self.machine.spawn()
        self.vaddr = self.process.mmap(-1, 4 * PAGE, mmap.MAP_PRIVATE).vaddr
        for page in range(3):
            self.process.store(self.vaddr + page * PAGE, b"page")
        for _ in range(3):
            self.k.try_to_free_pages(self.k, 1 << 20)
        self.process.store(self.vaddr, b"here")
        self.process.load(self.vaddr + 2 * PAGE, 1)
        self.process.load(self.vaddr + 3 * PAGE, 1)
        self.child = self.process.fork()
        check(self.machine)

    def pte(self, page: int) -> int:
        return self.process.mm.pt.get(self.vaddr + page * PAGE)

    def pfn(self, page: int) -> int:
        return self.k.fmt.pte_pfn(self.pte(page))

    def poke(self, page: int, new: int) -> None:
        vma = self.process.mm.vmas.find(self.vaddr)
        assert vma is not None
        set_pte(self.process.mm, vma, self.vaddr + page * PAGE, self.pte(page), new)
        self.k.flush_tlb_mm(self.process.mm)


def slot_forgotten(lab: Swapped) -> None:
    lab.poke(1, 0)


def slot_never_taken(lab: Swapped) -> None:
    lab.poke(1, swp_entry_to_pte(lab.k.fmt, swp_entry(0, 50)))


def slot_count(lab: Swapped) -> None:
    lab.k.swap.swap_duplicate(next(iter(lab.k.swap.cache)))


def inuse_pages(lab: Swapped) -> None:
    lab.k.swap.areas[0].inuse_pages += 1


def swap_ents(lab: Swapped) -> None:
    lab.process.mm.swap_ents -= 1


def page_without_its_entry(lab: Swapped) -> None:
    lab.k.mem_map.private[lab.pfn(2)] = 0


def flag_without_cache(lab: Swapped) -> None:
    lab.k.mem_map.flags[lab.process.mm.pt.root_pfn] |= PG_SWAPCACHE


def nr_swapcached(lab: Swapped) -> None:
    lab.k.vmstat.nr_swapcached += 1


def shared_page_writable(lab: Swapped) -> None:
    lab.poke(0, lab.k.fmt.pte_mkwrite(lab.pte(0)))


def zero_page_writable(lab: Swapped) -> None:
    lab.poke(3, lab.k.fmt.pte_mkwrite(lab.pte(3)))


def page_of_another_family(lab: Swapped) -> None:
    lab.k.mem_map.mapping[lab.pfn(0)] = 999


def page_elsewhere(lab: Swapped) -> None:
    lab.k.mem_map.index[lab.pfn(0)] += 1


def vma_not_filed(lab: Swapped) -> None:
    vma = lab.process.vmas[0]
    assert vma.anon_vma is not None
    vma.anon_vma.vmas.remove(vma)


def empty_family(lab: Swapped) -> None:
    lab.k.anon_vmas[999] = AnonVma(999)


BREAKS: dict[Callable[[Swapped], None], str] = {
    slot_forgotten: "users of swap entry .*: kept 2, really 1",
    slot_never_taken: "users of swap entry 0x32: kept 0, really 1",
    slot_count: "users of swap entry",
    inuse_pages: "swap area 0 inuse_pages: kept",
    swap_ents: "swap_ents: kept 0, really 1",
    page_without_its_entry: "the swap cache has for entry",
    flag_without_cache: "pages with PG_swapcache: kept 3, really 2",
    nr_swapcached: "nr_swapcached: kept 3, really 2",
    shared_page_writable: "is writable, its page has 2 users",
    zero_page_writable: "may write to the zero page",
    page_of_another_family: "anon_vma .* maps page",
    page_elsewhere: "anon_vma .* maps page",
    vma_not_filed: "is filed under None, has AnonVma",
    empty_family: "outlived its VMAs",
}


@pytest.mark.parametrize("how", BREAKS, ids=lambda how: how.__name__)
def test_each_is_seen(how: Callable[[Swapped], None]) -> None:
    lab = Swapped()
    how(lab)
    with pytest.raises(KernelBug) as caught:
        check(lab.machine)
    assert any(re.search(BREAKS[how], line) for line in str(caught.value).splitlines()), str(caught.value)
    lab.machine.power_off()
