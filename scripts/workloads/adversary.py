"""An adversary: one page of a file, or all of them, mapped so that cleaning and reclaiming one page costs the most."""

import time

import numpy as np

from emu.hw.mmu import AccessKind
from emu.lab.errors import LabError
from emu.lab.lab import Lab
from emu.units import MIB


def adversary(
    lab: Lab, *, pages: int = 4096, processes: int = 2, dirty: bool = True, cleanings: int = 3
) -> dict[str, object]:
    """Show one page at every address of a mapping, in several processes, and let the kernel clean it.

    Each process maps the file and remaps all `pages` of its mapping to page 0; with `dirty` it stores through each
    address. Then page 0 is cleaned `cleanings` times, stored into again through one address only in between, and at
    the end all is unmapped. `fremap dos` runs the same under every reverse map.
    """
    if pages < 2 or processes < 1 or cleanings < 1:
        raise LabError("the adversary needs at least 2 pages, 1 process and 1 cleaning")
    page_size = lab.page_size
    with lab.new_file("adversary.dat") as path:
        with path.open("wb") as file:
            file.truncate(pages * page_size)
        tables = processes * (pages // 256 + 16) * page_size
        machine = lab.boot(ram=tables + 32 * MIB)
        steps = np.arange(pages, dtype=np.uint64) * np.uint64(page_size)
        attackers = []
        began_s = time.perf_counter()
        with lab.progress.step("mapping one page everywhere", processes) as advance:
            for _ in range(processes):
                process = machine.spawn(privileged=False)
                mapping = process.mmap(str(path), pages * page_size)
                vaddrs = np.uint64(mapping.vaddr) + steps
                process.remap_file_pages_bulk(vaddrs[1:], np.zeros(pages - 1, np.uint64))
                process.run(vaddrs, AccessKind.STORE if dirty else AccessKind.LOAD, 1)
                attackers.append((process, mapping.vaddr))
                advance(1)
        attack_s = time.perf_counter() - began_s
        counters = machine.vmstat
        visits, spent_s = [], []
        for number in range(cleanings):
            attackers[0][0].store_word(attackers[0][1], number)
            before = counters.mkclean_pte_visits + counters.mkclean_node_visits
            began_s = time.perf_counter()
            machine.sync()
            spent_s.append(time.perf_counter() - began_s)
            visits.append(counters.mkclean_pte_visits + counters.mkclean_node_visits - before)
        nodes = machine.kernel.rmap.cost.node_visits
        began_s = time.perf_counter()
        for process, vaddr in attackers:
            process.munmap(vaddr, pages * page_size)
        unmap_s = time.perf_counter() - began_s
        return {
            "addresses": pages * processes,
            "attack_s": round(attack_s, 4),
            "mkclean_visits_first": visits[0],
            "mkclean_visits_last": visits[-1],
            "sync_ms_first": round(spent_s[0] * 1e3, 3),
            "sync_ms_last": round(spent_s[-1] * 1e3, 3),
            "munmap_node_visits": machine.kernel.rmap.cost.node_visits - nodes,
            "munmap_ms": round(unmap_s * 1e3, 3),
            "rmap_bytes_peak": machine.kernel.rmap.cost.nbytes_peak,
        }
