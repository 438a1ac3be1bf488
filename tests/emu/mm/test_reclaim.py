"""RAM smaller than the file: reclaim gives pages back, nothing is lost; and when there is nothing to give back."""

import mmap
import random
from pathlib import Path

import pytest

from emu.check import check
from emu.errors import BusError, OutOfMemory
from emu.mm.page_alloc import lock_page, unlock_page
from emu.mm.unmap import SwapResult, page_referenced, try_to_unmap
from emu.mm_types.page import PG_REFERENCED
from tests.emu.mm.helpers import PAGE, make_file, map_nonlinear, stamp, virtual_machine

NR_PAGES = 256


@pytest.mark.parametrize("io_depth", [0, 2])
@pytest.mark.parametrize("fmt", ["x86_64", "i386"])
@pytest.mark.parametrize("rmap", ["none", "scan", "dirty_index"])
@pytest.mark.parametrize("nonlinear", [False, True])
def test_a_file_four_times_the_ram(*, nonlinear: bool, rmap: str, fmt: str, io_depth: int, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(ram=64 * PAGE, rmap=rmap, format=fmt, io_depth=io_depth, readahead=8)
    process = machine.spawn()
    order = list(range(NR_PAGES))
    rng = random.Random(3)
    if nonlinear:
        rng.shuffle(order)
        mapping = map_nonlinear(process, path, NR_PAGES, order)
    else:
        mapping = process.mmap(str(path), NR_PAGES * PAGE)
    newest = dict.fromkeys(range(NR_PAGES), 0)
    for step in range(1, 800):
        place = rng.randrange(NR_PAGES)
        pgoff = order[place]
        assert process.load(mapping.vaddr + place * PAGE, 8) == stamp(pgoff, newest[pgoff])
        if rng.random() < 0.4:
            process.store(mapping.vaddr + place * PAGE, stamp(pgoff, step))
            newest[pgoff] = step
        if step % 100 == 0:
            check(machine)
    stat = machine.vmstat
    assert stat.pgsteal_direct + stat.pgsteal_kswapd > NR_PAGES
    assert stat.nr_oom == 0
    machine.shutdown()
    data = path.read_bytes()
    assert [data[page * PAGE :][:8] for page in range(NR_PAGES)] == [stamp(p, newest[p]) for p in range(NR_PAGES)]


def test_pages_in_use_get_a_second_chance(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(ram=96 * PAGE)
    process = machine.spawn()
    mapping = process.mmap(str(path), NR_PAGES * PAGE)
    major = []
    for page in range(8, NR_PAGES):
        before = machine.vmstat.pgmajfault
        for hot in range(8):
            process.load(mapping.vaddr + hot * PAGE, 1)
        major.append(machine.vmstat.pgmajfault - before)
        process.load(mapping.vaddr + page * PAGE, 1)
    assert machine.vmstat.pgsteal_direct + machine.vmstat.pgsteal_kswapd > 100
    assert sum(major[1:]) < len(major), "the hot pages are read again and again"
    check(machine)
    machine.power_off()


def test_pages_accessed_before_they_were_unmapped_get_a_second_chance(tmp_path: Path) -> None:
    """v2.6.20 mm/memory.c: zap_pte_range(): the accessed bit goes to the page."""
    path = make_file(tmp_path / "file", 8)
    machine, _ = virtual_machine(readahead=8)
    process = machine.spawn()
    mapping = process.mmap(str(path), 8 * PAGE)
    process.load(mapping.vaddr + 4 * PAGE, 1)
    k = machine.kernel
    cached = next(iter(k.mappings.values()))
    assert len(list(cached.pages)) == 8
    process.munmap(mapping.vaddr, 8 * PAGE)
    page_referenced = {pgoff for pgoff, pfn in cached.pages if k.mem_map.flags[pfn] & PG_REFERENCED}
    assert page_referenced == {4}
    check(machine)
    machine.power_off()


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_first_young_pte_ends_an_unmap(*, nonlinear: bool, tmp_path: Path) -> None:
    """v2.6.20 mm/rmap.c: try_to_unmap_file(): after SWAP_FAIL no other PTE is looked at, and none is taken away."""
    path = make_file(tmp_path / "file", 2)
    machine, _ = virtual_machine(rmap="scan")
    mappings = [machine.spawn().mmap(str(path), 2 * PAGE) for _ in range(2)]
    if nonlinear:
        reversed_pages = map_nonlinear(machine.spawn(), path, 2)
        reversed_pages.process.load(reversed_pages.vaddr + PAGE, 1)
    for mapping in mappings:
        mapping.process.load(mapping.vaddr, 1)
    k = machine.kernel
    cached = next(iter(k.mappings.values()))
    pfn = cached.pages.lookup(0)
    mapcount = k.mem_map.mapcount[pfn]
    assert mapcount == 2 + nonlinear
    lock_page(k, pfn)
    assert try_to_unmap(k, cached, pfn) is SwapResult.FAIL
    unlock_page(k, pfn)
    assert k.vmstat.unmap_pte_visits == 1
    assert k.mem_map.mapcount[pfn] == mapcount
    check(machine)
    machine.power_off()


@pytest.mark.parametrize("rmap", ["none", "dirty_index"])
def test_the_cluster_scan_unmaps_until_nobody_maps_the_page(rmap: str, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(rmap=rmap)
    process = machine.spawn()
    mapping = map_nonlinear(process, path, NR_PAGES)
    process.load(mapping.vaddr, NR_PAGES * PAGE)
    for _ in range(8):
        machine.kernel.try_to_free_pages(machine.kernel, NR_PAGES)
        check(machine)
    assert machine.vmstat.nr_file_pages == machine.vmstat.nr_mapped == 0
    assert machine.vmstat.unmap_pte_visits >= NR_PAGES
    assert process.load(mapping.vaddr, 8) == stamp(NR_PAGES - 1)
    machine.power_off()


def test_a_dirty_page_that_reclaim_unmaps_is_written(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    for rmap in ("none", "scan", "dirty_index"):
        machine, _ = virtual_machine(rmap=rmap, io_depth=2)
        process = machine.spawn()
        mapping = map_nonlinear(process, path, NR_PAGES)
        generation = len(rmap)
        process.store(mapping.vaddr, stamp(NR_PAGES - 1, generation))
        for _ in range(8):
            machine.kernel.try_to_free_pages(machine.kernel, NR_PAGES)
            check(machine)
        assert machine.vmstat.nr_file_pages == 0
        assert machine.vmstat.nr_vmscan_write == 1, rmap
        assert path.read_bytes()[(NR_PAGES - 1) * PAGE :][:8] == stamp(NR_PAGES - 1, generation)
        machine.power_off()


@pytest.mark.parametrize("caps", ["disk", "ramfs"])
def test_out_of_memory_is_the_process_s_and_the_machine_stays_whole(caps: str, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(ram=64 * PAGE, plain_caps=caps, overcommit_memory=1)
    process, other = machine.spawn(), machine.spawn()
    small = other.mmap(-1, 4 * PAGE, mmap.MAP_PRIVATE)
    other.store(small.vaddr, b"y" * 4 * PAGE)
    mapping = process.mmap(-1 if caps == "disk" else str(path), NR_PAGES * PAGE)
    with pytest.raises(OutOfMemory) as caught:
        process.store(mapping.vaddr, b"x" * NR_PAGES * PAGE)
    assert 16 < (caught.value.vaddr - mapping.vaddr) // PAGE < 64
    assert machine.vmstat.nr_oom > 0
    check(machine)
    assert other.load(small.vaddr, 4 * PAGE) == b"y" * 4 * PAGE
    assert process.load(mapping.vaddr, 1) == b"x"
    for act in (lambda: process.load(mapping.vaddr + 200 * PAGE, 1), machine.spawn, process.fork):
        with pytest.raises((OutOfMemory, MemoryError, OSError)):
            act()
        check(machine)
    process.exit()
    check(machine)
    if caps == "disk":
        machine.drop_caches()
        again = machine.spawn()
        fresh = again.mmap(str(path), NR_PAGES * PAGE)
        assert again.load(fresh.vaddr + 200 * PAGE, 8) == stamp(200)
    check(machine)
    machine.power_off()


def test_no_frame_leaks_over_a_life(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES, tail=100)
    machine, _ = virtual_machine()
    free = machine.kernel.ram.nr_free
    process = machine.spawn()
    mapping = map_nonlinear(process, path, NR_PAGES)
    private = process.mmap(str(path), 8 * PAGE, mmap.MAP_PRIVATE)
    process.store(private.vaddr, b"p" * 8 * PAGE)
    process.store(mapping.vaddr, b"s" * 8 * PAGE)
    child = process.fork()
    child.store(private.vaddr, b"q")
    for one in (process, child):
        one.exit()
    machine.sync()
    machine.drop_caches()
    check(machine)
    assert machine.kernel.ram.nr_free == free
    machine.shutdown()


@pytest.mark.parametrize("what", ["wanted", "ahead"])
def test_a_read_error_is_a_sigbus_for_that_page_only(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os  # noqa: PLC0415 - patched below

    path = make_file(tmp_path / "file", 16)
    machine, _ = virtual_machine(readahead=8)
    process = machine.spawn()
    mapping = process.mmap(str(path), 16 * PAGE)
    bad = 4 if what == "wanted" else 5
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], first_byte: int) -> int:
        if first_byte <= bad * PAGE < first_byte + sum(map(len, buffers)):
            raise OSError(5, "bad sector")
        return real(fd, buffers, first_byte)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        if what == "wanted":
            with pytest.raises(BusError, match="Input/output error"):
                process.load(mapping.vaddr + 4 * PAGE, 8)
        else:
            assert process.load(mapping.vaddr + 4 * PAGE, 8) == stamp(4)
        check(machine)
    assert process.load(mapping.vaddr + bad * PAGE, 8) == stamp(bad)
    machine.power_off()


def test_shared_anonymous_memory_goes_with_its_last_mapping() -> None:
    machine, _ = virtual_machine()
    free = machine.kernel.ram.nr_free
    process = machine.spawn()
    mapping = process.mmap(-1, 8 * PAGE)
    process.store(mapping.vaddr, b"x" * 8 * PAGE)
    process.remap_file_pages(mapping.vaddr, PAGE, 0, 3)
    child = process.fork()
    process.munmap(mapping.vaddr, 4 * PAGE)
    process.exit()
    assert machine.vmstat.nr_file_pages == 8
    assert child.load(mapping.vaddr + 7 * PAGE, 1) == b"x"
    child.munmap(mapping.vaddr, 8 * PAGE)
    assert machine.vmstat.nr_file_pages == 0
    check(machine)
    child.exit()
    assert machine.kernel.ram.nr_free == free
    machine.shutdown()


def test_a_page_that_is_accessed_again_is_referenced_again(tmp_path: Path) -> None:
    """The flush that goes with the accessed bit: a TLB that keeps the page would never set it again."""
    machine, _ = virtual_machine()
    process = machine.spawn()
    mapping = process.mmap(str(make_file(tmp_path / "file", 1)), PAGE)
    k = machine.kernel
    for _ in range(3):
        process.load(mapping.vaddr, 1)
        pfn = k.fmt.pte_pfn(process.mm.pt.get(mapping.vaddr))
        assert [page_referenced(k, pfn), page_referenced(k, pfn)] == [1, 0]
    machine.power_off()


@pytest.mark.parametrize("rmap", ["none", "dirty_index"])
def test_the_cluster_scan_passes_over_locked_mappings(rmap: str, tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", NR_PAGES)
    machine, _ = virtual_machine(rmap=rmap)
    processes = [machine.spawn(), machine.spawn()]
    locked, other = (map_nonlinear(process, path, NR_PAGES) for process in processes)
    processes[0].mlock(locked.vaddr, locked.nbytes)
    processes[1].load(other.vaddr, NR_PAGES * PAGE)
    k = machine.kernel
    cached = next(iter(k.mappings.values()))
    for _ in range(4):
        for pgoff in range(NR_PAGES):
            try_to_unmap(k, cached, cached.pages.lookup(pgoff))
    mapped = [
        sum(k.fmt.pte_present(process.mm.pt.get(mapping.vaddr + page * PAGE)) for page in range(NR_PAGES))
        for process, mapping in zip(processes, (locked, other), strict=True)
    ]
    assert mapped == [NR_PAGES, 0]
    check(machine)
    machine.shutdown()
