"""VMAs as they come and go: link, unlink, split, merge.

Whatever changes a VMA's borders takes it off i_mmap first and puts it back after.

Source: Linux v2.6.20 mm/mmap.c: vma_link(), split_vma(), vma_adjust(), vma_merge(), remove_vma(); v2.6.36 mm/mmap.c:
__split_vma().
VMAs of one file merge if the descriptors that they were made with may both write, or neither may; Linux asks for the
same struct file.
"""

import errno

from emu.mm.anon_vma import anon_vma_link, anon_vma_take, anon_vma_unlink, is_mergeable_anon_vma, is_same_file
from emu.mm.kernel import Kernel
from emu.mm.overcommit import vm_unacct_memory
from emu.mm.truncate import release_shmem
from emu.mm.vma_prot import bind_rmap, vma_set_page_prot
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.anon_vma import AnonVma
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VM_ACCOUNT, VM_LOCKED, VM_NONLINEAR, VmArea


def new_vma(
    k: Kernel,
    mm: Mm,
    start: int,
    end: int,
    flags: int,
    pgoff: int,
    mapping: AddressSpace | None,
    anon_vma: AnonVma | None = None,
    *,
    file_writable: bool = False,
) -> VmArea:
    """Make a VMA that is not linked anywhere yet, with its protections and its reverse-map hooks."""
    vma = VmArea(mm, start, end, flags, pgoff, mapping)
    vma.anon_vma = anon_vma
    vma.file_writable = file_writable
    vma_set_page_prot(k, vma)
    bind_rmap(k, vma)
    return vma


def require_named(k: Kernel, vm_flags: int, nr_pages: int) -> None:
    """Raise ENOMEM if the reverse map cannot name the pages of another nonlinear VMA of that size."""
    if vm_flags & VM_NONLINEAR and not k.rmap.has_room(nr_pages):
        raise OSError(errno.ENOMEM, f"reverse map {k.rmap.name} cannot name {nr_pages} nonlinear pages more")


def i_mmap_insert(vma: VmArea) -> None:
    """File a VMA under its file: by pgoff, or with the nonlinear ones."""
    mapping = vma.mapping
    if mapping is not None:
        mapping.i_mmap_lock.down_write()
        _vma_link_file(vma, mapping)
        mapping.i_mmap_lock.up_write()


def i_mmap_remove(vma: VmArea) -> None:
    """Take a VMA from its file's lists."""
    mapping = vma.mapping
    if mapping is not None:
        mapping.i_mmap_lock.down_write()
        _remove_shared_vm_struct(vma, mapping)
        mapping.i_mmap_lock.up_write()


def _vma_link_file(vma: VmArea, mapping: AddressSpace) -> None:
    if vma.flags & VM_NONLINEAR:
        mapping.i_mmap_nonlinear[vma] = None
    else:
        mapping.i_mmap.insert(vma)
    if vma.remapped is not None:
        vma.remapped.add(1)


def _remove_shared_vm_struct(vma: VmArea, mapping: AddressSpace) -> None:
    if vma.flags & VM_NONLINEAR:
        del mapping.i_mmap_nonlinear[vma]
    else:
        mapping.i_mmap.remove(vma)
    if vma.remapped is not None:
        vma.remapped.add(-1)


def vma_link(mm: Mm, vma: VmArea) -> None:
    """Add a VMA to its mm and its file; if it is VM_ACCOUNT, its pages have been promised already."""
    mm.vmas.insert(vma)
    mm.total_vm += vma.nr_pages
    if vma.flags & VM_LOCKED:
        mm.locked_vm += vma.nr_pages
    if vma.flags & VM_NONLINEAR:
        mm.nr_nonlinear += vma.nr_pages
    i_mmap_insert(vma)
    anon_vma_link(vma)


def remove_vma(k: Kernel, mm: Mm, vma: VmArea) -> None:
    """Take a VMA, whose pages are gone, out of its mm and its file."""
    mm.vmas.remove(vma)
    mm.total_vm -= vma.nr_pages
    if vma.flags & VM_LOCKED:
        mm.locked_vm -= vma.nr_pages
    if vma.flags & VM_ACCOUNT:
        vm_unacct_memory(k, vma.nr_pages)
    i_mmap_remove(vma)
    anon_vma_unlink(k, vma)
    if vma.flags & VM_NONLINEAR:
        mm.nr_nonlinear -= vma.nr_pages
        k.rmap.vma_closed(vma)
    mapping = vma.mapping
    if mapping is not None and mapping.host.fd_buffered < 0 and not mapping.is_mapped():
        release_shmem(k, mapping)


def split_vma(k: Kernel, mm: Mm, vma: VmArea, vaddr: int) -> VmArea:
    """Cut a VMA at `vaddr`; it keeps the lower part, the upper one is returned. ENOMEM beyond max_map_count."""
    if mm.map_count >= k.options.max_map_count:
        raise OSError(errno.ENOMEM, f"the process has max_map_count ({k.options.max_map_count}) mappings already")
    return cut_vma(k, mm, vma, vaddr)


def cut_vma(k: Kernel, mm: Mm, vma: VmArea, vaddr: int) -> VmArea:
    """Do split_vma without asking how many there are (__split_vma), as munmap may."""
    upper = VmArea(mm, vaddr, vma.end, vma.flags, vma.linear_pgoff(vaddr), vma.mapping)
    upper.anon_vma, upper.anon_branch, upper.file_writable = vma.anon_vma, vma.anon_branch, vma.file_writable
    upper.page_prot, upper.page_prot_write = vma.page_prot, vma.page_prot_write
    upper.wants_writenotify = vma.wants_writenotify
    upper.pte_changed, upper.ptes_changed = vma.pte_changed, vma.ptes_changed
    upper.remapped = vma.remapped
    _vma_adjust(mm, vma, vaddr, insert=upper)
    if vma.flags & VM_NONLINEAR:
        k.rmap.vma_split(vma, upper)
    return upper


def _vma_adjust(mm: Mm, vma: VmArea, end: int, *, insert: VmArea | None = None, remove: VmArea | None = None) -> None:
    """Move the end of a VMA, linking the one that is `insert`ed behind it or unlinking the one that it swallows.

    The file's lists change under one hold of its lock (vma_adjust).
    """
    mapping = vma.mapping
    if mapping is not None:
        mapping.i_mmap_lock.down_write()
        _remove_shared_vm_struct(vma, mapping)
        if remove is not None:
            _remove_shared_vm_struct(remove, mapping)
    anon_vma_take(vma)
    if remove is not None:
        anon_vma_take(remove)
        mm.vmas.remove(remove)
        vma.anon_vma = vma.anon_vma or remove.anon_vma
    mm.vmas.resize(vma, vma.start, end)
    anon_vma_link(vma)
    if insert is not None:
        mm.vmas.insert(insert)
        anon_vma_link(insert)
    if mapping is not None:
        _vma_link_file(vma, mapping)
        if insert is not None:
            _vma_link_file(insert, mapping)
        mapping.i_mmap_lock.up_write()


def isolate(k: Kernel, mm: Mm, vma: VmArea, start: int, end: int) -> VmArea:
    """Return the part of a VMA within [start, end) as a VMA of its own, split off where need be."""
    if vma.start < start:
        vma = split_vma(k, mm, vma, start)
    if vma.end > end:
        split_vma(k, mm, vma, end)
    return vma


def _continues(lower: VmArea, upper: VmArea) -> bool:
    if lower.end != upper.start or lower.flags != upper.flags or not is_same_file(lower, upper):
        return False
    return lower.pgoff + lower.nr_pages == upper.pgoff


def merge_around(k: Kernel, mm: Mm, vma: VmArea, *, grown: bool = False) -> VmArea:
    """Merge a VMA with its neighbours where they continue each other; return what holds it now (vma_merge).

    `grown`: it is what the mapping below it gained, and has its anon_vma. That takes in what lies above without private
    pages even where the mapping came from a parent, as v6.18 was seen to do: its own anon_vma counts, no fork.
    """
    below = vma.vm_prev
    if below is not None and _continues(below, vma) and is_mergeable_anon_vma(below, vma):
        _merge(k, mm, below, vma)
        vma = below
    above = vma.vm_next
    if above is not None and _continues(vma, above):
        unfaulted = grown and above.anon_vma is None
        if unfaulted or is_mergeable_anon_vma(vma, above):
            _merge(k, mm, vma, above)
    return vma


def _merge(k: Kernel, mm: Mm, lower: VmArea, upper: VmArea) -> None:
    _vma_adjust(mm, lower, upper.end, remove=upper)
    if lower.flags & VM_NONLINEAR:
        k.rmap.vma_merged(lower, upper)
