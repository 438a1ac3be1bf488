"""What reverse maps cost is counted alike (emu.mm.rmap.base): visits of a look-up and of an update, and bytes."""

import mmap
import random
from collections import Counter
from pathlib import Path

import pytest

from emu.check import check
from emu.hw.pte import get_format
from emu.machine import Machine
from emu.mm.rmap import STRATEGIES, vma_nbytes
from emu.mm.rmap.page_hash import PageHash
from emu.process import Process
from tests.emu.mm.helpers import PAGE, RO, RW, make_file, virtual_machine

N = 256
DEPTH = N.bit_length()
"""A way down a tree of 256 nodes, since none of its pages continues another."""


def boot(tmp_path: Path, rmap: str, fmt: str = "x86_64") -> tuple[Machine, Process, int]:
    """Map a file of N pages in reverse, page by page, and read it all."""
    path = make_file(tmp_path / "file", N)
    machine, _ = virtual_machine(rmap=rmap, format=fmt)
    process = machine.spawn()
    start = process.mmap(str(path), N * PAGE).vaddr
    for page in range(N):
        process.remap_file_pages(start + page * PAGE, PAGE, 0, N - 1 - page)
    for page in range(N):
        process.load(start + page * PAGE, 8)
    return machine, process, start


def mkclean(machine: Machine) -> tuple[int, int]:
    """Write all back; return the PTEs and the nodes that page_mkclean visited."""
    stat = machine.vmstat
    before = stat.mkclean_pte_visits, stat.mkclean_node_visits
    machine.sync()
    return stat.mkclean_pte_visits - before[0], stat.mkclean_node_visits - before[1]


@pytest.mark.parametrize(
    ("rmap", "ptes", "nodes"),
    [
        ("none", 0, 0),
        ("scan", N, 0),
        ("pte_chain", 1, 1),
        ("slot_chain", 1, 1 + 1),
        ("shadow", 1, 2),
        ("range_tree", 1, DEPTH),
        ("linear_vmas", 1, DEPTH),
        ("linear_vmas_accounted", 1, DEPTH),
        ("dirty_index", 1, 1 + 1),
    ],
)
def test_a_page_at_one_address(tmp_path: Path, rmap: str, ptes: int, nodes: int) -> None:
    machine, process, start = boot(tmp_path, rmap)
    process.store(start + 7 * PAGE, b"x")
    assert mkclean(machine) == (ptes, nodes)
    machine.power_off()


@pytest.mark.parametrize(
    ("rmap", "nodes"),
    [
        ("pte_chain", 1 + -(-N // 7)),
        ("slot_chain", 1 + N // 2 + N),
        ("shadow", 2 + N - 1),
        ("range_tree", DEPTH + N - 1),
        ("linear_vmas", DEPTH + N - 1),
        ("dirty_index", 1 + N),
    ],
)
def test_a_page_at_every_address(tmp_path: Path, rmap: str, nodes: int) -> None:
    """What names a PTE is visited for each of them, whatever keeps it: a word of a block, a run, a VMA, an entry."""
    machine, process, start = boot(tmp_path, rmap)
    for page in range(N):
        process.remap_file_pages(start + page * PAGE, PAGE, 0, 0)
        process.store(start + page * PAGE, b"x")
    assert mkclean(machine) == (N, nodes)
    machine.power_off()


@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_what_changes_no_structure_visits_none(tmp_path: Path, rmap: str) -> None:
    """Faults, stores and cleaning change a PTE's bits: only dirty_index keeps those."""
    machine, process, start = boot(tmp_path, rmap)
    cost, locks = machine.kernel.rmap.cost, machine.kernel.locks
    before = cost.node_visits, locks.vma_lock.nr_write
    process.store(start + 7 * PAGE, b"x")
    stored = cost.node_visits - before[0]
    looked = mkclean(machine)[1]
    # The bucket and the entry, of the first page that there is.
    assert stored == (2 if rmap == "dirty_index" else 0)
    assert cost.node_visits - before[0] - stored == looked, "to clean costs what it costs to find"
    assert locks.vma_lock.nr_write == before[1]
    machine.power_off()


@pytest.mark.parametrize(
    ("rmap", "nodes"),
    [
        ("none", 0),
        ("scan", 0),
        ("dirty_index", 0),
        # Off the chain of one page, onto that of another, which is shown twice meanwhile.
        ("pte_chain", 1 + 2),
        # The same, with a range each.
        ("slot_chain", 2 + 3),
        # Two levels for each, and an entry of a list.
        ("shadow", 2 + 3),
        # Out and in.
        ("range_tree", 2 * DEPTH),
        # Found, taken out of the mm's tree and i_mmap, and entered in both.
        ("linear_vmas", 5 * DEPTH),
    ],
)
def test_an_update_visits_the_way_to_both_places(tmp_path: Path, rmap: str, nodes: int) -> None:
    machine, process, start = boot(tmp_path, rmap)
    before = machine.kernel.rmap.cost.node_visits
    process.remap_file_pages(start + 20 * PAGE, PAGE, 0, 100)
    assert machine.kernel.rmap.cost.node_visits - before == nodes
    machine.power_off()


def test_the_hash_counts_its_own_nodes() -> None:
    for count in (1, 2, 100):
        table = PageHash()
        for key in range(count):
            table.add(5, key + 1)
        assert len(table.get(5)) == count
        assert table.visits == 1 + count
        assert len(table.take(5)) == count
        assert table.visits == 1 + count


def test_a_growing_hash_counts_what_it_moves() -> None:
    table, visits = PageHash(), []
    for pfn in range(1, 200):
        table.add(pfn, pfn)
        visits.append(table.visits)
    assert min(visits) == 2
    # Every other page splits a bucket, which takes two buckets and three to four pages.
    assert 6 < sum(visits) / len(visits) < 8


@pytest.mark.parametrize(("fmt", "word"), [("i386", 4), ("i386_pae", 4), ("sv32", 4), ("x86_64", 8), ("sv39", 8)])
@pytest.mark.parametrize(("rmap", "words"), [("range_tree", 6), ("linear_vmas", 0)])
def test_structures_have_the_pointers_of_the_format(tmp_path: Path, rmap: str, words: int, fmt: str, word: int) -> None:
    machine, _, _ = boot(tmp_path, rmap, fmt)
    each = words * word if words else vma_nbytes(machine.format)
    nr_own = N if rmap == "range_tree" else N - 1
    assert machine.kernel.rmap.cost.nbytes == nr_own * each
    machine.power_off()


def test_a_vma_is_as_large_as_in_the_kernels_of_2007() -> None:
    assert {fmt: vma_nbytes(get_format(fmt)) for fmt in ("x86_64", "i386", "i386_pae")} == {
        "x86_64": 176, "i386": 84, "i386_pae": 88,
    }  # fmt: skip


@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_what_was_allocated_is_given_back(tmp_path: Path, rmap: str) -> None:
    machine, process, start = boot(tmp_path, rmap)
    cost = machine.kernel.rmap.cost
    process.store(start, bytes(N * PAGE))
    whole = cost.nbytes
    child = process.fork()
    if rmap in ("linear_vmas", "linear_vmas_accounted", "range_tree"):
        assert cost.nbytes == 2 * whole, "the child has as much of its own"
    process.munmap(start, N // 2 * PAGE)
    child.mprotect(start + 9 * PAGE, 100 * PAGE, RO)
    child.exit()
    if rmap in ("linear_vmas", "linear_vmas_accounted", "range_tree"):
        assert whole * 0.49 <= cost.nbytes <= whole * 0.51
    process.munmap(start, N * PAGE)
    assert cost.nbytes == 0
    machine.power_off()


@pytest.mark.parametrize("seed", range(3))
def test_vmas_are_counted_through_whatever_happens_to_them(tmp_path: Path, seed: int) -> None:
    path = make_file(tmp_path / "file", N)
    machine, _ = virtual_machine(rmap="linear_vmas", ram=4096 * PAGE)
    each, cost, rng = vma_nbytes(machine.format), machine.kernel.rmap.cost, random.Random(seed)
    processes = [machine.spawn()]
    start = processes[0].mmap(str(path), N * PAGE).vaddr
    for _ in range(150):
        process = rng.choice(processes)
        first, last = sorted(rng.sample(range(N + 1), 2))
        vaddr, nbytes = start + first * PAGE, (last - first) * PAGE
        action = rng.randrange(12)
        try:
            if action == 0 and len(processes) < 4:
                processes.append(process.fork())
            elif action == 1 and len(processes) > 1:
                processes.remove(process)
                process.exit()
            elif action == 2:
                process.sys_mmap(vaddr, nbytes, RW, mmap.MAP_SHARED | 0x10, str(path), first * PAGE)
            elif action == 3:
                process.munmap(vaddr, min(nbytes, 9 * PAGE))
            elif action == 4:
                process.mprotect(vaddr, nbytes, rng.choice([RO, RW]))
            elif action == 5:
                process.mremap(vaddr, PAGE, rng.randrange(1, 4) * PAGE, 1)
            else:
                process.remap_file_pages(vaddr, min(nbytes, 3 * PAGE), 0, rng.randrange(N))
        except OSError:
            pass
        made = Counter(
            vma.remapped for mm in machine.kernel.mms.values() for vma in mm.vmas if vma.remapped is not None
        )
        assert cost.nbytes == sum(count - 1 for count in made.values()) * each
    check(machine)
    for process in processes:
        process.exit()
    assert cost.nbytes == 0
    assert cost.nbytes_peak > 0
    machine.power_off()
