"""mmap and munmap.

Source: Linux v2.6.23 mm/mmap.c: do_mmap_pgoff(), get_unmapped_area(), do_munmap(), unmap_region(); in which order
arguments are refused, Linux v6.12 mm/mmap.c: ksys_mmap_pgoff(), do_mmap(); where MAP_32BIT leads, v6.12
arch/x86/kernel/sys_x86_64.c: find_start_end().
"""

import errno
import mmap as host_mmap
from typing import TYPE_CHECKING

from emu.mm.errseq import sample_wb_err
from emu.mm.file import File
from emu.mm.inode import Inode, open_shmem
from emu.mm.kernel import Kernel
from emu.mm.memory import pte_flags, pte_pfns, zap_page_range
from emu.mm.mlock import munlock_page
from emu.mm.overcommit import OVERCOMMIT_NEVER, accountable_mapping, vm_enough_memory, vm_unacct_memory
from emu.mm.rlimit import can_do_mlock, require_lockable, require_room
from emu.mm.vma_ops import cut_vma, merge_around, new_vma, remove_vma, vma_link
from emu.mm_types.mm import Mm
from emu.mm_types.vma import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    VmArea,
)

if TYPE_CHECKING:
    from emu.mm_types.address_space import AddressSpace

PROT_READ, PROT_WRITE, PROT_EXEC = host_mmap.PROT_READ, host_mmap.PROT_WRITE, host_mmap.PROT_EXEC
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = host_mmap.MAP_SHARED, host_mmap.MAP_PRIVATE, host_mmap.MAP_ANONYMOUS
MAP_FIXED = 0x10
MAP_32BIT = 0x40
MAP_GROWSDOWN = 0x100
MAP_LOCKED = 0x2000
MAP_NORESERVE = 0x4000
MAP_POPULATE = 0x8000
MAP_NONBLOCK = 0x10000
MAP_STACK = 0x20000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
MAP_SHARED_VALIDATE = 3
_MAP_TYPE = 0xF
_MAP_KNOWN = 0x7C07_F9F3
"""LEGACY_MAP_MASK of Linux v6.12 include/linux/mman.h on x86."""

WORD = 1 << 64
"""Numbers of bytes are machine words."""
MAX_LFS_FILESIZE = (1 << 63) - 1

MMAP_MIN_ADDR = 0x10000
"""Lowest address that mmap gives or takes (vm.mmap_min_addr)."""
_LOW_START, _LOW_END = 1 << 30, 1 << 31
_LONG_MODE = frozenset({"x86_64", "x86_64_la57"})
"""Where MAP_32BIT maps, and the formats whose programs can ask for it."""


def prot_to_flags(prot: int) -> int:
    """Translate PROT_* to VM_* (calc_vm_prot_bits)."""
    return (
        (VM_READ if prot & PROT_READ else 0)
        | (VM_WRITE if prot & PROT_WRITE else 0)
        | (VM_EXEC if prot & PROT_EXEC else 0)
    )


def page_align(k: Kernel, nbytes: int) -> int:
    """Round up to whole pages."""
    return (nbytes + k.page_size - 1) & -k.page_size


def align_word(k: Kernel, nbytes: int) -> int:
    """Round a machine word up to whole pages, as the kernel does: what is too large wraps to 0."""
    return page_align(k, nbytes % WORD) % WORD


def do_mmap(
    k: Kernel,
    mm: Mm,
    vaddr: int,
    nbytes: int,
    prot: int,
    flags: int,
    file: File | None,
    pgoff: int,
) -> int:
    """Map `nbytes` of a file from page `pgoff`, or of anonymous memory, and return where.

    Errors: EINVAL (no length, a type that is neither MAP_SHARED nor MAP_PRIVATE, MAP_FIXED off a page border,
    MAP_HUGETLB: there is no hugetlbfs here), ENOMEM (no room, max_map_count, outside user space, a limit, overcommit),
    EACCES (a file that is not open for reading, or for writing where it is to be written), ENODEV (no regular file),
    EEXIST (MAP_FIXED_NOREPLACE), EOVERFLOW, EPERM (MAP_LOCKED without a right to lock, PROT_EXEC on a noexec mount, a
    seal) and EAGAIN (MAP_LOCKED beyond RLIMIT_MEMLOCK).
    """
    if flags & MAP_HUGETLB:
        raise OSError(errno.EINVAL, "there are no huge pages to be asked for (MAP_HUGETLB)")
    nbytes = _check_mmap(k, mm, nbytes, pgoff)
    vaddr = get_unmapped_area(k, mm, vaddr, nbytes, flags)
    vm_flags = _vm_flags(k, mm, prot, flags)
    if flags & MAP_LOCKED:
        can_do_mlock(mm)
    require_lockable(mm, vm_flags, nbytes >> k.page_shift)
    if file is not None:
        if file.inode is not None and pgoff > (MAX_LFS_FILESIZE - nbytes) >> k.page_shift:
            raise OSError(errno.EOVERFLOW, "no file is that long")
        vm_flags = _check_file(file, prot, flags, vm_flags)
        inode, writable = file.inode, file.writable
    else:
        # Shared memory gets a file of its own, open for both (shmem_zero_setup).
        inode, writable = None, True
        if _is_shared(flags, None):
            vm_flags |= VM_SHARED | VM_MAYSHARE
            if vm_flags & VM_GROWSDOWN:
                raise OSError(errno.EINVAL, "MAP_GROWSDOWN takes private anonymous memory")
    if inode is not None:
        sample_wb_err(mm, inode.mapping)
    return _mmap_region(k, mm, vaddr, nbytes, vm_flags, inode, pgoff, writable=writable)


def _check_file(file: File, prot: int, flags: int, vm_flags: int) -> int:
    """Refuse what a file, or how it was opened, does not allow; return the VM_* that are left."""
    if _is_shared(flags, file):
        if prot & PROT_WRITE and not file.writable:
            raise OSError(errno.EACCES, f"{file.name} is not open for writing")
        vm_flags |= VM_SHARED | VM_MAYSHARE
        if not file.writable:
            # As the kernel does: mprotect(PROT_WRITE) then fails, too.
            vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
    if not file.readable:
        raise OSError(errno.EACCES, f"{file.name} is not open for reading, which every mapping needs")
    if file.inode is None:
        raise OSError(errno.ENODEV, "only regular files can be mapped")
    if vm_flags & VM_EXEC and file.inode.noexec:
        raise OSError(errno.EPERM, f"{file.name} lies on a mount that forbids to execute it (noexec)")
    if vm_flags & VM_GROWSDOWN:
        raise OSError(errno.EINVAL, "MAP_GROWSDOWN takes private anonymous memory")
    if file.sealed and vm_flags & VM_SHARED and prot & PROT_WRITE:
        raise OSError(errno.EPERM, f"{file.name} is sealed against writing")
    return vm_flags & ~_never(file, vm_flags)


def _never(file: File, vm_flags: int) -> int:
    """Return which VM_MAY* a mapping of a file does not have, so that mprotect cannot give it more either."""
    assert file.inode is not None
    never = VM_MAYEXEC if file.inode.noexec else 0
    return never | VM_MAYWRITE if file.sealed and vm_flags & VM_SHARED else never


def _vm_flags(k: Kernel, mm: Mm, prot: int, flags: int) -> int:
    """Translate PROT_* and MAP_* to VM_* (calc_vm_prot_bits, calc_vm_flag_bits)."""
    vm_flags = prot_to_flags(prot) | mm.def_flags | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    if flags & MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_STACK:
        # As since v6.7.
        vm_flags |= VM_NOHUGEPAGE
    if flags & MAP_NORESERVE and k.options.overcommit_memory != OVERCOMMIT_NEVER:
        vm_flags |= VM_NORESERVE
    return vm_flags


def _mmap_region(
    k: Kernel,
    mm: Mm,
    vaddr: int,
    nbytes: int,
    vm_flags: int,
    inode: Inode | None,
    pgoff: int,
    *,
    writable: bool,
) -> int:
    """Promise the memory, unmap what lies there, and link the new VMA; return where (mmap_region)."""
    nr_pages = nbytes >> k.page_shift
    nr_replaced, nr_accounted = _count_replaced(k, mm, vaddr, vaddr + nbytes)
    charged = 0
    try:
        require_room(mm, vm_flags, nr_pages - nr_replaced)
        if accountable_mapping(vm_flags):
            vm_flags |= VM_ACCOUNT
            charged = nr_pages - nr_accounted
            vm_enough_memory(k, mm, charged)
    except OSError:
        # What was to be replaced has been cut off already, and stays so (v6.12 mm/vma.c: vms_gather_munmap_vmas()).
        _cut_off(k, mm, vaddr, vaddr + nbytes)
        raise
    try:
        if nr_replaced:
            do_munmap(k, mm, vaddr, nbytes)
        if inode is None and vm_flags & VM_MAYSHARE:
            inode = open_shmem(k, mm, nbytes, noreserve=bool(vm_flags & VM_NORESERVE))
            pgoff = 0
    except OSError:
        vm_unacct_memory(k, charged)
        raise
    if vm_flags & VM_ACCOUNT:
        # What lay there took its own promise back.
        k.vm_committed_as += nr_accounted
    mapping: AddressSpace | None = None if inode is None else inode.mapping
    if mapping is None:
        # Private anonymous memory counts from address 0, so that what adjoins continues, until mremap moves it.
        pgoff = vaddr >> k.page_shift
    file_writable = mapping is not None and writable
    vma = new_vma(k, mm, vaddr, vaddr + nbytes, vm_flags, pgoff, mapping, file_writable=file_writable)
    vma_link(mm, vma)
    merge_around(k, mm, vma)
    return vaddr


def _cut_off(k: Kernel, mm: Mm, start: int, end: int) -> None:
    """Split the VMAs at both ends of a range."""
    for border in (start, end):
        vma = mm.vmas.find(border)
        if vma is not None and vma.start < border:
            cut_vma(k, mm, vma, border)


def _count_replaced(k: Kernel, mm: Mm, start: int, end: int) -> tuple[int, int]:
    """Return how many pages are mapped in [start, end), and how many of them are promised (count_vma_pages_range)."""
    nr_pages = nr_accounted = 0
    for vma in mm.vmas.overlapping(start, end):
        here = (min(vma.end, end) - max(vma.start, start)) >> k.page_shift
        nr_pages += here
        nr_accounted += here if vma.flags & VM_ACCOUNT else 0
    return nr_pages, nr_accounted


def _check_mmap(k: Kernel, mm: Mm, nbytes: int, pgoff: int) -> int:
    """Refuse what no mmap takes; return the length in whole pages."""
    if not nbytes:
        raise OSError(errno.EINVAL, "a mapping needs a length")
    nbytes = align_word(k, nbytes)
    if not nbytes:
        raise OSError(errno.ENOMEM, "the mapping is larger than the address space")
    if pgoff < 0 or pgoff + (nbytes >> k.page_shift) >= WORD:
        raise OSError(errno.EOVERFLOW, "the file offset is out of range")
    if mm.map_count > k.options.max_map_count:
        raise OSError(errno.ENOMEM, f"the process has max_map_count ({k.options.max_map_count}) mappings already")
    return nbytes


def _is_shared(flags: int, file: File | None) -> bool:
    kind = flags & _MAP_TYPE
    if kind == MAP_SHARED_VALIDATE and file is not None:
        unknown = flags & ~_MAP_KNOWN
        if unknown:
            raise OSError(errno.EOPNOTSUPP, f"MAP_SHARED_VALIDATE with unknown flags {unknown:#x}")
        return True
    if kind not in {MAP_SHARED, MAP_PRIVATE}:
        raise OSError(errno.EINVAL, "give one of MAP_SHARED and MAP_PRIVATE")
    return kind == MAP_SHARED


def get_unmapped_area(k: Kernel, mm: Mm, vaddr: int, nbytes: int, flags: int) -> int:
    """Return where a mapping goes: exactly there (MAP_FIXED), there if free, or the highest gap."""
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
        if vaddr < 0 or vaddr + nbytes > mm.task_size:
            raise OSError(errno.ENOMEM, f"{vaddr:#x} + {nbytes:#x} lies outside user space")
        if vaddr & (k.page_size - 1):
            raise OSError(errno.EINVAL, f"MAP_FIXED needs an address on a page border, not {vaddr:#x}")
        if vaddr < MMAP_MIN_ADDR:
            raise OSError(errno.EPERM, f"mappings start at {MMAP_MIN_ADDR:#x} (mmap_min_addr)")
        if flags & MAP_FIXED_NOREPLACE and mm.vmas.overlapping(vaddr, vaddr + nbytes):
            raise OSError(errno.EEXIST, f"something is mapped at {vaddr:#x}")
        return vaddr
    bottom, top = page_align(k, MMAP_MIN_ADDR), mm.task_size & -k.page_size
    if flags & MAP_32BIT and k.fmt.name in _LONG_MODE:
        bottom, top = _LOW_START, _LOW_END
    if vaddr:
        # A hint is rounded down (round_hint_to_min).
        vaddr &= -k.page_size
        if vaddr >= MMAP_MIN_ADDR and vaddr + nbytes <= top and _is_free(mm, vaddr, vaddr + nbytes):
            return vaddr
    found = mm.vmas.gap(nbytes, bottom, top)
    if found < 0:
        raise OSError(errno.ENOMEM, f"no free range of {nbytes:#x} bytes in the address space")
    return found


def _is_free(mm: Mm, start: int, end: int) -> bool:
    """Tell whether nothing is mapped in [start, end), nor may grow into it."""
    above = mm.vmas.find(start)
    return above is None or end <= above.start_gap


def do_munmap(k: Kernel, mm: Mm, vaddr: int, nbytes: int) -> None:
    """Unmap a range, whatever is mapped there. EINVAL off a page border, without length or outside user space."""
    if vaddr & (k.page_size - 1) or nbytes <= 0 or vaddr < 0 or vaddr > mm.task_size - nbytes:
        raise OSError(errno.EINVAL, f"munmap of {nbytes} bytes at {vaddr:#x}: not a range of pages")
    end = vaddr + page_align(k, nbytes)
    going = mm.vmas.overlapping(vaddr, end)
    if not going:
        return
    first, last = going[0], going[-1]
    if first.start < vaddr and first.end > end and mm.map_count >= k.options.max_map_count:
        raise OSError(errno.ENOMEM, f"the process has max_map_count ({k.options.max_map_count}) mappings already")
    if first.start < vaddr:
        going[0] = cut_vma(k, mm, first, vaddr)
        last = going[-1]
    if last.end > end:
        cut_vma(k, mm, last, end)
    for vma in going:
        zap_page_range(k, vma, vma.start, vma.end)
        remove_vma(k, mm, vma)
    _free_pgtables(k, mm, vaddr, end)


def munlock_vma_pages(k: Kernel, vma: VmArea) -> None:
    """Take the mlock mark off every page that a VMA maps."""
    _, ptes = vma.mm.pt.entries(vma.start, vma.end)
    present, _ = pte_flags(k, ptes)
    for pfn in set(pte_pfns(k, ptes[present]).tolist()):
        munlock_page(k, pfn)


def _free_pgtables(k: Kernel, mm: Mm, start: int, end: int) -> None:
    """Free the page tables that no VMA can use any more, between the neighbours of an unmapped range."""
    span = 1 << mm.pt.leaf_shift
    below = mm.vmas.prev(start)
    above = mm.vmas.find(end) if below is None else below.vm_next
    floor = 0 if below is None else below.end
    # The last table of user space reaches beyond it, on x86-64.
    ceiling = WORD if above is None else above.start
    low, high = start & -span, (end + span - 1) & -span
    low = low if low >= floor else low + span
    high = high if high <= ceiling else high - span
    if low < high and mm.pt.free_range(low, high):
        k.flush_tlb_mm(mm)
