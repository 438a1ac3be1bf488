"""remap_file_pages by ordinary VMAs, as Linux does it since v4.0.

Source: Linux v4.6 mm/mmap.c: sys_remap_file_pages(), with the fix that lets a call span adjacent VMAs of one file.
"""

import contextlib
import errno
from functools import partial

from emu.errors import BusError, OutOfMemory
from emu.mm.file import File
from emu.mm.inode import Inode
from emu.mm.kernel import Kernel
from emu.mm.mmap import (
    MAP_FIXED,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_POPULATE,
    MAP_SHARED,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    do_mmap,
)
from emu.mm.rmap import vma_nbytes
from emu.mm.syscalls import make_pages_present
from emu.mm_types.mm import Mm
from emu.mm_types.remapped import RemappedVmas
from emu.mm_types.vma import VM_EXEC, VM_LOCKED, VM_READ, VM_WRITE, VmArea


def remap_with_vmas(k: Kernel, mm: Mm, vma: VmArea, start: int, nbytes: int, pgoff: int, flags: int) -> None:
    """Map [start, start + nbytes) anew from page `pgoff`; `vma` holds `start`, and mmap_sem is held for writing.

    Errors: EINVAL if the range leaves the adjacent mappings of that file, ENOMEM beyond max_map_count.
    """
    end = start + nbytes
    last = vma
    mapped = [vma]
    while last.end < end:
        following = last.vm_next
        if (
            not k.rmap.remap_spans_vmas
            or following is None
            or following.start != last.end
            or following.mapping is not vma.mapping
            or following.flags != vma.flags
        ):
            raise OSError(errno.EINVAL, f"{nbytes:#x} bytes at {start:#x} do not lie within mappings of one file")
        last = following
        mapped.append(last)
    prot = (
        (PROT_READ if vma.flags & VM_READ else 0)
        | (PROT_WRITE if vma.flags & VM_WRITE else 0)
        | (PROT_EXEC if vma.flags & VM_EXEC else 0)
    )
    locked = MAP_LOCKED if vma.flags & VM_LOCKED else 0
    assert vma.mapping is not None
    inode = vma.mapping.host
    assert isinstance(inode, Inode)
    for one in mapped:
        _count(k, one, None)
    remapped, i_mmap = vma.remapped, vma.mapping.i_mmap
    visits = mm.map_count.bit_length() - mm.vmas.visits - i_mmap.visits
    # The new VMA may replace the only one, which must not end shared anonymous memory (get_file).
    inode.mapping.refcount += 1
    try:
        file = File(inode, writable=inode.writable)
        do_mmap(k, mm, start, nbytes, prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE | locked, file, pgoff)
    finally:
        inode.mapping.refcount -= 1
        visits += mm.vmas.visits + i_mmap.visits
        k.rmap.cost.node_visits += visits
        k.locks.visits.total += visits
    made = mm.vmas.find(start)
    if made is not None:
        _count(k, made, remapped)
    k.vmstat.nr_remap += nbytes >> k.page_shift
    if locked or not flags & MAP_NONBLOCK:
        # The mapping stands, whether it could be populated or not (mm_populate).
        with contextlib.suppress(BusError, OutOfMemory):
            make_pages_present(k, mm, start, end)


def _count(k: Kernel, vma: VmArea, remapped: RemappedVmas | None) -> None:
    """Have a VMA counted, if it is not yet, with those that were made of its mapping (None: of it alone so far)."""
    if vma.remapped is None:
        vma.remapped = remapped or RemappedVmas(partial(_vmas_made, k))
        vma.remapped.add(1)


def _vmas_made(k: Kernel, nr_vmas: int) -> None:
    k.rmap.cost.set_bytes(k.rmap.cost.nbytes + nr_vmas * vma_nbytes(k.fmt))
