"""A database's buffer pool of many GiB in a 32-bit window, as it was run on i386."""

import time
from pathlib import Path
from typing import cast

from emu.lab.errors import LabError
from emu.lab.lab import Lab
from emu.lab.measure import is_accounted
from emu.units import GIB, MIB

_REPORT_EVERY = 1000


def buffer_pool(
    lab: Lab,
    *,
    pool_gib: float = 16.0,
    window_mib: int = 512,
    accesses: int = 20000,
    updates: float = 0.3,
    hot_pages: int = 65536,
    checkpoint_every: int = 5000,
    mlocked: bool = False,
) -> dict[str, object]:
    """Work on a sparse pool of many GiB through a window that no 32-bit address space could exceed by much.

    Run it with `--format i386`. Each access wants a page out of `hot_pages`, spread over the whole pool; if the window
    does not show it, the slot that comes next (a clock over the window) is remapped to it. A share of `updates` counts
    the page up; a checkpoint is an msync. With `mlocked` the whole window is locked first, so all of it is read in and
    stays. At the end the power goes, and updates that msync promised are looked for in the file.
    """
    page_size = lab.page_size
    pool, window = int(pool_gib * GIB) // page_size, window_mib * MIB // page_size
    if not 0 <= updates <= 1 or accesses < 1 or checkpoint_every < 1:
        raise LabError("updates is a share from 0 to 1; there must be at least 1 access, and 1 to a checkpoint")
    if not 1 <= window < pool or not 1 <= hot_pages <= pool:
        raise LabError(f"window ({window} pages) and hot pages ({hot_pages}) must be smaller than the pool ({pool})")
    with lab.new_file("buffer_pool.dat") as path:
        with path.open("wb") as file:
            file.truncate(pool * page_size)
        resident = min(accesses, hot_pages) + (window if mlocked else 0)
        machine = lab.boot(ram=2 * resident * page_size + 64 * MIB, junk=False)
        process = machine.spawn()
        mapping = process.mmap(str(path), window * page_size)
        if mlocked:
            with lab.progress.step("locking the window"):
                process.mlock(mapping.vaddr, window * page_size)
        hot = lab.rng.integers(window, pool, hot_pages)
        wanted = hot[(lab.rng.zipf(1.2, accesses) - 1) % hot_pages].tolist()
        updating = (lab.rng.random(accesses) < updates).tolist()
        # Page of the pool -> slot of the window, and back; page -> its count now, and as msync promised it.
        shown, slots, counts, promised = cast("list[dict[int, int]]", [{} for _ in range(4)])
        hand = remaps = 0
        began_s = time.perf_counter()
        with lab.progress.step("working", accesses) as advance:
            for number, (pgoff, update) in enumerate(zip(wanted, updating, strict=True), 1):
                slot = shown.get(pgoff)
                if slot is None:
                    slot, hand = hand, (hand + 1) % window
                    shown.pop(slots.get(slot, -1), None)
                    process.remap_file_pages(mapping.vaddr + slot * page_size, page_size, 0, pgoff, 0)
                    shown[pgoff], slots[slot] = slot, pgoff
                    remaps += 1
                vaddr = mapping.vaddr + slot * page_size
                value = process.load_word(vaddr)
                if update:
                    process.store_word(vaddr, value + 1)
                    counts[pgoff] = counts.get(pgoff, 0) + 1
                if not number % checkpoint_every or number == accesses:
                    mapping.flush()
                    promised = counts.copy()
                if not number % _REPORT_EVERY:
                    advance(_REPORT_EVERY)
        spent_s = time.perf_counter() - began_s
        counters = machine.vmstat.snapshot()
        rmap, tables = machine.kernel.rmap.cost.nbytes_peak, len(process.mm.pt.leaves) * page_size
        vmas, unevictable = process.mm.map_count, machine.kernel.lru.nr[2]
        if is_accounted(mapping):
            machine.power_off()
        else:
            machine.shutdown()
        lost = _count_lost(path, promised, page_size)
    return {
        "pool_pages": pool,
        "window_pages": window,
        "remaps": remaps,
        "us_per_access": round(spent_s / accesses * 1e6, 3),
        "pages_updated": len(promised),
        "pages_with_lost_updates": lost,
        "faults_with_io": counters["pgmajfault"],
        "mkclean_visits": counters["mkclean_pte_visits"] + counters["mkclean_node_visits"],
        "unevictable_pages": unevictable,
        "vmas": vmas,
        "page_table_bytes": tables,
        "rmap_bytes_peak": rmap,
    }


def _count_lost(path: Path, promised: dict[int, int], page_size: int) -> int:
    """Count pages whose word in the file is below the count that msync promised."""
    lost = 0
    with path.open("rb") as file:
        for pgoff, count in promised.items():
            file.seek(pgoff * page_size)
            lost += int.from_bytes(file.read(8), "little") < count
    return lost
