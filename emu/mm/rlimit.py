"""Resource limits of a process as far as they concern its memory; a privileged one may lock as much as it likes.

The bound on nonlinear pages is a machine's (nonlinear_max_pages), for each process that is not privileged: one proposal
of 2007 against what walking them all can cost others. Linux never had it.

Source: Linux v6.12 kernel/sys.c: do_prlimit(); mm/mmap.c: may_expand_vm(), mlock_future_ok(); mm/mlock.c:
can_do_mlock(), count_mm_mlocked_page_nr(); the limits at the start, include/asm-generic/resource.h: INIT_RLIMITS.
"""

import errno
import resource

from emu.mm.kernel import Kernel
from emu.mm_types.mm import RLIM_INFINITY, Mm
from emu.mm_types.vma import VM_GROWSDOWN, VM_LOCKED, VM_NONLINEAR, VM_SHARED, VM_WRITE

RLIMIT_AS, RLIMIT_DATA = resource.RLIMIT_AS, resource.RLIMIT_DATA
RLIMIT_MEMLOCK, RLIMIT_STACK = resource.RLIMIT_MEMLOCK, resource.RLIMIT_STACK


def getrlimit(mm: Mm, which: int) -> tuple[int, int]:
    """Return the soft and the hard limit in bytes. EINVAL for limits that do not concern memory."""
    if which not in mm.rlim:
        raise OSError(errno.EINVAL, f"limit {which} is none of RLIMIT_AS, DATA, STACK and MEMLOCK")
    return mm.rlim[which]


def setrlimit(mm: Mm, which: int, soft: int, hard: int) -> None:
    """Set a soft and a hard limit, -1 for none. EINVAL (soft above hard), EPERM (hard one raised without privilege)."""
    _, old_hard = getrlimit(mm, which)
    soft, hard = (RLIM_INFINITY if limit == -1 else limit for limit in (soft, hard))
    if not 0 <= soft <= hard:
        raise OSError(errno.EINVAL, f"the soft limit {soft} is negative or above the hard one, {hard}")
    if hard > old_hard and not mm.privileged:
        raise OSError(errno.EPERM, "only a privileged process may raise its hard limit")
    mm.rlim[which] = (soft, hard)


def _pages(mm: Mm, which: int) -> int:
    return mm.rlim[which][0] >> mm.page_shift


def may_expand_vm(mm: Mm, vm_flags: int, nr_pages: int) -> bool:
    """Tell whether the address space may grow: by RLIMIT_AS, and RLIMIT_DATA for private memory to be written."""
    if mm.total_vm + nr_pages > _pages(mm, RLIMIT_AS):
        return False
    if not _is_data_mapping(vm_flags) or nr_pages <= 0:
        return True
    return data_vm(mm) + nr_pages <= _pages(mm, RLIMIT_DATA)


def _is_data_mapping(vm_flags: int) -> bool:
    """Tell whether RLIMIT_DATA counts a mapping: private, to be written, no stack (v5.19 mm/internal.h)."""
    return vm_flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE


def data_vm(mm: Mm) -> int:
    """Return how many pages RLIMIT_DATA counts; a walk, only where there is a limit."""
    if mm.rlim[RLIMIT_DATA][0] == RLIM_INFINITY:
        return 0
    return sum(vma.nr_pages for vma in mm.vmas if _is_data_mapping(vma.flags))


def require_room(mm: Mm, vm_flags: int, nr_pages: int) -> None:
    """Raise ENOMEM if the address space may not grow by `nr_pages`."""
    if not may_expand_vm(mm, vm_flags, nr_pages):
        raise OSError(errno.ENOMEM, f"{nr_pages} pages more would exceed RLIMIT_AS or RLIMIT_DATA")


def require_nonlinear(k: Kernel, mm: Mm, vm_flags: int, nr_pages: int) -> None:
    """Raise EPERM if `nr_pages` more, where they are nonlinear, would exceed the machine's bound.

    A fork need not ask: the child has as many as its parent.
    """
    bound = k.options.nonlinear_max_pages
    if bound and vm_flags & VM_NONLINEAR and not mm.privileged and mm.nr_nonlinear + nr_pages > bound:
        raise OSError(errno.EPERM, f"{nr_pages} pages more would exceed the bound of {bound} nonlinear pages")


def can_do_mlock(mm: Mm) -> None:
    """Raise EPERM if the process may not lock anything."""
    if not mm.privileged and not mm.rlim[RLIMIT_MEMLOCK][0]:
        raise OSError(errno.EPERM, "RLIMIT_MEMLOCK is 0, and the process is not privileged")


def mlock_future_ok(mm: Mm, vm_flags: int, nr_pages: int) -> bool:
    """Tell whether `nr_pages` more may be mapped with these flags, as far as they are locked."""
    if not vm_flags & VM_LOCKED or mm.privileged:
        return True
    return mm.locked_vm + nr_pages <= _pages(mm, RLIMIT_MEMLOCK)


def require_lockable(mm: Mm, vm_flags: int, nr_pages: int) -> None:
    """Raise EAGAIN if what is to be mapped would be locked beyond RLIMIT_MEMLOCK."""
    if not mlock_future_ok(mm, vm_flags, nr_pages):
        raise OSError(errno.EAGAIN, f"{nr_pages} pages more would be locked beyond RLIMIT_MEMLOCK")


def require_mlock(mm: Mm, start: int, end: int) -> None:
    """Raise ENOMEM if locking [start, end) would exceed RLIMIT_MEMLOCK; what is locked there already counts once."""
    if mm.privileged:
        return
    again = sum(
        (min(vma.end, end) - max(vma.start, start)) >> mm.page_shift
        for vma in mm.vmas.overlapping(start, end)
        if vma.flags & VM_LOCKED
    )
    if mm.locked_vm + ((end - start) >> mm.page_shift) - again > _pages(mm, RLIMIT_MEMLOCK):
        raise OSError(errno.ENOMEM, f"mlock of {end - start} bytes would exceed RLIMIT_MEMLOCK")


def require_mlockall(mm: Mm) -> None:
    """Raise ENOMEM if all that is mapped may not be locked."""
    if not mm.privileged and mm.total_vm > _pages(mm, RLIMIT_MEMLOCK):
        raise OSError(errno.ENOMEM, "mlockall would exceed RLIMIT_MEMLOCK")
