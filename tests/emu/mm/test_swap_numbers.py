"""What /proc would say of swap and of promised memory."""

from pathlib import Path

from emu.hw.swapops import swp_entry, swp_entry_to_pte
from emu.lab.procfs import meminfo, pagemap, smaps, vmstat
from emu.report.tables_dump import describe
from tests.emu.mm.helpers import PAGE, Lab
from tests.emu.mm.test_swap import push_out, small, written

KIB = PAGE // 1024
PM_PRESENT, PM_SWAP, PM_FILE = 1 << 63, 1 << 62, 1 << 61


def test_meminfo_vmstat_and_smaps_of_swapped_memory() -> None:
    machine = small(swap=101 * PAGE, page_cluster=0)
    process = machine.spawn()
    mapping = written(process, 20)
    told = meminfo(machine.kernel)
    assert (told["SwapTotal"], told["SwapFree"]) == (100 * KIB, 100 * KIB)
    assert (told["Committed_AS"], told["CommitLimit"]) == (20 * KIB, (96 // 2 + 100) * KIB)
    push_out(machine)
    process.load(mapping.vaddr, 1)
    process.load(mapping.vaddr + PAGE, 1)
    told = meminfo(machine.kernel)
    assert (told["SwapFree"], told["SwapCached"], told["AnonPages"]) == (80 * KIB, 2 * KIB, 2 * KIB)
    counters = vmstat(machine.kernel)
    assert (counters["pswpin"], counters["pswpout"], counters["nr_swapcached"]) == (2, 20, 2)
    assert (counters["pgpgin"], counters["pgpgout"]) == (2 * KIB, 20 * KIB)
    (vma,) = process.vmas
    seen = smaps(machine.kernel, vma)
    assert (seen.rss, seen.anonymous, seen.swap) == (2 * PAGE, 2 * PAGE, 18 * PAGE)
    machine.shutdown()


def test_pgpgin_and_pgpgout_of_files_are_kib(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.process.store(lab.at(0), b"x")
    lab.process.load(lab.at(1), 1)
    lab.mapping.flush()
    counters = vmstat(lab.machine.kernel)
    assert (counters["pgpgin"], counters["pgpgout"]) == (2 * KIB, KIB)
    lab.machine.shutdown()


def test_pagemap_names_slots_and_the_zero_page_is_no_file() -> None:
    machine = small()
    process = machine.spawn()
    mapping = written(process, 2)
    push_out(machine)
    process.mremap(mapping.vaddr, 2 * PAGE, 3 * PAGE)
    (vma,) = process.vmas
    process.load(vma.start + 2 * PAGE, 1)
    words = pagemap(machine.kernel, vma).tolist()
    for page in range(2):
        area, slot = words[page] & 31, words[page] >> 5 & (1 << 50) - 1
        assert words[page] & (PM_PRESENT | PM_SWAP | PM_FILE) == PM_SWAP
        assert process.mm.pt.get(vma.start + page * PAGE) == swp_entry_to_pte(machine.format, area << 57 | slot)
    assert words[2] & (PM_PRESENT | PM_SWAP | PM_FILE) == PM_PRESENT
    assert words[2] & (1 << 55) - 1 == machine.kernel.zero_pfn
    machine.shutdown()


def test_a_dumped_page_table_names_area_and_slot() -> None:
    machine = small(swap=17 * PAGE)
    machine.swapon(17 * PAGE)
    fmt = machine.format
    assert describe(fmt, swp_entry_to_pte(fmt, swp_entry(1, 9)), 3) == ("", "swap PTE: area 1, slot 9")
    assert describe(fmt, 2, 2) == ("", "not present")
    machine.shutdown()


def test_smaps_of_shared_memory_on_swap() -> None:
    machine = small(page_cluster=0)
    process = machine.spawn()
    mapping = process.mmap(-1, 8 * PAGE)
    process.store(mapping.vaddr, b"x" * 6 * PAGE)
    push_out(machine)
    process.load(mapping.vaddr, 1)
    process.munmap(mapping.vaddr + 4 * PAGE, 4 * PAGE)
    (vma,) = process.vmas
    seen = smaps(machine.kernel, vma)
    assert (seen.rss, seen.swap, seen.anonymous) == (PAGE, 3 * PAGE, 0)
    machine.shutdown()
