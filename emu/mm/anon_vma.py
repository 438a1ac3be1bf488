"""The reverse map of anonymous pages: which VMAs may map one, and at what address.

Source: Linux v2.6.20 mm/rmap.c: anon_vma_prepare(), anon_vma_link(), anon_vma_unlink(), page_referenced_anon();
mm/mmap.c: find_mergeable_anon_vma(), is_mergeable_anon_vma().
"""

from emu.errors import KernelBug
from emu.mm.kernel import Kernel
from emu.mm_types.anon_vma import AnonVma
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VM_EXEC, VM_READ, VM_WRITE, VmArea

_VM_ACCESS = VM_READ | VM_WRITE | VM_EXEC


def anon_vma_prepare(k: Kernel, vma: VmArea) -> AnonVma:
    """Return a VMA's anon_vma, before its first private page; a neighbour's if the two might merge one day."""
    anon_vma = vma.anon_vma
    if anon_vma is None:
        anon_vma = _find_mergeable_anon_vma(vma)
        if anon_vma is None:
            anon_vma = AnonVma(k.new_ident())
            k.anon_vmas[anon_vma.ident] = anon_vma
        vma.anon_vma = anon_vma
        anon_vma_link(vma)
    return anon_vma


def _find_mergeable_anon_vma(vma: VmArea) -> AnonVma | None:
    """Look at the neighbours: an mprotect may yet make them and this one alike; not if they came from a parent."""
    above = vma.vm_next
    if above is not None and above.anon_vma is not None and not above.anon_branch and _continues(vma, above):
        return above.anon_vma
    below = vma.vm_prev
    if below is not None and below.anon_vma is not None and not below.anon_branch and _continues(below, vma):
        return below.anon_vma
    return None


def _continues(lower: VmArea, upper: VmArea) -> bool:
    if lower.end != upper.start or not is_same_file(lower, upper):
        return False
    return not (lower.flags ^ upper.flags) & ~_VM_ACCESS and lower.pgoff + lower.nr_pages == upper.pgoff


def is_same_file(lower: VmArea, upper: VmArea) -> bool:
    """Tell whether two VMAs are of one vm_file, or both of none."""
    return lower.mapping is upper.mapping and lower.file_writable == upper.file_writable


def is_mergeable_anon_vma(lower: VmArea, upper: VmArea) -> bool:
    """Tell whether two VMAs may become one for their private pages: one has none, or both are in one family.

    What came from a parent is not extended, and stays apart from what came from another of its mappings: there each
    has an anon_vma of its own (v6.12 mm/vma.c: is_mergeable_anon_vma()).
    """
    if lower.anon_vma is None or upper.anon_vma is None:
        return not lower.anon_branch and not upper.anon_branch
    return lower.anon_vma is upper.anon_vma and lower.anon_branch == upper.anon_branch


def anon_vma_link(vma: VmArea) -> None:
    """File a VMA under its anon_vma, if it has one; its place must not change while it is filed."""
    if vma.anon_vma is not None:
        vma.anon_vma.vmas.insert(vma)


def anon_vma_take(vma: VmArea) -> None:
    """Take a VMA whose borders are about to change from its anon_vma; anon_vma_link files it again."""
    if vma.anon_vma is not None:
        vma.anon_vma.vmas.remove(vma)


def anon_vma_unlink(k: Kernel, vma: VmArea) -> None:
    """Take a VMA that is going from its anon_vma, for good; the last one takes that with it."""
    anon_vma = vma.anon_vma
    if anon_vma is not None:
        anon_vma.vmas.remove(vma)
        vma.anon_vma = None
        vma.anon_branch = 0
        if not anon_vma.vmas:
            del k.anon_vmas[anon_vma.ident]


def anon_ptes(k: Kernel, pfn: int) -> list[tuple[Mm, VmArea, int, int]]:
    """Return (mm, vma, vaddr, pte) for each PTE that maps an anonymous page (page_check_address)."""
    mem_map, fmt = k.mem_map, k.fmt
    if not mem_map.mapcount[pfn]:
        return []
    anon_vma = k.anon_vmas.get(mem_map.mapping[pfn])
    if anon_vma is None:
        raise KernelBug(f"no anon_vma for a mapped page: {mem_map.describe(pfn)}")
    found = []
    index = mem_map.index[pfn]
    for vma in anon_vma.vmas.stab(index):
        vaddr = vma.vma_address(index)
        pte = vma.mm.pt.get(vaddr)
        if fmt.pte_present(pte) and fmt.pte_pfn(pte) == pfn:
            found.append((vma.mm, vma, vaddr, pte))
    return found
