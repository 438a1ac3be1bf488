"""brk: the heap, one private anonymous mapping that grows and shrinks at its end.

Source: Linux v6.12 mm/mmap.c: sys_brk(), do_brk_flags(), check_brk_limits().
"""

import contextlib

from emu.errors import BusError, OutOfMemory
from emu.mm.kernel import Kernel
from emu.mm.mmap import do_munmap, page_align
from emu.mm.overcommit import vm_enough_memory
from emu.mm.rlimit import RLIMIT_DATA, require_lockable, require_room
from emu.mm.syscalls import make_pages_present
from emu.mm.vma_ops import merge_around, new_vma, vma_link
from emu.mm_types.mm import Mm
from emu.mm_types.vma import (
    VM_ACCOUNT,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_WRITE,
)

_VM_DATA = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC


def do_brk(k: Kernel, mm: Mm, vaddr: int) -> int:
    """Move the end of the heap to `vaddr`, if that can be; return where it is now.

    As the system call: whatever stands in the way, it does not fail, but leaves the end where it was.
    """
    if vaddr < mm.start_brk or vaddr - mm.start_brk > mm.rlim[RLIMIT_DATA][0]:
        return mm.brk
    old_end, new_end = page_align(k, mm.brk), page_align(k, vaddr)
    try:
        if new_end < old_end:
            if not mm.vmas.overlapping(new_end, old_end):
                return mm.brk
            do_munmap(k, mm, new_end, old_end - new_end)
        elif new_end > old_end:
            _grow(k, mm, old_end, new_end)
    except OSError:
        return mm.brk
    mm.brk = vaddr
    return vaddr


def _grow(k: Kernel, mm: Mm, start: int, end: int) -> None:
    """Map [start, end), with a page to spare before the next mapping; an OSError where that cannot be."""
    following = mm.vmas.find(start)
    if end + k.page_size > mm.task_size or (following is not None and end + k.page_size > following.start_gap):
        raise OSError("the heap has no room to grow")
    flags = _VM_DATA | VM_ACCOUNT | mm.def_flags
    nr_pages = (end - start) >> k.page_shift
    require_lockable(mm, flags, nr_pages)
    require_room(mm, flags, nr_pages)
    if mm.map_count > k.options.max_map_count:
        raise OSError("too many mappings")
    vm_enough_memory(k, mm, nr_pages)
    vma = new_vma(k, mm, start, end, flags, start >> k.page_shift, None)
    vma_link(mm, vma)
    merge_around(k, mm, vma)
    if flags & VM_LOCKED:
        with contextlib.suppress(BusError, OutOfMemory):
            make_pages_present(k, mm, start, end)
