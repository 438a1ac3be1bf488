"""Each lock counts its acquisitions and the visits made while it was held."""

from pathlib import Path

import pytest

from emu.mm.unmap import SwapResult, page_referenced, try_to_unmap
from tests.emu.mm.helpers import NR_PAGES, PAGE, make_file, map_nonlinear, virtual_machine


@pytest.mark.parametrize(
    ("rmap", "own_lock", "looks"),
    [("range_tree", "vma_lock", 0), ("shadow", "vma_lock", NR_PAGES), ("dirty_index", "rmap_lock", NR_PAGES)],
)
def test_faults_remaps_and_cleaning_are_counted(tmp_path: Path, rmap: str, own_lock: str, looks: int) -> None:
    machine, _ = virtual_machine(rmap=rmap)
    process = machine.spawn()
    mapping = map_nonlinear(process, make_file(tmp_path / "file", NR_PAGES), NR_PAGES)
    before = machine.kernel.locks.snapshot()
    for page in range(NR_PAGES):
        process.store(mapping.vaddr + page * PAGE, b"x")
    faulted = machine.kernel.locks.snapshot()

    def grew(name: str, count: str) -> int:
        return faulted[name][count] - before[name][count]

    # One VMA: a node of the tree and a PTE for each fault.
    assert grew("mmap_sem", "nr_read") == NR_PAGES
    assert grew("mmap_sem", "visits_read") == 2 * NR_PAGES
    assert grew("page_lock", "nr_write") == NR_PAGES
    assert grew(own_lock, "nr_read") + grew(own_lock, "nr_write") == looks, "a fault changes no run"
    machine.sync()
    cleaned = machine.kernel.locks.snapshot()
    # mkclean runs under the page lock and i_mmap_lock, and reads one PTE a page at the least.
    for name in ("page_lock", "i_mmap_lock"):
        assert cleaned[name]["visits_write"] - faulted[name]["visits_write"] >= NR_PAGES
    process.remap_file_pages(mapping.vaddr, 4 * PAGE, 0, 8)
    remapped = machine.kernel.locks.snapshot()
    assert remapped["mmap_sem"]["visits_read"] - cleaned["mmap_sem"]["visits_read"] >= 5
    machine.power_off()


@pytest.mark.parametrize("rmap", ["scan", "pte_chain"])
def test_reclaim_is_charged_for_every_pte_that_it_reads(tmp_path: Path, rmap: str) -> None:
    """A scan reads every PTE of the leaf tables under i_mmap_lock for one page; a chain knows where to look."""
    machine, _ = virtual_machine(rmap=rmap)
    k = machine.kernel
    process = machine.spawn()
    mapping = map_nonlinear(process, make_file(tmp_path / "file", NR_PAGES), NR_PAGES)
    process.load(mapping.vaddr, 1)
    pfn = k.fmt.pte_pfn(process.mm.pt.get(mapping.vaddr))
    space = k.mappings[k.mem_map.mapping[pfn]]
    before, read = k.locks.snapshot()["i_mmap_lock"], k.rmap.cost.pte_visits + k.rmap.cost.node_visits
    assert page_referenced(k, pfn) == 1
    assert try_to_unmap(k, space, pfn) is SwapResult.SUCCESS
    after, read = k.locks.snapshot()["i_mmap_lock"], k.rmap.cost.pte_visits + k.rmap.cost.node_visits - read
    assert after["nr_write"] - before["nr_write"] == 2
    assert after["visits_write"] - before["visits_write"] == read
    assert read == (2 * NR_PAGES if rmap == "scan" else read)
    assert rmap == "scan" or read < NR_PAGES
    machine.power_off()


def test_truncation_is_charged_for_every_pte_that_it_reads(tmp_path: Path) -> None:
    """In a nonlinear mapping any PTE may show the page that goes: all are read, and one goes."""
    machine, _ = virtual_machine()
    process = machine.spawn()
    mapping = map_nonlinear(process, make_file(tmp_path / "file", NR_PAGES), NR_PAGES)
    process.load(mapping.vaddr, NR_PAGES * PAGE)
    before = machine.kernel.locks.snapshot()["i_mmap_lock"]["visits_write"]
    process.ftruncate(mapping, (NR_PAGES - 1) * PAGE)
    assert machine.kernel.locks.snapshot()["i_mmap_lock"]["visits_write"] - before >= NR_PAGES
    machine.power_off()
