"""The worst that one unprivileged process, or several, can do to one page_mkclean and to the reclaim of one page.

Two attacks, both on a file that the victim's pages belong to:

- `wide`: each process maps the whole file nonlinearly in random order. Nothing need be touched: remapping costs the
  attacker 8 bytes of page table a page, and what walks page tables walks them all.
- `alias`: one process shows one page of the file at every address of a mapping, and stores through each. Every one of
  these PTEs is writable and dirty, so page_mkclean must change each, under whatever reverse map.

Then the attacker takes half of the addresses away again, in random order: what a remap costs while it holds the locks.
"""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from emu.errors import KernelBug, Signal
from emu.hw.mmu import AccessKind
from emu.lab.answer_bench import AnswerBench, Pages, answer_bench, boot, order_of
from emu.lab.lab import LabOptions
from emu.lab.progress import NoProgress, Progress
from emu.mm.inode import Inode
from emu.mm.mremap import MREMAP_MAYMOVE

_VICTIM = 0
_REMOVALS_MAX = 4096


@dataclass(slots=True)
class DosRow:
    """What an attack costs others. Visits are PTEs and nodes looked at.

    `mkclean_visits`, `mkclean_us`: one page_mkclean of the victim page; `writable_ptes`: how many PTEs it had to
    change. `unmap_visits`, `unmap_us`: until nothing maps the page any more. `remove_visits(_max)`: taking one address
    away from the page, on average and at worst. `attacker_bytes`: what the attacker pays, in page tables.
    """

    rmap: str
    attack: str
    pages: int
    processes: int
    writable_ptes: int | None = None
    mkclean_visits: int | None = None
    mkclean_us: float | None = None
    unmap_visits: int | None = None
    unmap_us: float | None = None
    remove_visits: float | None = None
    remove_visits_max: int | None = None
    rmap_bytes: int | None = None
    attacker_bytes: int | None = None
    nr_vmas: int | None = None
    error: str | None = None


@contextmanager
def _what_goes_wrong(row: DosRow) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        row.error = error.strerror or str(error)
    except (Signal, KernelBug, MemoryError) as error:
        row.error = str(error)


def attack_wide(rmap: str, nr_pages: int, nr_processes: int, *, fmt: str = "x86_64", seed: int = 0) -> DosRow:
    """Let `nr_processes` map all `nr_pages` of a file in random order, and clean and reclaim one page of it."""
    row = DosRow(rmap, "wide", nr_pages, nr_processes)
    # The others' page tables need frames, too.
    nr_present = min(64, nr_pages) + nr_processes * (nr_pages // 128 + 16)
    with _what_goes_wrong(row), answer_bench(rmap, fmt, nr_pages, nr_present, seed=seed) as bench:
        bench.nr_present = min(64, nr_pages)
        rng = np.random.default_rng(seed)
        bench.read_in()
        bench.remap_all(order_of("random", nr_pages, rng))
        for _ in range(nr_processes - 1):
            _join(bench, order_of("random", nr_pages, rng))
        victim = np.array([_VICTIM])
        bench.fault_in(victim, AccessKind.STORE)
        _measure(bench, row, victim)
    return row


def _join(bench: AnswerBench, order: Pages) -> None:
    """Let another process map the file, in an order of its own."""
    process = bench.machine.spawn(privileged=False)
    assert isinstance(bench.mapping.file, Inode)
    mapping = process.mmap(bench.mapping.file.name, bench.mapping.nbytes)
    step = np.arange(bench.nr_pages, dtype=np.uint64) * np.uint64(bench.page_size)
    process.remap_file_pages_bulk(np.uint64(mapping.vaddr) + step, order)


def attack_alias(rmap: str, nr_addresses: int, *, fmt: str = "x86_64", seed: int = 0) -> DosRow:
    """Let one process show one page at `nr_addresses` addresses and store through each; clean, remove, reclaim it."""
    row = DosRow(rmap, "alias", nr_addresses, 1)
    with _what_goes_wrong(row), answer_bench(rmap, fmt, nr_addresses, 64, seed=seed) as bench:
        rng = np.random.default_rng(seed)
        vaddrs = bench.vaddrs(np.arange(nr_addresses))
        # From the second place on: the first shows the page by itself.
        bench.process.remap_file_pages_bulk(vaddrs[1:], np.full(nr_addresses - 1, _VICTIM))
        bench.order = np.full(nr_addresses, _VICTIM, np.int64)
        bench.process.run(vaddrs, AccessKind.STORE, 1)
        row.writable_ptes = nr_addresses
        row.nr_vmas = bench.process.mm.map_count
        victim = np.array([_VICTIM])
        clean = bench.mkclean(victim)
        row.mkclean_visits, row.mkclean_us = int(clean.visits), round(clean.us, 2)
        bench.process.run(vaddrs, AccessKind.STORE, 2)
        _measure_removal(bench, row, rng)
        _measure_reclaim(bench, row, victim)
        row.rmap_bytes = bench.nbytes_peak
        row.attacker_bytes = _table_bytes(bench)
    return row


def _measure(bench: AnswerBench, row: DosRow, victim: Pages) -> None:
    row.writable_ptes = 1
    row.nr_vmas = bench.process.mm.map_count
    clean = bench.mkclean(victim)
    row.mkclean_visits, row.mkclean_us = int(clean.visits), round(clean.us, 2)
    _measure_reclaim(bench, row, victim)
    row.rmap_bytes = bench.nbytes_peak
    row.attacker_bytes = _table_bytes(bench)


def _measure_reclaim(bench: AnswerBench, row: DosRow, victim: Pages) -> None:
    unmap, _ = bench.reclaim(victim, 4 * bench.nr_pages + 100)
    row.unmap_visits, row.unmap_us = int(unmap.visits), round(unmap.us, 2)


def _measure_removal(bench: AnswerBench, row: DosRow, rng: np.random.Generator) -> None:
    """Remap half of the addresses to pages of their own, in random order, without prefault."""
    places = rng.permutation(np.arange(1, bench.nr_pages))[: min(bench.nr_pages // 2, _REMOVALS_MAX)]
    cost, worst = bench.kernel.rmap.cost, 0
    before = cost.node_visits + cost.pte_visits
    for place, vaddr in zip(places.tolist(), bench.vaddrs(places).tolist(), strict=True):
        start = cost.node_visits + cost.pte_visits
        bench.process.remap_file_pages_bulk([vaddr], [place])
        worst = max(worst, cost.node_visits + cost.pte_visits - start)
    row.remove_visits = round(1 + (cost.node_visits + cost.pte_visits - before) / max(len(places), 1), 2)
    row.remove_visits_max = 1 + worst


def _table_bytes(bench: AnswerBench) -> int:
    tables = sum(len(mm.pt.leaves) + mm.pt.nr_upper for mm in bench.kernel.mms.values())
    return tables * bench.page_size


@dataclass(frozen=True, slots=True)
class Guard:
    """What a guard does when it is tried: `outcome` is "allowed" or the errno's name."""

    guard: str
    attempt: str
    outcome: str
    expected: str


def try_guards(bound: int = 1000, *, rmap: str = "scan", fmt: str = "x86_64") -> list[Guard]:
    """Try remap_file_pages under each guard, by an unprivileged process and by a privileged one."""
    privilege: dict[str, Any] = {"remap_privileged": True}
    limit: dict[str, Any] = {"nonlinear_max_pages": bound}
    words = f"at most {bound:,} nonlinear pages"
    return [
        Guard("none", "unprivileged", _try(rmap, fmt, 2 * bound, {}), "allowed"),
        Guard("privilege", "unprivileged", _try(rmap, fmt, bound, privilege), "EPERM"),
        Guard("privilege", "privileged", _try(rmap, fmt, bound, privilege, privileged=True), "allowed"),
        Guard(words, f"unprivileged, {bound:,} pages", _try(rmap, fmt, bound, limit), "allowed"),
        Guard(words, f"unprivileged, {bound + 1:,} pages", _try(rmap, fmt, bound + 1, limit), "EPERM"),
        Guard(words, f"unprivileged, {bound:,} and 1 page more", _try(rmap, fmt, bound, limit, more=1), "EPERM"),
        Guard(words, f"unprivileged, {bound:,} pages grown by 1", _try(rmap, fmt, bound, limit, grow=1), "EPERM"),
        Guard(words, f"privileged, {bound + 1:,} pages", _try(rmap, fmt, bound + 1, limit, privileged=True), "allowed"),
    ]


def _try(
    rmap: str,
    fmt: str,
    nr_pages: int,
    options: dict[str, Any],
    *,
    privileged: bool = False,
    more: int = 0,
    grow: int = 0,
) -> str:
    """Convert a mapping of `nr_pages`, and one of `more` pages, let mremap `grow` it, and say how it went."""
    with tempfile.NamedTemporaryFile(prefix="fremap-dos-") as file:
        machine = boot(rmap, fmt, 256, nr_pages, **options)
        os.truncate(file.name, (nr_pages + more + 1) * machine.kernel.page_size)
        try:
            process = machine.spawn(privileged=privileged)
            for length in filter(None, (nr_pages, more)):
                mapping = process.mmap(file.name, length * machine.kernel.page_size)
                process.remap_file_pages(mapping.vaddr, machine.kernel.page_size, 0, length, 0)
                if grow:
                    page_size = machine.kernel.page_size
                    process.mremap(mapping.vaddr, length * page_size, (length + grow) * page_size, MREMAP_MAYMOVE)
        except OSError as error:
            return errno.errorcode[error.errno or errno.EIO]
        finally:
            machine.power_off()
    return "allowed"


@dataclass(frozen=True, slots=True)
class DosPlan:
    """Which attacks to run: every strategy, with growing numbers of pages, addresses and processes."""

    rmaps: tuple[str, ...]
    format: str
    sizes: tuple[int, ...]
    addresses: tuple[int, ...]
    processes: tuple[int, ...]
    seed: int = 0

    def attacks(self) -> list[tuple[str, str, int, int]]:
        """Return (rmap, attack, pages, processes) of each, the small ones of a strategy first."""
        wide = [("wide", size, count) for count in self.processes for size in self.sizes]
        alias = [("alias", count, 1) for count in self.addresses]
        return [(rmap, *attack) for rmap in self.rmaps for attack in [*wide, *alias]]


def run_attacks(plan: DosPlan, attack_s: float, progress: Progress | None = None) -> list[DosRow]:
    """Run every attack; one that would take more than `attack_s` seconds, by those before it, says so in its row."""
    for rmap in plan.rmaps:
        LabOptions(rmap=rmap, format=plan.format).check("all")
    todo = plan.attacks()
    rows = []
    per_page_s: dict[tuple[str, str], float] = {}
    with (progress or NoProgress()).step("attacking", len(todo)) as advance:
        for rmap, attack, pages, processes in todo:
            predicted_s = per_page_s.get((rmap, attack), 0.0) * pages * processes
            if predicted_s > attack_s:
                reason = f"not run: would take about {predicted_s:.0f} s"
                rows.append(DosRow(rmap, attack, pages, processes, error=reason))
            else:
                began_s = time.perf_counter()
                if attack == "wide":
                    rows.append(attack_wide(rmap, pages, processes, fmt=plan.format, seed=plan.seed))
                else:
                    rows.append(attack_alias(rmap, pages, fmt=plan.format, seed=plan.seed))
                per_page_s[rmap, attack] = (time.perf_counter() - began_s) / (pages * processes)
            advance(1)
    return rows
