"""MAP_GROWSDOWN: a mapping that grows to the address of an access below it, down to a gap before its neighbour.

Source: Linux v6.12 mm/mmap.c: expand_downwards(), acct_stack_growth().
"""

from emu.mm.anon_vma import anon_vma_link, anon_vma_prepare, anon_vma_take
from emu.mm.kernel import Kernel
from emu.mm.mmap import MMAP_MIN_ADDR
from emu.mm.overcommit import vm_enough_memory, vm_unacct_memory
from emu.mm.rlimit import RLIMIT_STACK, may_expand_vm, mlock_future_ok
from emu.mm_types.mm import Mm
from emu.mm_types.vma import STACK_GUARD_GAP, VM_ACCOUNT, VM_EXEC, VM_GROWSDOWN, VM_LOCKED, VM_READ, VM_WRITE, VmArea


def expand_stack(k: Kernel, mm: Mm, vma: VmArea, vaddr: int) -> bool:
    """Let a VMA begin at the page of `vaddr`, below it; False if it may not: not such a VMA, a limit, the guard gap."""
    vaddr &= -k.page_size
    if not vma.flags & VM_GROWSDOWN or vaddr < MMAP_MIN_ADDR:
        return False
    below = vma.vm_prev
    # Memory without any access is as good a guard as a gap.
    guarded = below is None or below.flags & VM_GROWSDOWN or not below.flags & (VM_READ | VM_WRITE | VM_EXEC)
    if not guarded and below is not None and vaddr - below.end < STACK_GUARD_GAP << k.page_shift:
        return False
    # Before any limit is asked: what is refused leaves it behind, and forks copy what was only read (expand_downwards).
    anon_vma_prepare(k, vma)
    grow = (vma.start - vaddr) >> k.page_shift
    if grow > vma.pgoff or not _acct_stack_growth(k, mm, vma, vma.end - vaddr, grow):
        return False
    anon_vma_take(vma)
    vma.pgoff -= grow
    mm.vmas.resize(vma, vaddr, vma.end)
    anon_vma_link(vma)
    mm.total_vm += grow
    if vma.flags & VM_LOCKED:
        mm.locked_vm += grow
    return True


def _acct_stack_growth(k: Kernel, mm: Mm, vma: VmArea, nbytes: int, grow: int) -> bool:
    """Ask every limit, and promise the memory.

    Linux asks whether there is enough for any such VMA, and of one without VM_ACCOUNT (read-only, MAP_NORESERVE) never
    takes the promise back: Committed_AS stays too high for good. Here such a VMA is asked for just the same, and
    promised nothing.
    """
    if not may_expand_vm(mm, vma.flags, grow) or nbytes > mm.rlim[RLIMIT_STACK][0]:
        return False
    if not mlock_future_ok(mm, vma.flags, grow):
        return False
    try:
        vm_enough_memory(k, mm, grow)
    except OSError:
        return False
    if not vma.flags & VM_ACCOUNT:
        vm_unacct_memory(k, grow)
    return True
