"""The flusher, expiry and the background threshold, on virtual time; what mkclean costs."""

import errno
import os
from pathlib import Path

import pytest

from emu.check import check
from emu.hw.mmu import AccessKind, kind_of
from emu.mm import flusher
from emu.mm.flusher import wb_do_writeback
from emu.mm.page_writeback import write_cache_pages
from fsbackend.throttle import DirtyParams
from tests import breaks
from tests.emu.mm.helpers import (
    NR_PAGES,
    PAGE,
    Lab,
    make_file,
    map_nonlinear,
    on_disk,
    page_bytes,
    settle,
    stamp,
    virtual_machine,
)


def test_periodic_writeback_takes_what_has_expired(tmp_path: Path) -> None:
    lab = Lab(tmp_path, params=DirtyParams(expire_s=30.0, periodic_s=5.0, background_ratio=50, dirty_ratio=90))
    lab.process.store(lab.at(0), stamp(0, 1))
    for _ in range(5):
        lab.clock.advance(5.0)
        settle(lab.machine)
        assert lab.machine.vmstat.nr_dirty == 1
    lab.clock.advance(5.0)
    settle(lab.machine)
    assert lab.machine.vmstat.nr_dirty == 0
    assert on_disk(lab.path, 0) == stamp(0, 1)
    # The next store starts a new term.
    lab.process.store(lab.at(0), stamp(0, 2))
    lab.clock.advance(25.0)
    settle(lab.machine)
    assert lab.machine.vmstat.nr_dirty == 1
    lab.clock.advance(10.0)
    settle(lab.machine)
    assert on_disk(lab.path, 0) == stamp(0, 2)
    check(lab.machine)
    lab.machine.power_off()


def test_background_writeback_starts_above_its_threshold(tmp_path: Path) -> None:
    path = make_file(tmp_path / "file", 256)
    machine, _ = virtual_machine(params=DirtyParams(background_bytes=32 * PAGE, dirty_bytes=200 * PAGE))
    process = machine.spawn()
    mapping = process.mmap(str(path), 256 * PAGE)
    most = 0
    for page in range(100):
        process.store(mapping.vaddr + page * PAGE, b"x")
        most = max(most, machine.vmstat.nr_dirty)
        if machine.vmstat.nr_written:
            break
    assert 32 <= most <= 64 + 32
    assert machine.vmstat.nr_written > 0
    assert machine.vmstat.nr_throttled == 0
    check(machine)
    machine.power_off()


def test_ramfs_is_never_accounted_written_cleaned_or_throttled(tmp_path: Path) -> None:
    lab = Lab(tmp_path, plain_caps="ramfs")
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    before = lab.path.read_bytes()
    for page in range(NR_PAGES):
        lab.process.store(mapping.vaddr + page * PAGE, stamp(NR_PAGES - 1 - page, 1))
    faults = lab.machine.vmstat.nr_do_wp_page
    lab.clock.advance(100.0)
    settle(lab.machine)
    mapping.flush()
    lab.machine.sync()
    lab.machine.kernel.try_to_free_pages(lab.machine.kernel, 100)
    lab.machine.drop_caches()
    stat = lab.machine.vmstat
    never = ("mkclean_calls", "nr_written", "nr_dirtied", "nr_throttled", "unmap_calls")
    assert [stat.snapshot()[name] for name in never] == [0] * len(never)
    assert faults == 0, "a clean page of such a mapping is writable"
    assert lab.path.read_bytes() == before
    check(lab.machine)
    lab.machine.shutdown()
    assert stat.nr_copyout == NR_PAGES
    assert on_disk(lab.path, 5) == stamp(5, 1)


def test_ramfs_after_a_power_cut(tmp_path: Path) -> None:
    lab = Lab(tmp_path, plain_caps="ramfs")
    lab.process.store(lab.at(0), b"gone")
    before = lab.path.read_bytes()
    lab.machine.power_off()
    assert lab.path.read_bytes() == before


@pytest.mark.parametrize("rmap", ["scan", "dirty_index"])
def test_what_one_mkclean_visits(rmap: str, tmp_path: Path) -> None:
    """dirty_index: at most the page's writable or dirty PTEs and one; scan: every PTE of the mapping."""
    nr_pages = 1024
    path = make_file(tmp_path / "file", nr_pages)
    machine, _ = virtual_machine(rmap=rmap, ram=2048 * PAGE)
    process = machine.spawn()
    mapping = map_nonlinear(process, path, nr_pages)
    process.load(mapping.vaddr, nr_pages * PAGE)
    process.remap_file_pages(mapping.vaddr, PAGE, 0, 7)
    sharers = [mapping.vaddr, mapping.vaddr + (nr_pages - 1 - 7) * PAGE]
    for vaddr in sharers:
        process.store(vaddr, b"x")
    machine.sync()
    stat = machine.vmstat
    assert stat.mkclean_calls == 1
    assert stat.mkclean_cleaned == 2
    if rmap == "dirty_index":
        assert stat.mkclean_pte_visits + stat.mkclean_node_visits <= 2 * (len(sharers) + 1)
        assert stat.mkclean_pte_visits <= len(sharers) + 1
    else:
        assert stat.mkclean_pte_visits >= nr_pages
    machine.power_off()


def test_the_index_follows_what_is_dirty_and_shrinks_when_it_is_cleaned(tmp_path: Path) -> None:
    nr_pages = 4096
    path = make_file(tmp_path / "file", nr_pages)
    params = DirtyParams(background_ratio=90, dirty_ratio=95)
    machine, _ = virtual_machine(rmap="dirty_index", ram=8192 * PAGE, params=params)
    process = machine.spawn()
    mapping = map_nonlinear(process, path, nr_pages)
    process.load(mapping.vaddr, nr_pages * PAGE)
    cost = machine.kernel.rmap.cost
    assert cost.nbytes_peak == 0, "clean pages cost nothing"
    store = kind_of(AccessKind.STORE, 8)
    for count in (1000, 4096):
        process.run([mapping.vaddr + page * PAGE for page in range(count)], store, 1)
        assert cost.nbytes <= 24 * count
        machine.sync()
        assert cost.nbytes == 0
        assert cost.nbytes_peak <= 24 * count
    machine.power_off()


def test_a_write_error_under_the_flusher_loses_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, io_depth=2)
    lab.process.store(lab.at(2), stamp(2, 1))
    with breaks.failing_writes(errno.EIO):
        for _ in range(3):
            lab.clock.advance(40.0)
            settle(lab.machine)
            lab.clock.advance(1.0)
            settle(lab.machine)
            check(lab.machine)
            assert lab.machine.vmstat.nr_dirty == 1
    assert lab.machine.vmstat.nr_write_errors >= 3
    lab.machine.sync()
    lab.machine.power_off()
    assert on_disk(lab.path, 2) == stamp(2, 1)


def test_stable_writes_wait_for_the_writeback(tmp_path: Path) -> None:
    for caps, expected in (("disk", 1), ("disk,stable_writes", 0)):
        lab = Lab(tmp_path, io_depth=2, plain_caps=caps)
        lab.process.store(lab.at(0), b"x")
        lab.clock.advance(40.0)
        settle(lab.machine)
        assert lab.machine.vmstat.nr_writeback == 1
        lab.process.store(lab.at(0), b"y")
        assert lab.machine.vmstat.nr_writeback == expected
        check(lab.machine)
        lab.machine.power_off()


def test_real_threads_write_while_the_process_goes_on(tmp_path: Path) -> None:
    """The host's clock and a real pool: results are the same, whatever the order of completions."""
    lab = Lab(tmp_path, clock=None, io_depth=4)
    mapping = map_nonlinear(lab.process, lab.path, NR_PAGES)
    for generation in range(1, 6):
        for page in range(NR_PAGES):
            lab.process.store(mapping.vaddr + page * PAGE, stamp(NR_PAGES - 1 - page, generation))
        lab.machine.sync()
        check(lab.machine)
        assert [on_disk(lab.path, page) for page in range(NR_PAGES)] == [
            stamp(page, generation) for page in range(NR_PAGES)
        ]
    lab.machine.power_off()


def test_msync_writes_again_what_was_stored_while_it_was_written(tmp_path: Path) -> None:
    lab = Lab(tmp_path, io_depth=2)
    k = lab.machine.kernel
    lab.process.store(lab.at(3), stamp(3, 1))
    space = next(iter(k.dirty_mappings))
    assert write_cache_pages(k, space, 0, NR_PAGES, sync=False) == 1
    lab.process.store(lab.at(3), stamp(3, 2))
    assert (k.vmstat.nr_dirty, k.vmstat.nr_writeback) == (1, 1)
    lab.process.msync(lab.at(3), PAGE)
    lab.machine.power_off()
    assert on_disk(lab.path, 3) == stamp(3, 2)


def test_the_flusher_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """v2.6.23 mm/page-writeback.c: write_cache_pages() with range_cyclic: what is stored to again and again waits."""
    monkeypatch.setattr(flusher, "MAX_WRITEBACK_PAGES", 4)
    lab = Lab(tmp_path, params=DirtyParams(background_bytes=PAGE, dirty_bytes=500 * PAGE))
    k = lab.machine.kernel
    for page in range(12):
        lab.process.store(lab.at(page), stamp(page, 1))
    written = []
    for _ in range(3):
        k.kthreads.flusher_wanted = True
        wb_do_writeback(k)
        written.append(sum(on_disk(lab.path, page) == stamp(page, 1) for page in range(12)))
        k.set_page_dirty(k, next(iter(k.mappings.values())), k.fmt.pte_pfn(lab.pte(0)))
    assert written == [4, 8, 12]
    lab.machine.power_off()


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a page, too, as a host that is nearly full, or interrupted, may leave it."""
    lab = Lab(tmp_path)
    for page in range(3):
        lab.process.store(lab.at(page), page_bytes(page, 1))
    lengths: list[int] = []

    def pwritev(fd: int, parts: list[memoryview], first_byte: int) -> int:
        lengths.append(sum(map(len, parts)))
        return os.pwrite(fd, parts[0][:1536], first_byte)

    monkeypatch.setattr(os, "pwritev", pwritev)
    lab.machine.sync()
    assert lengths[:3] == [3 * PAGE, 3 * PAGE - 1536, 3 * PAGE - 2 * 1536]
    assert lab.path.read_bytes()[: 3 * PAGE] == b"".join(page_bytes(page, 1) for page in range(3))
    lab.machine.shutdown()
