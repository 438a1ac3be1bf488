"""remap_file_pages: its errors, what it leaves in the page table, what it does not touch."""

import errno
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.check import check
from emu.errors import BusError
from emu.mm.mmap import MAP_FIXED, MAP_NONBLOCK
from emu.process import Process
from tests.emu.mm.helpers import NR_PAGES, PAGE, RO, RW, Lab, fails_with, map_nonlinear, stamp, virtual_machine

if TYPE_CHECKING:
    from emu.machine import Machine


@pytest.fixture(params=["x86_64", "i386"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, request.param)
    yield made
    check(made.machine)
    made.machine.power_off()


def remap(lab: Lab, page: int, nbytes: int, pgoff: int, prot: int = 0, flags: int = 0) -> None:
    lab.process.remap_file_pages(lab.at(page), nbytes, prot, pgoff, flags)


@pytest.mark.parametrize("prot", [1, 2, 4, 7, 1 << 20])
def test_prot_must_be_zero(lab: Lab, prot: int) -> None:
    with fails_with(errno.EINVAL):
        remap(lab, 0, PAGE, 5, prot=prot)


@pytest.mark.parametrize("nbytes", [0, 1, PAGE - 1, -PAGE])
def test_less_than_a_page_is_nothing(lab: Lab, nbytes: int) -> None:
    with fails_with(errno.EINVAL):
        remap(lab, 0, nbytes, 5)


def test_start_and_length_are_rounded_down(lab: Lab) -> None:
    lab.process.remap_file_pages(lab.at(2) + 123, 2 * PAGE + 4095, 0, 9)
    assert [lab.shown(page) for page in (1, 2, 3, 4)] == [stamp(1), stamp(9), stamp(10), stamp(4)]


@pytest.mark.parametrize("start", [0, -PAGE, 1 << 64, (1 << 64) - PAGE])
@pytest.mark.parametrize("nbytes", [PAGE, 1 << 64, (1 << 64) - PAGE])
def test_wrap_and_unmapped_addresses(lab: Lab, start: int, nbytes: int) -> None:
    with fails_with(errno.EINVAL):
        lab.process.remap_file_pages(start, nbytes, 0, 5)


def test_wrap_within_the_mapping(lab: Lab) -> None:
    with fails_with(errno.EINVAL):
        remap(lab, 1, (1 << 64) - PAGE, 5)


def test_pgoff_that_the_format_cannot_encode(lab: Lab) -> None:
    most = lab.machine.format.max_pgoff
    for pgoff, nr_pages in ((most + 1, 1), (most, 2), (1 << 63, 1), (-1, 1)):
        with fails_with(errno.EINVAL):
            remap(lab, 0, nr_pages * PAGE, pgoff)
    with fails_with(errno.EINVAL):
        lab.process.remap_file_pages_bulk([lab.at(0)], [most + 1])
    assert not lab.process.vmas[0].nonlinear, "a refused call changes nothing"
    remap(lab, 0, PAGE, most)
    assert lab.machine.format.pte_to_pgoff(lab.pte(0)) == most, "encoded whole, never truncated"
    with pytest.raises(BusError):
        lab.shown(0)


def test_beyond_the_one_vma(lab: Lab) -> None:
    lab.process.mprotect(lab.at(8), PAGE, RO)
    for page, nr_pages in ((0, 17), (15, 2), (7, 2), (16, 1)):
        with fails_with(errno.EINVAL):
            remap(lab, page, nr_pages * PAGE, 3)
        with fails_with(errno.EINVAL):
            lab.process.remap_file_pages_bulk([lab.at(page), lab.at(page + nr_pages - 1)], [3, 4])
    remap(lab, 0, 8 * PAGE, 3)


def test_private_and_anonymous_memory(lab: Lab) -> None:
    private = lab.process.mmap(str(lab.path), PAGE * 4, mmap.MAP_PRIVATE)
    anonymous = lab.process.mmap(-1, PAGE * 4, mmap.MAP_PRIVATE)
    for mapping in (private, anonymous):
        with fails_with(errno.EINVAL):
            lab.process.remap_file_pages(mapping.vaddr, PAGE, 0, 2)


def test_shared_anonymous_memory_can_be_remapped(lab: Lab) -> None:
    shared = lab.process.mmap(-1, PAGE * 4, mmap.MAP_SHARED)
    lab.process.store(shared.vaddr, b"first")
    lab.process.remap_file_pages(shared.vaddr + 3 * PAGE, PAGE, 0, 0)
    assert lab.process.load(shared.vaddr + 3 * PAGE, 5) == b"first"


def test_a_file_opened_for_reading_cannot_be_remapped(lab: Lab) -> None:
    """A shared mapping of it is VM_MAYSHARE without VM_SHARED, as in the kernel."""
    with lab.path.open("rb") as file:
        machine, _ = virtual_machine()
        process = machine.spawn()
        vaddr = process.sys_mmap(0, PAGE * 4, RO, mmap.MAP_SHARED, file.fileno(), 0)
        with fails_with(errno.EINVAL):
            process.remap_file_pages(vaddr, PAGE, 0, 2)
        check(machine)
        machine.power_off()


@pytest.mark.parametrize("flags", [0x1, 0x2, 0x10, 0x2000, 1 << 30])
def test_unknown_flags_are_ignored(lab: Lab, flags: int) -> None:
    remap(lab, 0, PAGE, 9, flags=flags)
    assert lab.machine.format.pte_present(lab.pte(0))
    assert lab.shown(0) == stamp(9)


def test_nonblock_does_not_prefault(lab: Lab) -> None:
    faults = lab.machine.vmstat.pgfault
    remap(lab, 0, 4 * PAGE, 9, flags=MAP_NONBLOCK)
    assert lab.machine.vmstat.pgfault == faults
    assert lab.machine.vmstat.nr_file_pages == 0
    assert [lab.machine.format.pte_to_pgoff(lab.pte(page)) for page in range(4)] == [9, 10, 11, 12]
    assert lab.shown(2) == stamp(11)
    assert lab.machine.vmstat.nr_nonlinear_fault == 1


def test_prefault_is_for_reading(lab: Lab) -> None:
    """A prefault for writing would make every page dirty."""
    remap(lab, 0, 4 * PAGE, 9)
    fmt = lab.machine.format
    for page in range(4):
        assert fmt.pte_present(lab.pte(page))
        assert not fmt.pte_write(lab.pte(page))
        assert not fmt.pte_dirty(lab.pte(page))
    assert lab.machine.vmstat.nr_dirty == 0


def test_a_mapping_without_any_right_is_not_prefaulted(lab: Lab) -> None:
    lab.process.mprotect(lab.at(0), NR_PAGES * PAGE, 0)
    remap(lab, 0, PAGE, 9)
    assert not lab.machine.format.pte_present(lab.pte(0))
    lab.process.mprotect(lab.at(0), NR_PAGES * PAGE, RW)
    assert lab.shown(0) == stamp(9)


def test_the_linear_pgoff_changes_nothing(lab: Lab) -> None:
    lab.process.store(lab.at(3), b"here")
    before = lab.pte(3)
    remap(lab, 2, 3 * PAGE, 2)
    lab.process.remap_file_pages_bulk([lab.at(3), lab.at(5)], [3, 5])
    assert not lab.process.vmas[0].nonlinear
    assert lab.pte(3) == before
    assert lab.machine.vmstat.nr_remap == 0


@pytest.mark.parametrize(("rmap", "anew"), [("linear_vmas", True), ("linear_vmas_accounted", False)])
@pytest.mark.parametrize("bulk", [False, True])
def test_by_vmas_the_linear_pgoff_is_mapped_anew_or_left(tmp_path: Path, rmap: str, *, anew: bool, bulk: bool) -> None:
    """v4.0 mm/mmap.c: sys_remap_file_pages() does not look what is there; v2.6.24 mm/fremap.c does."""
    lab = Lab(tmp_path, rmap=rmap)
    lab.process.store(lab.at(3), b"here")
    if bulk:
        lab.process.remap_file_pages_bulk([lab.at(3)], [3])
    else:
        lab.process.remap_file_pages(lab.at(3), PAGE, 0, 3, MAP_NONBLOCK)
    assert (lab.pte(3) == 0) == anew
    assert len(lab.process.vmas) == 1
    assert lab.shown(3)[:4] == b"here"
    lab.machine.power_off()


def test_nonlinear_is_for_ever(lab: Lab) -> None:
    remap(lab, 0, PAGE, 5)
    remap(lab, 0, PAGE, 0)
    assert lab.process.vmas[0].nonlinear
    assert lab.shown(0) == stamp(0)
    mapping = lab.process.vmas[0].mapping
    assert mapping is not None
    assert not mapping.i_mmap
    assert list(mapping.i_mmap_nonlinear) == lab.process.vmas


def test_remap_hands_over_the_dirty_bit_and_the_bytes_stay(lab: Lab) -> None:
    lab.process.store(lab.at(3), b"written!")
    remap(lab, 3, PAGE, 7)
    assert lab.shown(3) == stamp(7)
    remap(lab, 0, PAGE, 3)
    assert lab.shown(0) == b"written!"
    lab.process.msync(lab.at(0), PAGE)
    assert lab.path.read_bytes()[3 * PAGE : 3 * PAGE + 8] == b"written!"


def test_one_page_at_many_addresses(lab: Lab) -> None:
    for page in range(NR_PAGES):
        remap(lab, page, PAGE, 6)
    lab.process.store(lab.at(2), b"shared")
    assert {lab.process.load(lab.at(page), 6) for page in range(NR_PAGES)} == {b"shared"}
    for page in range(NR_PAGES):
        lab.process.store(lab.at(page) + 8 * page, page.to_bytes(8, "little"))
    lab.machine.sync()
    cleaned = lab.machine.vmstat.mkclean_cleaned
    assert cleaned == NR_PAGES
    fmt = lab.machine.format
    assert not any(fmt.pte_write(lab.pte(page)) or fmt.pte_dirty(lab.pte(page)) for page in range(NR_PAGES))


@pytest.mark.parametrize("call", ["remap_file_pages", "bulk"])
def test_privilege(call: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path, remap_privileged=True)

    def remap_in(process: Process) -> None:
        if call == "bulk":
            process.remap_file_pages_bulk([lab.at(0)], [5])
        else:
            process.remap_file_pages(lab.at(0), PAGE, 0, 5)

    user = lab.machine.spawn(privileged=False)
    user.mmap(str(lab.path), NR_PAGES * PAGE, vaddr=lab.at(0))
    with fails_with(errno.EPERM):
        remap_in(user)
    child = user.fork()
    with fails_with(errno.EPERM):
        remap_in(child)
    with fails_with(errno.EINVAL):
        user.remap_file_pages(lab.at(0), PAGE, 1, 5)
    remap_in(lab.process)
    check(lab.machine)
    lab.machine.power_off()


def test_bulk_errors_and_repeats(lab: Lab) -> None:
    bulk = lab.process.remap_file_pages_bulk
    bulk([], [])
    with fails_with(errno.EINVAL):
        bulk([lab.at(0), lab.at(1)], [1])
    with fails_with(errno.EINVAL):
        bulk([lab.at(0) + 8], [1])
    for _ in range(2):
        bulk([lab.at(0), lab.at(1), lab.at(0)], [7, 8, 9])
        assert [lab.shown(0), lab.shown(1)] == [stamp(9), stamp(8)], "of an address given twice the last one counts"
        lab.process.store(lab.at(0), stamp(9))


def test_bulk_of_locked_memory_lets_the_old_pages_go(lab: Lab) -> None:
    lab.process.mlock(lab.at(0), 2 * PAGE)
    lab.process.remap_file_pages_bulk([lab.at(0), lab.at(1)], [9, 10])
    assert lab.machine.vmstat.nr_mlock == 0
    assert lab.shown(0) == stamp(9)
    assert lab.machine.vmstat.nr_mlock == 1


def test_remap_of_locked_memory_locks_the_new_pages(lab: Lab) -> None:
    lab.process.mlock(lab.at(0), 2 * PAGE)
    remap(lab, 0, 2 * PAGE, 9)
    assert lab.machine.vmstat.nr_mlock == 2
    lab.process.munlock(lab.at(0), 2 * PAGE)
    assert lab.machine.vmstat.nr_mlock == 0


def test_no_frame_for_a_table_is_enomem_and_the_machine_stays_whole(tmp_path: Path) -> None:
    lab = Lab(tmp_path, ram=32 * PAGE)
    k = lab.machine.kernel
    far = lab.process.sys_mmap(1 << 30, PAGE * 4, RW, mmap.MAP_SHARED | MAP_FIXED, str(lab.path), 0)
    taken = []
    while (pfn := k.ram.alloc_frame()) >= 0:
        taken.append(pfn)
    calls: list[Callable[[], object]] = [
        lambda: lab.process.remap_file_pages(far, PAGE, 0, 3, MAP_NONBLOCK),
        lambda: lab.process.remap_file_pages_bulk([far], [3]),
        lambda: lab.process.remap_file_pages(lab.at(0), PAGE, 0, 3),
    ]
    for call in calls:
        with fails_with(errno.ENOMEM):
            call()
    for pfn in taken:
        k.ram.free_frame(pfn)
    check(lab.machine)
    lab.process.remap_file_pages(far, PAGE, 0, 3)
    assert lab.process.load(far, 8) == stamp(3)
    lab.machine.power_off()


def test_a_dead_process_is_told_so(lab: Lab) -> None:
    lab.process.exit()
    calls: list[Callable[[], object]] = [
        lambda: remap(lab, 0, PAGE, 5),
        lambda: lab.process.remap_file_pages_bulk([lab.at(0)], [5]),
        lambda: lab.process.mmap(str(lab.path), PAGE),
    ]
    for call in calls:
        with fails_with(errno.ESRCH):
            call()


def test_remapped_order_survives_whatever_takes_pages_out(lab: Lab) -> None:
    """madvise, truncate and reclaim leave file PTEs where the page is not the linear one."""
    machine: Machine = lab.machine
    other = map_nonlinear(lab.process, lab.path, NR_PAGES)
    fmt, pt = machine.format, lab.process.mm.pt

    def order() -> list[int]:
        ptes = [pt.get(other.vaddr + page * PAGE) for page in range(NR_PAGES)]
        assert not any(fmt.pte_present(pte) for pte in ptes)
        return [fmt.pte_to_pgoff(pte) if pte else -1 for pte in ptes]

    reverse = list(range(NR_PAGES))[::-1]
    lab.process.load(other.vaddr, NR_PAGES * PAGE)
    lab.process.madvise(other.vaddr, NR_PAGES * PAGE, mmap.MADV_DONTNEED)
    assert order() == reverse
    lab.process.load(other.vaddr, NR_PAGES * PAGE)
    for _ in range(4):
        machine.kernel.try_to_free_pages(machine.kernel, 1000)
    assert order() == reverse
    lab.process.load(other.vaddr, NR_PAGES * PAGE)
    lab.process.ftruncate(other, 0)
    assert order() == reverse
    lab.process.ftruncate(other, NR_PAGES * PAGE)
    assert lab.process.load(other.vaddr, NR_PAGES * PAGE) == bytes(NR_PAGES * PAGE)
