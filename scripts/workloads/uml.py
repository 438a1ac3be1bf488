"""User-mode Linux as it ran in 2003: many small address spaces over one memory file, made of remapped pages."""

import time

import numpy as np

from emu.hw.mmu import AccessKind
from emu.lab.errors import BrokenExpectation, LabError
from emu.lab.lab import Lab
from emu.mapping import Mapping
from emu.process import Process
from emu.units import MIB

_READ_ONLY, _READ_WRITE = 1, 3
_REGION_PAGES = 16


def uml(
    lab: Lab, *, guests: int = 16, memory_pages: int = 4096, space_pages: int = 128, rounds: int = 8
) -> dict[str, object]:
    """Run guest processes whose pages are remapped pages of one memory file; some regions are read-only.

    Each guest is an address space of `space_pages` that shows pages of the guest's physical memory. Every round one
    half of it is exchanged, as a guest's own page faults and forks do, every fourth region is made read-only and
    writable again (remap_file_pages itself takes no protections), and the guest counts up a word in its writable
    pages. The counts are checked through another guest's mapping at the end.
    """
    regions = space_pages // _REGION_PAGES
    if guests < 1 or rounds < 1 or space_pages < 1:
        raise LabError("uml needs at least 1 guest, 1 page of space and 1 round")
    if not regions or guests * space_pages > memory_pages:
        raise LabError(f"{guests} guests of {space_pages} pages (at least {_REGION_PAGES}) need as many memory pages")
    page_size = lab.page_size
    with lab.new_file("uml.mem") as path:
        with path.open("wb") as file:
            file.truncate(memory_pages * page_size)
        machine = lab.boot(ram=2 * memory_pages * page_size + guests * 16 * page_size + 16 * MIB)
        steps = np.arange(space_pages, dtype=np.uint64) * np.uint64(page_size)
        spaces: list[tuple[Process, Mapping]] = []
        for _ in range(guests):
            process = machine.spawn()
            spaces.append((process, process.mmap(str(path), space_pages * page_size)))
        # Each guest owns its share of the memory; which of its pages lie where changes from round to round.
        owned = lab.rng.permutation(memory_pages)[: guests * space_pages].reshape(guests, space_pages)
        counts = np.zeros(memory_pages, np.uint64)
        most_vmas = remaps = 0
        began_s = time.perf_counter()
        with lab.progress.step("running guests", guests * rounds) as advance:
            for number in range(rounds):
                for guest, (process, mapping) in enumerate(spaces):
                    moved = np.arange(space_pages) if not number else lab.rng.permutation(space_pages)[::2]
                    owned[guest, moved] = owned[guest, np.roll(moved, 1)] if number else owned[guest]
                    for place in moved.tolist():
                        vaddr = mapping.vaddr + place * page_size
                        process.remap_file_pages(vaddr, page_size, 0, int(owned[guest, place]), 0)
                    remaps += len(moved)
                    locked = range(0, regions, 4)
                    for region in locked:
                        _protect(process, mapping, region, _READ_ONLY)
                    most_vmas = max(most_vmas, process.mm.map_count)
                    writable = np.repeat(np.arange(regions) % 4 != 0, _REGION_PAGES)
                    places = np.flatnonzero(np.concatenate([writable, np.ones(space_pages % _REGION_PAGES, np.bool_)]))
                    pages = owned[guest, places]
                    counts[pages] += np.uint64(1)
                    process.run(np.uint64(mapping.vaddr) + steps[places], AccessKind.STORE, counts[pages])
                    for region in locked:
                        _protect(process, mapping, region, _READ_WRITE)
                    advance(1)
        spent_s = time.perf_counter() - began_s
        rmap_bytes, counters = machine.kernel.rmap.cost.nbytes_peak, machine.vmstat
        viewer = machine.spawn()
        view = viewer.mmap(str(path), memory_pages * page_size)
        every = np.uint64(view.vaddr) + np.arange(memory_pages, dtype=np.uint64) * np.uint64(page_size)
        wrong = int((viewer.run(every, AccessKind.LOAD) != counts).sum())
        if wrong:
            raise BrokenExpectation(f"{wrong} pages of the guests' memory do not hold what was stored")
        return {
            "guests": guests,
            "remaps": remaps,
            "us_per_remap_with_its_share": round(spent_s / remaps * 1e6, 3),
            "faults": counters.pgfault,
            "vmas_of_a_guest_most": most_vmas,
            "mkclean_visits": counters.mkclean_pte_visits + counters.mkclean_node_visits,
            "rmap_bytes_peak": rmap_bytes,
        }


def _protect(process: Process, mapping: Mapping, region: int, prot: int) -> None:
    nbytes = _REGION_PAGES * process.page_size
    process.mprotect(mapping.vaddr + region * nbytes, nbytes, prot)
