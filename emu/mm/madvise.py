"""madvise: what a process says of its memory, of which some is law and some a hint.

Source: Linux v2.6.20 mm/madvise.c: madvise_vma(), madvise_dontneed(); what came later, v6.12 mm/madvise.c:
madvise_vma_behavior(), madvise_populate(), can_madv_lru_vma(); mm/ksm.c: ksm_madvise().
"""

import errno
import mmap as host_mmap

from emu.errors import BusError, OutOfMemory
from emu.mm.fault import handle_mm_fault
from emu.mm.filemap import max_pgoff, read_pages
from emu.mm.inode import Inode
from emu.mm.kernel import Kernel
from emu.mm.madvise_lru import force_swapin_readahead, madvise_cold_or_pageout, madvise_free
from emu.mm.memory import ZapDetails, zap_page_range
from emu.mm.syscalls import page_range, vmas_of
from emu.mm.truncate import truncate_range
from emu.mm.vma_ops import isolate, merge_around
from emu.mm_types.mm import Mm
from emu.mm_types.vma import (
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_NONLINEAR,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    VmArea,
)

MADV_WILLNEED = host_mmap.MADV_WILLNEED
MADV_DONTNEED = host_mmap.MADV_DONTNEED
MADV_FREE = 8
MADV_REMOVE = 9
MADV_MERGEABLE = 12
MADV_WIPEONFORK = 18
MADV_COLD, MADV_PAGEOUT = 20, 21
MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
MADV_DONTNEED_LOCKED = 24

_BEHAVIOR = {
    host_mmap.MADV_NORMAL: (0, VM_RAND_READ | VM_SEQ_READ),
    host_mmap.MADV_RANDOM: (VM_RAND_READ, VM_SEQ_READ),
    host_mmap.MADV_SEQUENTIAL: (VM_SEQ_READ, VM_RAND_READ),
    10: (VM_DONTCOPY, 0),
    11: (0, VM_DONTCOPY),
    MADV_MERGEABLE: (VM_MERGEABLE, 0),
    13: (0, VM_MERGEABLE),
    14: (VM_HUGEPAGE, VM_NOHUGEPAGE),
    15: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    16: (VM_DONTDUMP, 0),
    17: (0, VM_DONTDUMP),
    MADV_WIPEONFORK: (VM_WIPEONFORK, 0),
    19: (0, VM_WIPEONFORK),
}
"""Advices that change flags of the VMA: what they set, what they clear."""
_KNOWN = frozenset(_BEHAVIOR) | {
    MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ,
    MADV_POPULATE_WRITE, MADV_DONTNEED_LOCKED,
}  # fmt: skip


def do_madvise(k: Kernel, mm: Mm, vaddr: int, nbytes: int, advice: int) -> None:
    """Act on advice. MERGEABLE and DONTDUMP are noted, and nothing comes of them.

    Errors: EINVAL (unknown advice, or not for this kind of mapping), ENOMEM for a hole (the rest is advised), EACCES
    and EFAULT of single advices.
    """
    if advice not in _KNOWN:
        raise OSError(errno.EINVAL, f"madvise {advice} is not among {', '.join(map(str, sorted(_KNOWN)))}")
    start, end = page_range(k, vaddr, nbytes, "madvise", errno.EINVAL)
    if nbytes and start == end:
        raise OSError(errno.EINVAL, f"madvise of {nbytes} bytes")
    if advice in {MADV_POPULATE_READ, MADV_POPULATE_WRITE}:
        _madvise_populate(k, mm, start, end, write=advice == MADV_POPULATE_WRITE)
        return
    holes: list[int] = []
    for vma in vmas_of(mm, start, end, holes):
        _madvise_vma(k, mm, vma, max(vma.start, start), min(vma.end, end), advice)
    if holes:
        raise OSError(errno.ENOMEM, f"nothing is mapped at {holes[0]:#x}")


def _madvise_vma(k: Kernel, mm: Mm, vma: VmArea, start: int, end: int, advice: int) -> None:
    """Advise the part [start, end) of one VMA."""
    if advice in {MADV_DONTNEED, MADV_DONTNEED_LOCKED}:
        if vma.flags & VM_LOCKED and advice == MADV_DONTNEED:
            raise OSError(errno.EINVAL, f"the memory at {start:#x} is locked")
        _madvise_dontneed(k, vma, start, end)
    elif advice == MADV_WILLNEED:
        _madvise_willneed(k, vma, start, end)
    elif advice == MADV_REMOVE:
        _madvise_remove(k, vma, start, end)
    elif advice == MADV_FREE:
        madvise_free(k, vma, start, end)
    elif advice in {MADV_COLD, MADV_PAGEOUT}:
        madvise_cold_or_pageout(k, vma, start, end, pageout=advice == MADV_PAGEOUT)
    else:
        _madvise_behavior(k, mm, vma, start, end, advice)


def _madvise_dontneed(k: Kernel, vma: VmArea, start: int, end: int) -> None:
    """Drop the pages; a nonlinear VMA keeps its page order in file PTEs."""
    zap_page_range(k, vma, start, end, ZapDetails(even_cows=True) if vma.flags & VM_NONLINEAR else None)


def _madvise_remove(k: Kernel, vma: VmArea, start: int, end: int) -> None:
    """Punch a hole into the file, where a linear, shared, writable VMA shows it (madvise_remove)."""
    if vma.flags & (VM_LOCKED | VM_NONLINEAR) or vma.mapping is None:
        raise OSError(errno.EINVAL, f"MADV_REMOVE takes linear file mappings that are not locked, not {vma!r}")
    # That it might be made writable is enough (v6.12 mm/madvise.c: madvise_remove(); v2.6.20 asked for VM_WRITE).
    if vma.flags & (VM_SHARED | VM_MAYWRITE) != VM_SHARED | VM_MAYWRITE:
        raise OSError(errno.EACCES, "MADV_REMOVE takes shared mappings of files open for writing")
    inode = vma.mapping.host
    assert isinstance(inode, Inode)
    truncate_range(k, inode, vma.linear_pgoff(start), vma.linear_pgoff(end))


def _madvise_willneed(k: Kernel, vma: VmArea, start: int, end: int) -> None:
    if k.swap.areas:
        force_swapin_readahead(k, vma, start, end)
    if vma.mapping is None or vma.mapping.swappable:
        return
    first = vma.linear_pgoff(start)
    stop = min(vma.linear_pgoff(end), max_pgoff(k, vma.mapping))
    room = max(k.ram.nr_free - k.watermarks.high, 0)
    if stop > first:
        read_pages(k, vma.mapping, first, min(stop - first, room))


def _madvise_populate(k: Kernel, mm: Mm, start: int, end: int, *, write: bool) -> None:
    """Fault a range in, for reading or as if every page were written, up to the first that fails."""
    place = start
    needed = VM_WRITE if write else VM_READ
    while place < end:
        vma = mm.vmas.find(place)
        if vma is None or vma.start > place:
            raise OSError(errno.ENOMEM, f"nothing is mapped at {place:#x}")
        if not vma.flags & needed:
            raise OSError(errno.EINVAL, f"the memory at {place:#x} does not allow that access")
        try:
            for vaddr in range(place, min(vma.end, end), k.page_size):
                pte = mm.pt.get(vaddr)
                if not k.fmt.pte_present(pte) or (write and not k.fmt.pte_write(pte)):
                    handle_mm_fault(k, mm, vma, vaddr, write=write)
        except BusError as error:
            raise OSError(errno.EFAULT, f"the memory at {error.vaddr:#x} lies beyond the file") from None
        except OutOfMemory as error:
            raise OSError(errno.ENOMEM, str(error)) from None
        place = min(vma.end, end)


def _madvise_behavior(k: Kernel, mm: Mm, vma: VmArea, start: int, end: int, advice: int) -> None:
    """Change flags of the VMA, which is split and merged for it."""
    if advice == MADV_WIPEONFORK and (vma.mapping is not None or vma.flags & VM_MAYSHARE):
        raise OSError(errno.EINVAL, "MADV_WIPEONFORK takes private anonymous memory")
    if advice == MADV_MERGEABLE and vma.flags & VM_MAYSHARE:
        return
    sets, clears = _BEHAVIOR[advice]
    flags = vma.flags & ~clears | sets
    if flags != vma.flags:
        vma = isolate(k, mm, vma, start, end)
        vma.flags = flags
        merge_around(k, mm, vma)
