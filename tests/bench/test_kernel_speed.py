"""The emulated kernel's fast paths, each beside a peer in the same run.

``pytest tests/bench/test_kernel_speed.py --benchmark-only -s`` prints a line a figure. Ratios count, not times.
"""

import ctypes
import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from emu.hw.mmu import AccessKind
from emu.machine import Machine
from fsbackend.mount import temporary_mount

pytestmark = pytest.mark.bench

PAGE = 4096
NR_PAGES = 60_000
MILLION = 1_000_000
STORE = int(AccessKind.STORE)
LOAD = int(AccessKind.LOAD)

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.remap_file_pages.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t, ctypes.c_int]


def say(benchmark: BenchmarkFixture, **figures: float | str) -> None:
    """Print figures and keep them in the benchmark's record."""
    benchmark.extra_info.update(figures)
    print("\n  " + ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items()))  # noqa: T201


def repeat(benchmark: BenchmarkFixture, call: Callable[[], object], rounds: int) -> None:
    """Run and time a call that brings its own state."""
    benchmark.pedantic(call, rounds=rounds)  # type: ignore[no-untyped-call]


def permutation(nr_pages: int) -> list[int]:
    return [int(page) for page in np.random.default_rng(7).permutation(nr_pages)]


def sparse(path: Path, nr_pages: int) -> Path:
    with path.open("wb") as file:
        file.truncate(nr_pages * PAGE)
    return path


def remap_each(process_remap: object, base: int, order: list[int]) -> float:
    """Remap page by page, one Python call a page; return microseconds a page."""
    assert callable(process_remap)
    begin = time.perf_counter()
    for place, pgoff in enumerate(order):
        process_remap(base + place * PAGE, PAGE, 0, pgoff, 0)
    return (time.perf_counter() - begin) / len(order) * 1e6


def real_kernel_remap_us(order: list[int]) -> float:
    """Do the same on the real kernel, on tmpfs, every page cached; microseconds a page."""
    nbytes = len(order) * PAGE
    fd = os.memfd_create("remap")
    try:
        os.ftruncate(fd, nbytes)
        os.pwrite(fd, bytes(nbytes), 0)
        base = _LIBC.mmap(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        taken_us = remap_each(_LIBC.remap_file_pages, base, order)
        _LIBC.munmap(base, nbytes)
    finally:
        os.close(fd)
    return taken_us


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[Machine]:
    """A machine that holds a whole file of NR_PAGES in its cache, and dirty pages without a limit in sight."""
    machine = Machine(ram=16 * NR_PAGES * PAGE, junk=False, readahead=1024, io_depth=0)
    warm = machine.spawn()
    mapping = warm.mmap(sparse(tmp_path / "file", NR_PAGES), 0)
    warm.run(vaddrs_of(mapping.vaddr), LOAD)
    warm.exit()
    yield machine
    machine.power_off()


def vaddrs_of(base: int, nr_pages: int = NR_PAGES) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.arange(nr_pages, dtype=np.uint64) * np.uint64(PAGE) + np.uint64(base)


def test_remap_of_one_page_beside_the_real_kernel(benchmark: BenchmarkFixture, cached: Machine, tmp_path: Path) -> None:
    order = permutation(NR_PAGES)
    real_us = real_kernel_remap_us(order)
    taken: list[float] = []

    def run() -> None:
        process = cached.spawn()
        mapping = process.mmap(tmp_path / "file", 0)
        taken.append(remap_each(process.remap_file_pages, mapping.vaddr, order))
        process.exit()

    repeat(benchmark, run, rounds=3)
    ours_us = statistics.median(taken)
    say(benchmark, remap_us=ours_us, real_kernel_us=real_us, ratio=ours_us / real_us)


def test_faults_on_cached_pages(benchmark: BenchmarkFixture, cached: Machine, tmp_path: Path) -> None:
    taken: dict[str, list[float]] = {"read": [], "write": [], "wp": []}

    def measure(kind: str, process_run: object, base: int, access: int) -> None:
        assert callable(process_run)
        begin = time.perf_counter()
        process_run(vaddrs_of(base, NR_PAGES // 4), access)
        taken[kind].append((time.perf_counter() - begin) / (NR_PAGES // 4) * 1e6)

    def run() -> None:
        process = cached.spawn()
        mapping = process.mmap(tmp_path / "file", 0)
        measure("read", process.run, mapping.vaddr, LOAD)
        measure("wp", process.run, mapping.vaddr, STORE)
        cached.sync()
        process.madvise(mapping.vaddr, mapping.nbytes, mmap.MADV_DONTNEED)
        measure("write", process.run, mapping.vaddr, STORE)
        cached.sync()
        process.exit()

    repeat(benchmark, run, rounds=3)
    say(benchmark, **{f"{kind}_fault_us": statistics.median(times) for kind, times in taken.items()})


def test_one_access_from_python(benchmark: BenchmarkFixture, cached: Machine, tmp_path: Path) -> None:
    process = cached.spawn()
    mapping = process.mmap(tmp_path / "file", 0)
    mapping[0] = 1
    benchmark(process.load_word, mapping.vaddr)
    count = 100_000
    begin = time.perf_counter()
    for _ in range(count):
        mapping[0]
    byte_us = (time.perf_counter() - begin) / count * 1e6
    host = mmap.mmap(-1, PAGE)
    begin = time.perf_counter()
    for _ in range(count):
        host[0]
    host_us = (time.perf_counter() - begin) / count * 1e6
    say(benchmark, mapping_byte_us=byte_us, mmap_byte_us=host_us, ratio=byte_us / host_us)


@pytest.mark.fuse
def test_fault_that_reads_from_the_mount_beside_a_pread(benchmark: BenchmarkFixture) -> None:
    """Random order, read-ahead off; the peer is a bare O_DIRECT pread of other pages of the same file."""
    count = 1000
    with temporary_mount(caps="disk") as mount:
        path = Path(mount.path) / "file"
        path.write_bytes(bytes(4 * count * PAGE))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, PAGE)
        order = permutation(4 * count)
        faults: list[float] = []
        preads: list[float] = []
        machine = Machine(ram=64 << 20, readahead=0, io_depth=0)
        process = machine.spawn()
        mapping = process.mmap(path, 0)

        def run() -> None:
            for place in range(count):
                begin = time.perf_counter()
                os.preadv(fd, [buffer], order[2 * place] * PAGE)
                preads.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                process.load_word(mapping.vaddr + order[2 * place + 1] * PAGE)
                faults.append(time.perf_counter() - begin)

        repeat(benchmark, run, rounds=1)
        os.close(fd)
        machine.power_off()
    fault_us, pread_us = statistics.median(faults) * 1e6, statistics.median(preads) * 1e6
    say(benchmark, fault_us=fault_us, pread_us=pread_us, ratio=fault_us / pread_us)


@pytest.mark.parametrize("name", ["x86_64", "i386"])
def test_memory_of_dirty_index_at_one_percent(benchmark: BenchmarkFixture, tmp_path: Path, name: str) -> None:
    nr_pages = 65_536
    path = sparse(tmp_path / "file", nr_pages)
    with Machine(name, ram=2 * nr_pages * PAGE, junk=False, io_depth=0) as machine:
        process = machine.spawn()
        mapping = process.mmap(path, 0)
        process.remap_file_pages_bulk(vaddrs_of(mapping.vaddr, nr_pages), permutation(nr_pages))
        dirty = np.random.default_rng(3).choice(nr_pages, nr_pages // 100, replace=False).astype(np.uint64)
        repeat(benchmark, lambda: process.run(dirty * np.uint64(PAGE) + np.uint64(mapping.vaddr), STORE), rounds=1)
        share = machine.kernel.rmap.cost.nbytes_peak / (nr_pages * machine.format.pte_bytes)
    say(benchmark, percent_of_pte_bytes=100 * share, limit=5.0 if name == "x86_64" else 8.0)


def test_a_million_pages_where_the_real_kernel_stops(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = sparse(tmp_path / "file", MILLION)
    with Machine(ram=256 << 20, junk=False, io_depth=0) as machine:
        process = machine.spawn()
        mapping = process.mmap(path, 0)
        order = np.random.default_rng(7).permutation(MILLION).astype(np.uint64)
        repeat(benchmark,
            lambda: process.remap_file_pages_bulk(vaddrs_of(mapping.vaddr, MILLION), order), rounds=1
        )
        assert process.mm.map_count == 1
    seconds = benchmark.stats.stats.mean if benchmark.stats else float("nan")
    say(benchmark, million_pages_per_s=1 / seconds, vmas="1")
