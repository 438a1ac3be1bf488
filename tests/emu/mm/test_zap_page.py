"""Zapping one page, which does without arrays, does to every kind of PTE what zapping a range does."""

import dataclasses
import mmap
from pathlib import Path

import pytest

from emu.check import check
from emu.machine import Machine
from emu.mm.memory import ZapDetails, zap_page_range
from emu.mm.mmap import MAP_NONBLOCK
from emu.mm.unmap import page_referenced
from emu.mm_types.page_tree import TAG_DIRTY
from emu.mm_types.vma import VmArea
from emu.process import Process
from tests.emu.mm.helpers import PAGE, make_file, virtual_machine

PRIVATE = mmap.MAP_PRIVATE
NR_PAGES = 16
PLACES = range(0, NR_PAGES, 2)
"""Only these are touched, so that a range of two pages has one PTE at most."""

DETAILS = [None, ZapDetails(), ZapDetails(0, 7), ZapDetails(even_cows=True), ZapDetails(5, 12, even_cows=True)]


def everything(machine: Machine, processes: list[Process]) -> dict[str, object]:
    k = machine.kernel
    fields = ("flags", "refcount", "mapcount", "mapping", "index", "private")
    arrays = {name: getattr(k.mem_map, f"{name}_array").tolist() for name in fields}
    arrays["lru"] = [k.lru.next_array.tolist(), k.lru.prev_array.tolist(), k.lru.nr]
    ptes = [[tuple(column.tolist()) for column in p.mm.pt.entries(0, p.mm.task_size)] for p in processes]
    counts = [(p.mm.file_rss, p.mm.anon_rss, p.mm.swap_ents) for p in processes]
    slots = [area.swap_map.tolist() for area in k.swap.areas.values()]
    dirty = [sorted(mapping.pages.find_tagged(TAG_DIRTY, 0, 99, 99)) for mapping in k.mappings.values()]
    return {
        **arrays,
        "ptes": ptes,
        "counts": counts,
        "swap": [slots, sorted(k.swap.cache.items())],
        "dirty": dirty,
        "vmstat": dataclasses.asdict(k.vmstat),
        "visits": k.locks.visits.total,
    }


def put_out(machine: Machine, process: Process) -> None:
    """Send anonymous pages to swap, and load some again, which stay in the swap cache."""
    swapped = process.mmap(-1, NR_PAGES * PAGE, PRIVATE)
    for place in PLACES:
        process.store(swapped.vaddr + place * PAGE, b"out")
    for _ in range(3):
        machine.kernel.try_to_free_pages(machine.kernel, 1 << 20)
    for place in PLACES[::3]:
        process.load(swapped.vaddr + place * PAGE, 1)


def build(path: Path) -> tuple[Machine, list[Process]]:
    """Make pages of every kind: clean, dirty, young and old, remapped, private, shared by fork, on swap."""
    machine, _ = virtual_machine(swap=401 * PAGE, huge_pages=False)
    process = machine.spawn()
    put_out(machine, process)
    nonlinear = process.mmap(path, NR_PAGES * PAGE).vaddr
    for place in PLACES:
        pgoff = (NR_PAGES - place) % NR_PAGES
        process.remap_file_pages(nonlinear + place * PAGE, PAGE, 0, pgoff, MAP_NONBLOCK if place > 6 else 0)
    linear = process.mmap(path, NR_PAGES * PAGE).vaddr
    private = process.mmap(path, NR_PAGES * PAGE, PRIVATE).vaddr
    anonymous = process.mmap(-1, NR_PAGES * PAGE, PRIVATE).vaddr
    for base in (nonlinear, linear, private, anonymous):
        for vaddr in (base + 2 * PAGE, base + 4 * PAGE, base + 8 * PAGE, base + 10 * PAGE):
            process.load(vaddr, 1)
        for vaddr in (base + 6 * PAGE, base + 14 * PAGE):
            process.store(vaddr, b"in")
    child = process.fork()
    process.store(anonymous + 6 * PAGE, b"copied")
    for pfn in range(1, machine.kernel.ram.nr_frames, 2):
        # Half of the PTEs are old.
        page_referenced(machine.kernel, pfn)
    return machine, [process, child]


def zap_all(machine: Machine, vmas: list[VmArea], nbytes: int, details: ZapDetails | None) -> int:
    return sum(
        zap_page_range(machine.kernel, vma, vma.start + place * PAGE, vma.start + place * PAGE + nbytes, details)
        for vma in vmas
        for place in PLACES
    )


@pytest.mark.parametrize("details", DETAILS, ids=str)
def test_one_page_goes_as_a_range_of_pages_does(tmp_path: Path, details: ZapDetails | None) -> None:
    twins = []
    for number, nbytes in enumerate((PAGE, 2 * PAGE)):
        machine, processes = build(make_file(tmp_path / str(number), NR_PAGES))
        before = everything(machine, processes)
        zapped = zap_all(machine, processes[0].vmas + processes[1].vmas, nbytes, details)
        check(machine)
        twins.append((before, zapped, everything(machine, processes)))
        machine.power_off()
    (before, nr_one, one), (before_many, nr_many, many) = twins
    assert before == before_many
    assert before != one
    assert nr_one == nr_many > 0
    for name, value in one.items():
        assert value == many[name], name
