"""The fault path before the merge: ->nopage for linear file pages, ->populate for nonlinear ones.

The page that the look-up returns is not locked, so the file may change before its PTE is in. Two guards of that time:
nopage is tried again if unmap_mapping_range() ran meanwhile (truncate_count), and install_page() refuses a page that
left the page cache or lies beyond the end of the file. They cover a change of the file's length; they do not cover
pages that go from inside the file (a punched hole, an invalidation), which can stay mapped for ever.

A nonlinear page comes in read-only in an accounted mapping, so that its first store faults twice. Where a nonlinear VMA
has no file PTE, nothing was remapped: ->nopage maps the linear page there.

Source: Linux v2.6.20 mm/memory.c: handle_pte_fault(), do_no_page(), do_file_page(); mm/filemap.c: filemap_nopage(),
filemap_populate(); mm/fremap.c: install_page().
"""

from emu.errors import BusError, OutOfMemory
from emu.mm.fault import alloc_cow_page, finish_cow_fault, page_mkwrite
from emu.mm.filemap import filemap_fault, max_pgoff
from emu.mm.kernel import Kernel
from emu.mm.mapcount import page_add_file_rmap
from emu.mm.mlock import mlock_vma_page
from emu.mm.page_alloc import lock_page, put_page, unlock_page
from emu.mm.page_writeback import balance_dirty_pages_ratelimited
from emu.mm_types.mm import Mm
from emu.mm_types.pgtable import set_pte
from emu.mm_types.vma import VM_LOCKED, VM_SHARED, VmArea


def legacy_fault(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pgoff: int, pte: int, *, write: bool) -> bool:
    """Map file page `pgoff` at `vaddr`; return whether it had to be read."""
    if pte:
        return _do_file_page(k, mm, vma, vaddr, pgoff, pte)
    return _do_no_page(k, mm, vma, vaddr, pgoff, write=write)


def _nopage(k: Kernel, vma: VmArea, pgoff: int, vaddr: int) -> tuple[int, bool]:
    """Return (pfn, major): the page, up to date, with a reference, but not locked (filemap_nopage)."""
    pfn, major = filemap_fault(k, vma, pgoff, vaddr)
    unlock_page(k, pfn)
    k.preempt_point("nopage:looked_up")
    return pfn, major


def _do_no_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pgoff: int, *, write: bool) -> bool:
    mapping = vma.mapping
    assert mapping is not None
    while True:
        sequence = mapping.truncate_count
        pfn, major = _nopage(k, vma, pgoff, vaddr)
        if write and vma.flags & VM_SHARED:
            page_mkwrite(k, vma, pfn)
        if sequence == mapping.truncate_count:
            break
        put_page(k, pfn)
    if write and not vma.flags & VM_SHARED:
        try:
            copy = alloc_cow_page(k, vaddr)
        except OutOfMemory:
            put_page(k, pfn)
            raise
        lock_page(k, pfn)
        finish_cow_fault(k, mm, vma, vaddr, pfn, copy, 0)
        return major
    if mm.pt.get(vaddr):
        put_page(k, pfn)
        return major
    frame = pfn << k.fmt.pfn_shift
    set_pte(mm, vma, vaddr, 0, frame | (vma.page_prot_write if write else vma.page_prot))
    _mapped(k, mm, vma, pfn)
    # The page may have left its file meanwhile: then there is nothing to mark dirty, and nobody will write it.
    if write and k.mem_map.mapping[pfn] == mapping.ident:
        k.set_page_dirty(k, mapping, pfn)
        balance_dirty_pages_ratelimited(k, mm, mapping)
    return major


def _do_file_page(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pgoff: int, pte: int) -> bool:
    """Populate one page, read-only if stores must be seen (do_file_page, filemap_populate, install_page)."""
    mapping = vma.mapping
    assert mapping is not None
    pfn, major = _nopage(k, vma, pgoff, vaddr)
    if k.mem_map.mapping[pfn] != mapping.ident or k.mem_map.index[pfn] >= max_pgoff(k, mapping):
        put_page(k, pfn)
        raise BusError(vaddr, f"page {pgoff} of {mapping.host.name} was truncated meanwhile")
    k.preempt_point("populate:checked")
    if mm.pt.get(vaddr) != pte:
        put_page(k, pfn)
        return major
    set_pte(mm, vma, vaddr, pte, pfn << k.fmt.pfn_shift | vma.page_prot)
    _mapped(k, mm, vma, pfn)
    return major


def _mapped(k: Kernel, mm: Mm, vma: VmArea, pfn: int) -> None:
    page_add_file_rmap(k, mm, pfn)
    if vma.flags & VM_LOCKED:
        mlock_vma_page(k, pfn)
