"""A whole file in random order through one nonlinear mapping."""

import time

import numpy as np

from emu.hw.mmu import AccessKind
from emu.lab.errors import BrokenExpectation, LabError
from emu.lab.lab import Lab
from emu.lab.stamps import cyclic_permutation, first_words
from emu.units import MIB

_PART = 4096


def shuffle(lab: Lab, *, pages: int = 16384, bulk: bool = False, writes: float = 0.0) -> dict[str, object]:
    """Remap a file into a random permutation, and check through the mapping that each page shows where it should.

    One page a call, or with `bulk` all at once. A share of `writes` of the pages is then stored into, so that
    the reverse map has something to do.
    """
    if not 0 <= writes <= 1:
        raise LabError(f"writes is a share from 0 to 1, not {writes}")
    path = lab.stamped_file("shuffle.dat", pages)
    nbytes = pages * lab.page_size
    machine = lab.boot(ram=nbytes + nbytes // 4 + 16 * MIB)
    process = machine.spawn()
    mapping = process.mmap(str(path), nbytes)
    vaddrs = np.uint64(mapping.vaddr) + np.arange(pages, dtype=np.uint64) * np.uint64(lab.page_size)

    with lab.progress.step("reading the file in", pages) as advance:
        for part in np.array_split(vaddrs, -(-pages // _PART)):
            process.run(part, AccessKind.LOAD)
            advance(len(part))
    permutation = cyclic_permutation(pages, lab.rng)
    began_s = time.perf_counter()
    with lab.progress.step("remapping", pages) as advance:
        if bulk:
            process.remap_file_pages_bulk(vaddrs, permutation)
            advance(pages)
        else:
            calls = zip(vaddrs.tolist(), permutation.tolist(), strict=True)
            for number, (vaddr, pgoff) in enumerate(calls):
                process.remap_file_pages(vaddr, lab.page_size, 0, pgoff, 0)
                if not number % _PART:
                    advance(min(_PART, pages - number))
    remap_s = time.perf_counter() - began_s

    began_s = time.perf_counter()
    seen = process.run(vaddrs, AccessKind.LOAD)
    read_s = time.perf_counter() - began_s
    wrong = int((seen != first_words(lab.seed, permutation, 0)).sum())
    if wrong:
        raise BrokenExpectation(f"{wrong} of {pages} places show another page of the file than they should")

    count = round(pages * writes)
    if count:
        chosen = vaddrs[np.sort(lab.rng.choice(pages, count, replace=False))]
        process.run(chosen, AccessKind.STORE, np.arange(count))
        lab.look(process, mapping, "stored into, before msync")
        mapping.flush()
        lab.look(process, mapping, "after msync")
    counters = machine.vmstat
    return {
        "pages": pages,
        "remap_us_per_page": round(remap_s / pages * 1e6, 3),
        "read_us_per_page": round(read_s / pages * 1e6, 3),
        "pages_stored": count,
        "faults": counters.pgfault,
        "mkclean_calls": counters.mkclean_calls,
        "mkclean_visits": counters.mkclean_pte_visits + counters.mkclean_node_visits,
        "vmas": process.mm.map_count,
        "rmap_bytes_peak": machine.kernel.rmap.cost.nbytes_peak,
    }
