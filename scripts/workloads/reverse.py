"""A large file remapped in reverse order, one page a call."""

import time

import numpy as np

from emu.hw.mmu import AccessKind
from emu.lab.errors import BrokenExpectation
from emu.lab.lab import Lab
from emu.lab.stamps import first_words
from emu.units import MIB

_PART = 4096


def reverse(lab: Lab, *, pages: int = 16384, max_map_count: int = 65530) -> dict[str, object]:
    """Remap a file so that its last page comes first, read all of it, store into all of it, write it back.

    Run it with `--rmap none` or `dirty_index` and with `--rmap linear_vmas`, which needs a `max_map_count` above the
    number of pages. The kernel's own benchmark of this, published with the patch that replaced nonlinear mappings by
    ordinary ones (4 GiB, a million VMAs), took 23.3 s against 43.9 s, 1.88 times: the peer figure, not this one.
    """
    path = lab.stamped_file("reverse.dat", pages)
    nbytes = pages * lab.page_size
    machine = lab.boot(ram=2 * nbytes + 16 * MIB, max_map_count=max_map_count)
    process = machine.spawn()
    mapping = process.mmap(str(path), nbytes)
    vaddrs = np.uint64(mapping.vaddr) + np.arange(pages, dtype=np.uint64) * np.uint64(lab.page_size)
    with lab.progress.step("reading the file in", pages) as advance:
        for part in np.array_split(vaddrs, -(-pages // _PART)):
            process.run(part, AccessKind.LOAD)
            advance(len(part))

    began_s = time.perf_counter()
    with lab.progress.step("remapping in reverse", pages) as advance:
        for number, vaddr in enumerate(vaddrs.tolist(), 1):
            process.remap_file_pages(vaddr, lab.page_size, 0, pages - number, 0)
            if not number % _PART:
                advance(_PART)
    remap_s = time.perf_counter() - began_s
    vmas = process.mm.map_count

    began_s = time.perf_counter()
    seen = process.run(vaddrs, AccessKind.LOAD)
    read_s = time.perf_counter() - began_s
    wrong = int((seen != first_words(lab.seed, np.arange(pages - 1, -1, -1), 0)).sum())
    if wrong:
        raise BrokenExpectation(f"{wrong} of {pages} pages lie elsewhere than in reverse order")
    began_s = time.perf_counter()
    process.run(vaddrs, AccessKind.STORE, np.arange(pages))
    mapping.flush()
    write_s = time.perf_counter() - began_s
    counters = machine.vmstat
    return {
        "pages": pages,
        "vmas": vmas,
        "remap_s": round(remap_s, 4),
        "read_s": round(read_s, 4),
        "write_and_msync_s": round(write_s, 4),
        "seconds": round(remap_s + read_s + write_s, 4),
        "mkclean_visits": counters.mkclean_pte_visits + counters.mkclean_node_visits,
        "rmap_bytes_peak": machine.kernel.rmap.cost.nbytes_peak,
    }
