"""Ways to break VMAs, page tables, PTEs and counts by hand, each with what check says of it."""

from emu.mm_types.page import PG_PGTABLE
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VM_LOCKED, VM_WRITE
from tests.emu.mm.helpers import PAGE
from tests.emu.mm.whole import Whole, breaks

# VMAs


@breaks("overlaps or is no range of pages")
def vmas_overlap(lab: Whole) -> None:
    lab.nonlinear_vma.end += PAGE


@breaks("overlaps or is no range of pages")
def vma_off_a_page_border(lab: Whole) -> None:
    lab.linear_vma.end -= 12


@breaks("is not filed under")
def vma_not_filed(lab: Whole) -> None:
    lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].i_mmap.remove(lab.linear_vma)


@breaks("is not filed under")
def nonlinear_vma_not_filed(lab: Whole) -> None:
    vma = lab.nonlinear_vma
    assert vma.mapping is not None
    del vma.mapping.i_mmap_nonlinear[vma]


@breaks("a file lists a VMA that no mm has")
def vma_forgotten_by_its_mm(lab: Whole) -> None:
    lab.mm.vmas.remove(lab.linear_vma)


@breaks("has the wrong reverse-map hook")
def no_hook(lab: Whole) -> None:
    lab.nonlinear_vma.pte_changed = None


@breaks("total_vm: kept")
def total_vm(lab: Whole) -> None:
    lab.mm.total_vm += 1


@breaks("locked_vm: kept")
def locked_vm(lab: Whole) -> None:
    lab.linear_vma.flags |= VM_LOCKED


@breaks("mmap_sem is held")
def held_lock(lab: Whole) -> None:
    lab.mm.mmap_sem.down_read()


@breaks("nr_nonlinear: kept")
def nonlinear_count(lab: Whole) -> None:
    lab.mm.nr_nonlinear -= 1


@breaks("i_mmap_lock is held")
def held_file_lock(lab: Whole) -> None:
    lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].i_mmap_lock.down_write()


@breaks("is out of order")
def vma_linked_wrongly(lab: Whole) -> None:
    lab.linear_vma.vm_next = lab.linear_vma


@breaks("is filed under other pages in i_mmap")
def vma_moved_while_filed(lab: Whole) -> None:
    lab.linear_vma.pgoff += 1 << 20


@breaks("is filed under other pages in AnonVma")
def anon_vma_moved_while_filed(lab: Whole) -> None:
    next(vma for vma in lab.process.vmas if vma.anon_vma is not None).pgoff -= 64


@breaks("has wants_writenotify False")
def no_write_notify(lab: Whole) -> None:
    lab.linear_vma.wants_writenotify = False


@breaks("map_count: kept")
def vmas_miscounted(lab: Whole) -> None:
    lab.mm.vmas._nr += 1


# Page tables


@breaks("PTEs within VMAs: kept")
def pte_outside_every_vma(lab: Whole) -> None:
    vaddr = lab.at(0) - 100 * PAGE
    lab.mm.pt.leaf(vaddr)
    set_pte(lab.mm, lab.linear_vma, vaddr, 0, lab.pte(0))


@breaks("no table at level|leaf table for")
def upper_table_unlinked(lab: Whole) -> None:
    pt, k = lab.mm.pt, lab.k
    words = k.ram.u64 if k.fmt.pte_bytes == 8 else k.ram.u32
    words[pt.root_pfn * (PAGE // k.fmt.pte_bytes) + k.fmt.index(lab.at(0), 0)] = 0


@breaks("table frame is not marked")
def table_not_marked(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.mm.pt.root_pfn] &= ~PG_PGTABLE


@breaks("pages with PG_pgtable: kept")
def page_marked_as_a_table(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] |= PG_PGTABLE


@breaks("nr_page_table_pages: kept")
def table_count(lab: Whole) -> None:
    lab.k.vmstat.nr_page_table_pages += 1


@breaks(r"table \(0, 0\): .* counted")
def upper_table_miscounted(lab: Whole) -> None:
    lab.mm.pt._tables[0, 0][1] += 1


@breaks(r"table \(0, 0\): .* below it")
def entry_without_a_table(lab: Whole) -> None:
    k = lab.k
    words = k.ram.u64 if k.fmt.pte_bytes == 8 else k.ram.u32
    words[lab.mm.pt.root_pfn * (PAGE // k.fmt.pte_bytes)] = k.fmt.mk_table(5, 0)


# PTEs


@breaks("maps a page of another file")
def page_of_another_file(lab: Whole) -> None:
    lab.k.mem_map.mapping[lab.pfn(0)] = 999


@breaks("of a linear VMA maps")
def wrong_page(lab: Whole) -> None:
    lab.k.mem_map.index[lab.pfn(0)] = 7


@breaks("is writable or dirty, its page is clean")
def writable_pte_of_a_clean_page(lab: Whole) -> None:
    lab.poke(0, lab.k.fmt.pte_mkwrite)


@breaks("is writable or dirty, its page is clean")
def dirty_pte_of_a_clean_page(lab: Whole) -> None:
    lab.poke(0, lab.k.fmt.pte_mkdirty)


@breaks("file PTEs in linear")
def file_pte_in_a_linear_vma(lab: Whole) -> None:
    lab.poke(9, lambda _pte: lab.k.fmt.pgoff_to_pte(3))


@breaks("file_rss, anon_rss: kept")
def rss(lab: Whole) -> None:
    lab.mm.anon_rss -= 1


@breaks("may be written, .* may not")
def writable_pte_of_a_read_only_vma(lab: Whole) -> None:
    lab.linear_vma.flags &= ~VM_WRITE


@breaks("of a private mapping may write to a page of its file")
def private_mapping_that_writes_to_its_file(lab: Whole) -> None:
    private = lab.process.mmap(str(lab.path), PAGE, flags=2)
    lab.process.load(private.vaddr, 1)
    vma, pte = lab.process.mm.vmas.find(private.vaddr), lab.mm.pt.get(private.vaddr)
    assert vma is not None
    set_pte(lab.mm, vma, private.vaddr, pte, lab.k.fmt.pte_mkwrite(pte))


@breaks("is or is not PROT_NONE")
def inaccessible_pte(lab: Whole) -> None:
    lab.poke(0, lambda pte: lab.k.fmt.pte_modify(pte, read=False, write=False, execute=False))


# Counts and frames


@breaks("nobody maps page")
def mapcount_of_an_unmapped_page(lab: Whole) -> None:
    lab.process.load(lab.at(9), 1)
    lab.process.madvise(lab.at(9), PAGE, 4)
    lab.k.mem_map.mapcount[lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].pages.lookup(9)] = 1


@breaks("PTEs map page")
def mapcount(lab: Whole) -> None:
    lab.k.mem_map.mapcount[lab.pfn(0)] += 1


@breaks("references are known to")
def refcount(lab: Whole) -> None:
    lab.k.mem_map.refcount[lab.pfn(0)] += 1


@breaks("in use but free")
def freed_while_mapped(lab: Whole) -> None:
    lab.k.ram.free_frame(lab.pfn(0))


@breaks("free, but not clean")
def something_left_in_a_free_frame(lab: Whole) -> None:
    lab.k.mem_map.mapping[lab.k.ram.nr_frames - 1] = 7


@breaks("the zero page holds something")
def store_to_the_zero_page(lab: Whole) -> None:
    lab.k.ram.frame(lab.k.zero_pfn)[17] = 1


@breaks("allocated frames: kept")
def leaked_frame(lab: Whole) -> None:
    lab.k.ram.alloc_frame()
