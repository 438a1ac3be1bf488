"""What PTEs of a VMA look like: protection bits, write-notify, and the reverse map's hooks.

Source: Linux v2.6.23 mm/mmap.c: vma_wants_writenotify(), protection_map[]; include/linux/mm.h.
"""

from emu.mm.kernel import Kernel
from emu.mm_types.vma import VM_EXEC, VM_READ, VM_SHARED, VM_WRITE, VmArea


def vma_wants_writenotify(vma: VmArea) -> bool:
    """Tell whether the first store to each clean page must be seen: shared, writable, of an accounted file."""
    shared_writable = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
    return shared_writable and vma.mapping is not None and vma.mapping.account_dirty


def vma_set_page_prot(k: Kernel, vma: VmArea) -> None:
    """Set page_prot and page_prot_write as the flags say; once for each change of them."""
    vma.wants_writenotify = vma_wants_writenotify(vma)
    key = vma.flags & (VM_READ | VM_WRITE | VM_EXEC | VM_SHARED), vma.wants_writenotify
    prots = k.protection_map.get(key)
    if prots is None:
        prots = k.protection_map[key] = _page_prots(k, key[0], wants_writenotify=key[1])
    vma.page_prot, vma.page_prot_write = prots


def _page_prots(k: Kernel, vm_flags: int, *, wants_writenotify: bool) -> tuple[int, int]:
    """Return page_prot and page_prot_write for VMAs of these flags."""
    fmt = k.fmt
    execute = bool(vm_flags & VM_EXEC)
    read = bool(vm_flags & (VM_READ | VM_WRITE))
    accessible = bool(vm_flags & (VM_READ | VM_WRITE | VM_EXEC))
    shared_writable = vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
    page_prot = fmt.mk_pte(
        0,
        write=shared_writable and not wants_writenotify,
        execute=execute,
        accessed=True,
        protnone=not accessible,
        read=read,
    )
    page_prot_write = fmt.mk_pte(
        0,
        write=bool(vm_flags & VM_WRITE),
        execute=execute,
        accessed=True,
        dirty=True,
        protnone=not accessible,
        read=read,
    )
    return page_prot, page_prot_write


def mk_anon_pte(vma: VmArea, pfn: int, *, write: bool) -> int:
    """Return a PTE for a fresh anonymous page of this VMA, alone with it, so writable at once if written."""
    return pfn << vma.mm.fmt.pfn_shift | (vma.page_prot_write if write else vma.page_prot)


def bind_rmap(k: Kernel, vma: VmArea) -> None:
    """Connect a VMA to the reverse map, if its strategy wants to hear of it; after every change of its kind."""
    if k.rmap.watches(vma):
        vma.pte_changed = k.rmap.pte_changed
        vma.ptes_changed = k.rmap.ptes_changed
    else:
        vma.pte_changed = None
        vma.ptes_changed = None
