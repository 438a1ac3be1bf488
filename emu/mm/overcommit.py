"""How much memory processes may be promised: Committed_AS against CommitLimit, in three modes.

What counts is private memory that may be written (VM_ACCOUNT) and shared anonymous memory; MAP_NORESERVE is neither,
but in mode 2. Modes (vm.overcommit_memory): 0 refuses only what could never fit, 1 refuses nothing, 2 keeps the sum
under CommitLimit, less some for the administrator and for the user.

Source: Linux v6.12 mm/util.c: __vm_enough_memory(), vm_commit_limit(); mm/mmap.c: init_user_reserve(),
init_admin_reserve(), accountable_mapping().
"""

import errno

from emu.mm.kernel import Kernel
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VM_NORESERVE, VM_SHARED, VM_WRITE

OVERCOMMIT_GUESS, OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER = 0, 1, 2

_ADMIN_RESERVE_KB = 1 << 13
_USER_RESERVE_KB = 1 << 17
"""Most that is kept back; on small machines a 32nd of memory."""


def accountable_mapping(vm_flags: int) -> bool:
    """Tell whether a mapping is a promise: private, to be written, and not MAP_NORESERVE."""
    return vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE


def vm_commit_limit(k: Kernel) -> int:
    """Return CommitLimit in pages: overcommit_ratio percent of memory, and all of swap."""
    return k.ram.nr_frames * k.options.overcommit_ratio // 100 + k.swap.total_pages


def vm_enough_memory(k: Kernel, mm: Mm | None, nr_pages: int) -> None:
    """Promise `nr_pages` more (fewer, if negative), or raise ENOMEM. No mm: the administrator asks."""
    committed = k.vm_committed_as + nr_pages
    if nr_pages > 0 and not _is_enough(k, mm, nr_pages, committed):
        raise OSError(
            errno.ENOMEM,
            f"{nr_pages} pages more are not promised: {k.vm_committed_as} are, overcommit mode"
            f" {k.options.overcommit_memory}, RAM {k.ram.nr_frames} and swap {k.swap.total_pages} pages",
        )
    k.vm_committed_as = committed


def _is_enough(k: Kernel, mm: Mm | None, nr_pages: int, committed: int) -> bool:
    mode = k.options.overcommit_memory
    if mode == OVERCOMMIT_ALWAYS:
        return True
    if mode == OVERCOMMIT_GUESS:
        return nr_pages <= k.ram.nr_frames + k.swap.total_pages
    allowed = vm_commit_limit(k)
    if mm is not None:
        if not mm.privileged:
            allowed -= _reserve(k, _ADMIN_RESERVE_KB)
        # Not so much for one process that the user could not do anything about it.
        allowed -= min(mm.total_vm // 32, _reserve(k, _USER_RESERVE_KB))
    return committed < allowed


def _reserve(k: Kernel, most_kb: int) -> int:
    """Return in pages the least of `most_kb` and a 32nd of memory."""
    kb_a_page = k.page_size // 1024
    return min(k.ram.nr_frames * kb_a_page // 32, most_kb) // kb_a_page


def vm_unacct_memory(k: Kernel, nr_pages: int) -> None:
    """Take a promise back."""
    k.vm_committed_as -= nr_pages
