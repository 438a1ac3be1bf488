"""A buffer pool far larger than the window that maps it, as 32-bit databases had it."""

import time
from collections import OrderedDict

import numpy as np

from emu.lab.errors import LabError
from emu.lab.lab import Lab
from emu.lab.measure import is_accounted
from emu.mapping import Mapping
from emu.process import Process
from emu.units import MIB

_REPORT_EVERY = 1000


def _check_counts(updates: float, accesses: int, checkpoint_every: int) -> None:
    if not 0 <= updates <= 1 or accesses < 1 or checkpoint_every < 1:
        raise LabError("updates is a share from 0 to 1; there must be at least 1 access, and 1 to a checkpoint")


def _last_checkpoint(lab: Lab, process: Process, mapping: Mapping) -> None:
    lab.look(process, mapping, "before the last checkpoint")
    lab.machine.sync()
    lab.look(process, mapping, "after it")


def window(
    lab: Lab,
    *,
    pool: int = 32768,
    window: int = 1024,
    accesses: int = 50000,
    updates: float = 0.3,
    skew: float = 1.2,
    checkpoint_every: int = 10000,
    mlocked: bool = False,
) -> dict[str, object]:
    """Keep the hot pages of a big pool in a small window, moved by remap_file_pages.

    Each access picks a page of the `pool` (Zipf with exponent `skew`), remaps the least recently used page of the
    `window` if it is not shown, and reads or (a share of `updates`) counts up its first word. A checkpoint is a
    sync of the machine, since msync promises only what the window shows just then. At the end the power goes, and
    the counts are read from the file: updates that a checkpoint promised and that are not there are lost.
    """
    if not 1 <= window < pool:
        raise LabError(f"the window ({window} pages) must be smaller than the pool ({pool} pages)")
    _check_counts(updates, accesses, checkpoint_every)
    if skew <= 1:
        raise LabError(f"the skew of a Zipf distribution lies above 1, not at {skew}")
    page_size = lab.page_size
    with lab.new_file("window.dat") as path:
        with path.open("wb") as file:
            file.truncate(pool * page_size)
        machine = lab.boot(ram=(pool + 4 * window) * page_size + 16 * MIB)
        process = machine.spawn()
        mapping = process.mmap(str(path), window * page_size)
        if mlocked:
            process.mlock(mapping.vaddr, window * page_size)
        order = lab.rng.permutation(pool)
        wanted = order[(lab.rng.zipf(skew, accesses) - 1) % pool].tolist()
        updating = (lab.rng.random(accesses) < updates).tolist()
        # What the window shows, least recently used first: page of the file -> where it lies.
        shown = OrderedDict((pgoff, mapping.vaddr + pgoff * page_size) for pgoff in range(window))
        counts = np.zeros(pool, np.uint64)
        remaps = 0
        began_s = time.perf_counter()
        with lab.progress.step("working", accesses) as advance:
            for number, (pgoff, update) in enumerate(zip(wanted, updating, strict=True), 1):
                vaddr = shown.get(pgoff)
                if vaddr is None:
                    _oldest, vaddr = shown.popitem(last=False)
                    process.remap_file_pages(vaddr, page_size, 0, pgoff, 0)
                    shown[pgoff] = vaddr
                    remaps += 1
                else:
                    shown.move_to_end(pgoff)
                value = process.load_word(vaddr)
                if update:
                    process.store_word(vaddr, value + 1)
                    counts[pgoff] += np.uint64(1)
                if not number % checkpoint_every and number < accesses:
                    machine.sync()
                if not number % _REPORT_EVERY:
                    advance(_REPORT_EVERY)
        spent_s = time.perf_counter() - began_s
        _last_checkpoint(lab, process, mapping)
        counters = machine.vmstat.snapshot()
        memory = machine.kernel.rmap.cost.nbytes_peak
        if is_accounted(mapping):
            machine.power_off()
        else:
            machine.shutdown()
        found = np.fromfile(path, np.uint64).reshape(pool, -1)[:, 0]
    return {
        "accesses": accesses,
        "hit_rate": round(1 - remaps / accesses, 4),
        "remaps": remaps,
        "us_per_access": round(spent_s / accesses * 1e6, 3),
        "pages_updated": int((counts > 0).sum()),
        "pages_with_lost_updates": int((found < counts).sum()),
        "faults": counters["pgfault"],
        "faults_with_io": counters["pgmajfault"],
        "mkclean_calls": counters["mkclean_calls"],
        "mkclean_visits": counters["mkclean_pte_visits"] + counters["mkclean_node_visits"],
        "rmap_bytes_peak": memory,
    }
