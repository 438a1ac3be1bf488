"""Strategy `range_tree`: each nonlinear VMA keeps a tree of its runs (pgoff range -> vaddr).

A run is consecutive pages that show consecutive file pages; remapping splits and joins runs, faults change nothing.
A random permutation has a run a page, a reversed file too; blocks have a run a block. It needs no mm-wide lock.

The tree is an interval tree by pgoff in nodes of six words, as a kernel would build it: three of the tree, first and
last pgoff, first vaddr. A run that changes is taken out and entered anew, each a way down the tree. Only remaps do
that; where a PTE goes on standing for the same file page nothing is counted, for a kernel would not look (this
emulation does, since it hears of every change alike).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from sortedcontainers import SortedDict

from emu.mm.kernel import Kernel
from emu.mm.rmap.base import NothingKept, PteVisitor
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.interval_tree import IntervalTree
from emu.mm_types.mm import Mm
from emu.mm_types.pgtable import U64Array
from emu.mm_types.vma import VmArea

NODE_WORDS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """`nr_pages` pages from `vaddr` that show the file from `pgoff`."""

    vaddr: int
    pgoff: int
    nr_pages: int


@dataclass(slots=True)
class Runs:
    """The runs of one VMA, by vaddr and by pgoff."""

    by_vaddr: SortedDict = field(default_factory=SortedDict)
    by_pgoff: IntervalTree[Run] = field(default_factory=IntervalTree)

    def add(self, run: Run) -> None:
        """File a run."""
        self.by_vaddr[run.vaddr] = run
        self.by_pgoff.insert(run)

    def drop(self, run: Run) -> None:
        """Take a run out."""
        del self.by_vaddr[run.vaddr]
        self.by_pgoff.remove(run)

    def holding(self, vaddr: int) -> Run:
        """Return the run that holds an address."""
        run: Run = self.by_vaddr.peekitem(self.by_vaddr.bisect_right(vaddr) - 1)[1]
        return run


class RangeTree(NothingKept):
    """Finds the addresses that show a file page; whether a PTE there is present it must read."""

    name = "range_tree"
    finds_all = True

    def __init__(self, k: Kernel) -> None:
        super().__init__(k)
        self._present = k.fmt.present_mask | k.fmt.protnone_mask
        self._shift = k.page_shift
        self._nr_runs = 0

    def watches(self, vma: VmArea) -> bool:
        """Watch every nonlinear VMA."""
        return vma.nonlinear and vma.mapping is not None

    def _runs(self, vma: VmArea) -> Runs:
        assert isinstance(vma.rmap_data, Runs)
        return vma.rmap_data

    def _count(self, nr_runs: int) -> None:
        self._nr_runs += nr_runs
        self.cost.set_bytes(self._nr_runs * NODE_WORDS * self.word_nbytes)

    def _looked(self, visits: int, *, write: bool) -> None:
        """Account one look into a VMA's tree, under that VMA's lock."""
        self.cost.node_visits += visits
        self._k.locks.vma_lock.taken(visits, write=write)

    def _shown(self, vma: VmArea, vaddr: int, pte: int) -> int:
        """Return the file page that a PTE stands for: its page's, its file offset, or the linear one."""
        if pte & self._present:
            return self._k.mem_map.index[self._k.fmt.pte_pfn(pte)]
        return self._k.fmt.pte_to_pgoff(pte) if pte else vma.linear_pgoff(vaddr)

    def pte_changed(self, mm: Mm, vma: VmArea, vaddr: int, old: int, new: int) -> None:
        """Follow a page of the VMA to another file page; nothing else changes a run."""
        del mm, old
        pgoff = self._shown(vma, vaddr, new)
        runs = self._runs(vma)
        run = runs.holding(vaddr)
        page = (vaddr - run.vaddr) >> self._shift
        if run.pgoff + page == pgoff:
            return
        visits = runs.by_pgoff.visits
        runs.drop(run)
        before = len(runs.by_vaddr) + 1
        if page:
            runs.add(Run(run.vaddr, run.pgoff, page))
        if page + 1 < run.nr_pages:
            upper = vaddr + (1 << self._shift)
            runs.add(Run(upper, run.pgoff + page + 1, run.nr_pages - page - 1))
        self._add_joined(runs, Run(vaddr, pgoff, 1))
        self._looked(runs.by_pgoff.visits - visits, write=True)
        self._count(len(runs.by_vaddr) - before)

    def _add_joined(self, runs: Runs, run: Run) -> None:
        """Add a run, joined with the neighbours that it continues."""
        place = runs.by_vaddr.bisect_left(run.vaddr)
        if place:
            below: Run = runs.by_vaddr.peekitem(place - 1)[1]
            if below.vaddr + (below.nr_pages << self._shift) == run.vaddr and below.pgoff + below.nr_pages == run.pgoff:
                runs.drop(below)
                run = Run(below.vaddr, below.pgoff, below.nr_pages + run.nr_pages)
        above = runs.by_vaddr.get(run.vaddr + (run.nr_pages << self._shift))
        if above is not None and run.pgoff + run.nr_pages == above.pgoff:
            runs.drop(above)
            run = Run(run.vaddr, run.pgoff, run.nr_pages + above.nr_pages)
        runs.add(run)

    def ptes_changed(self, mm: Mm, vma: VmArea, vaddrs: U64Array, olds: U64Array, news: U64Array) -> None:
        """Do the same for many; a zap to nothing leaves runs that the VMA's end will take."""
        if not news.any():
            return
        for vaddr, old, new in zip(vaddrs.tolist(), olds.tolist(), news.tolist(), strict=True):
            self.pte_changed(mm, vma, vaddr, old, new)

    def vma_converted(self, vma: VmArea) -> None:
        """Start with the one run of a linear VMA."""
        vma.rmap_data = runs = Runs()
        runs.add(Run(vma.start, vma.pgoff, vma.nr_pages))
        self._looked(runs.by_pgoff.visits, write=True)
        self._count(1)
        vaddrs, ptes = self._ptes_of(vma)
        self.ptes_changed(vma.mm, vma, vaddrs, np.zeros_like(ptes), ptes)

    def vma_split(self, vma: VmArea, new: VmArea) -> None:
        """Divide the runs."""
        runs, upper = self._runs(vma), Runs()
        new.rmap_data = upper
        before, visits = len(runs.by_vaddr), runs.by_pgoff.visits
        for run in [runs.holding(new.start), *[runs.by_vaddr[key] for key in runs.by_vaddr.irange(new.start)]]:
            if run.vaddr not in runs.by_vaddr or run.vaddr + (run.nr_pages << self._shift) <= new.start:
                continue
            runs.drop(run)
            nr_below = max(new.start - run.vaddr, 0) >> self._shift
            if nr_below:
                runs.add(Run(run.vaddr, run.pgoff, nr_below))
            start = max(new.start, run.vaddr)
            upper.add(Run(start, run.pgoff + nr_below, run.nr_pages - nr_below))
        self._looked(runs.by_pgoff.visits - visits + upper.by_pgoff.visits, write=True)
        self._count(len(runs.by_vaddr) + len(upper.by_vaddr) - before)

    def vma_merged(self, vma: VmArea, gone: VmArea) -> None:
        """Take over the runs of the other."""
        runs, others = self._runs(vma), self._runs(gone)
        before, visits = len(runs.by_vaddr) + len(others.by_vaddr), runs.by_pgoff.visits
        for run in list(others.by_vaddr.values()):
            self._add_joined(runs, run)
        self._looked(runs.by_pgoff.visits - visits + len(others.by_vaddr), write=True)
        self._count(len(runs.by_vaddr) - before)

    def vma_closed(self, vma: VmArea) -> None:
        """Free the tree."""
        nr_runs = len(self._runs(vma).by_vaddr)
        self._looked(nr_runs, write=True)
        self._count(-nr_runs)
        vma.rmap_data = None

    def _each(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        hits = 0
        pgoff = self._k.mem_map.index[pfn]
        for vma in list(mapping.i_mmap_nonlinear):
            runs = self._runs(vma)
            visits = runs.by_pgoff.visits
            found = runs.by_pgoff.stab(pgoff)
            self._looked(runs.by_pgoff.visits - visits, write=False)
            for run in found:
                vaddr = run.vaddr + (pgoff - run.pgoff << self._shift)
                pte = vma.mm.pt.get(vaddr)
                self.cost.pte_visits += 1
                if pte & self._present and self._k.fmt.pte_pfn(pte) == pfn:
                    hits += one(vma.mm, vma, vaddr, pte)
        return hits

    def mkclean(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit the PTEs where the file page is shown."""
        return self._each(pfn, mapping, one)

    def unmap(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit the PTEs where the file page is shown."""
        return self._each(pfn, mapping, one)

    def referenced(self, pfn: int, mapping: AddressSpace, one: PteVisitor) -> int:
        """Visit the PTEs where the file page is shown."""
        return self._each(pfn, mapping, one)

    def check(self, k: Kernel) -> Iterator[str]:
        """Compare the runs with what the PTEs stand for."""
        count = 0
        for mm in k.mms.values():
            for vma in filter(self.watches, mm.vmas):
                runs = self._runs(vma)
                count += len(runs.by_vaddr)
                for vaddr in range(vma.start, vma.end, k.page_size):
                    run = runs.holding(vaddr)
                    kept = run.pgoff + ((vaddr - run.vaddr) >> self._shift)
                    real = self._shown(vma, vaddr, mm.pt.get(vaddr))
                    if kept != real:
                        yield f"range_tree: {vaddr:#x} of {vma!r} shows {real}, the tree says {kept}"
        if count != self._nr_runs:
            yield f"range_tree: {self._nr_runs} runs counted, {count} there"
