"""What PTEs of a VMA look like: protection bits, write-notify, and the reverse map's hooks.

Source: Linux v2.6.23 mm/mmap.c: vma_wants_writenotify(), do_mmap_pgoff(); include/linux/mm.h.
"""

from emu.mm.kernel import Kernel
from emu.mm_types.vma import VM_EXEC, VM_READ, VM_SHARED, VM_WRITE, VmArea


def vma_wants_writenotify(vma: VmArea) -> bool:
    """Tell whether the first store to each clean page must be seen: shared, writable, of an accounted file."""
    shared_writable = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
    return shared_writable and vma.mapping is not None and vma.mapping.account_dirty


def vma_set_page_prot(k: Kernel, vma: VmArea) -> None:
    """Work out page_prot and page_prot_write from the flags; once for each change of them."""
    fmt = k.fmt
    vma.wants_writenotify = vma_wants_writenotify(vma)
    execute = bool(vma.flags & VM_EXEC)
    accessible = bool(vma.flags & (VM_READ | VM_WRITE | VM_EXEC))
    shared_writable = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
    vma.page_prot = fmt.mk_pte(
        0,
        write=shared_writable and not vma.wants_writenotify,
        execute=execute,
        accessed=True,
        protnone=not accessible,
    )
    vma.page_prot_write = fmt.mk_pte(
        0, write=bool(vma.flags & VM_WRITE), execute=execute, accessed=True, dirty=True, protnone=not accessible
    )


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
