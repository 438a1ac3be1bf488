"""VmArea: one mapping of an mm.

Source: Linux v2.6.20 include/linux/mm.h: struct vm_area_struct, VM_*.
"""

from collections.abc import Callable
from enum import IntFlag
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from emu.mm_types.address_space import AddressSpace
    from emu.mm_types.anon_vma import AnonVma
    from emu.mm_types.mm import Mm
    from emu.mm_types.pgtable import U64Array
    from emu.mm_types.remapped import RemappedVmas

# What set_pte tells: (mm, vma, vaddr, old PTE, new PTE).
PteChanged = Callable[["Mm", "VmArea", int, int, int], None]
# What set_ptes tells: the same as arrays.
PtesChanged = Callable[["Mm", "VmArea", "U64Array", "U64Array", "U64Array"], None]


class VmFlag(IntFlag):
    """vma->vm_flags, with Linux v2.6.20's values."""

    READ = 0x1
    WRITE = 0x2
    EXEC = 0x4
    SHARED = 0x8
    MAYREAD = 0x10
    MAYWRITE = 0x20
    MAYEXEC = 0x40
    MAYSHARE = 0x80
    GROWSDOWN = 0x100
    LOCKED = 0x2000
    IO = 0x4000
    SEQ_READ = 0x8000
    RAND_READ = 0x10000
    DONTCOPY = 0x20000
    DONTEXPAND = 0x40000
    ACCOUNT = 0x100000
    NONLINEAR = 0x800000
    # As numbered by later releases (v6.12).
    LOCKONFAULT = 0x80000
    NORESERVE = 0x200000
    WIPEONFORK = 0x2000000
    DONTDUMP = 0x4000000
    HUGEPAGE = 0x20000000
    NOHUGEPAGE = 0x40000000
    MERGEABLE = 0x80000000


VM_READ: Final = int(VmFlag.READ)
VM_WRITE: Final = int(VmFlag.WRITE)
VM_EXEC: Final = int(VmFlag.EXEC)
VM_SHARED: Final = int(VmFlag.SHARED)
VM_MAYREAD: Final = int(VmFlag.MAYREAD)
VM_MAYWRITE: Final = int(VmFlag.MAYWRITE)
VM_MAYEXEC: Final = int(VmFlag.MAYEXEC)
VM_MAYSHARE: Final = int(VmFlag.MAYSHARE)
VM_LOCKED: Final = int(VmFlag.LOCKED)
VM_LOCKONFAULT: Final = int(VmFlag.LOCKONFAULT)
VM_LOCKED_MASK: Final = VM_LOCKED | VM_LOCKONFAULT
VM_SEQ_READ: Final = int(VmFlag.SEQ_READ)
VM_RAND_READ: Final = int(VmFlag.RAND_READ)
VM_DONTCOPY: Final = int(VmFlag.DONTCOPY)
VM_GROWSDOWN: Final = int(VmFlag.GROWSDOWN)
VM_ACCOUNT: Final = int(VmFlag.ACCOUNT)
VM_NORESERVE: Final = int(VmFlag.NORESERVE)
VM_NONLINEAR: Final = int(VmFlag.NONLINEAR)
VM_WIPEONFORK: Final = int(VmFlag.WIPEONFORK)
VM_DONTDUMP: Final = int(VmFlag.DONTDUMP)
VM_HUGEPAGE: Final = int(VmFlag.HUGEPAGE)
VM_NOHUGEPAGE: Final = int(VmFlag.NOHUGEPAGE)
VM_MERGEABLE: Final = int(VmFlag.MERGEABLE)

STACK_GUARD_GAP: Final = 256
"""Pages below a VM_GROWSDOWN mapping that nothing else is put into (stack_guard_gap)."""


class VmArea:
    """One mapping [start, end) of an mm; `pgoff` is the file page at `start` if it is linear.

    `page_prot` is a PTE without a pfn for a page just read (no write bit where the first store must be seen);
    `page_prot_write` the same with write and dirty, as a write fault installs it. `pte_changed` and `ptes_changed` are
    the reverse map's hooks, None where the strategy keeps nothing about this VMA. `scan_cursor` is where the next
    cluster scan of a nonlinear VMA starts (vm_private_data in Linux). `anon_vma` is None until it has a private page;
    `anon_branch` tells by which fork, and of which VMA, a parent's was copied: 0 if it has none of a parent.
    `file_writable` tells whether the file was open for writing: a file has two struct files here, one for all
    descriptors that may write, and one for those that may not. `vm_prev` and `vm_next` are its neighbours in its mm.
    `remapped`: whose number it adds to, once remap_file_pages made VMAs of its mapping.
    """

    __slots__ = (
        "anon_branch",
        "anon_vma",
        "end",
        "file_writable",
        "flags",
        "mapping",
        "mm",
        "page_prot",
        "page_prot_write",
        "page_shift",
        "pgoff",
        "pte_changed",
        "ptes_changed",
        "ra_miss",
        "remapped",
        "rmap_data",
        "scan_cursor",
        "start",
        "vm_next",
        "vm_prev",
        "wants_writenotify",
    )

    def __init__(self, mm: "Mm", start: int, end: int, flags: int, pgoff: int, mapping: "AddressSpace | None") -> None:
        self.mm = mm
        self.start = start
        self.end = end
        self.flags = flags
        self.pgoff = pgoff
        self.mapping = mapping
        self.page_shift = mm.page_shift
        self.page_prot = 0
        self.page_prot_write = 0
        self.wants_writenotify = False
        self.pte_changed: PteChanged | None = None
        self.ptes_changed: PtesChanged | None = None
        self.rmap_data: object = None
        self.scan_cursor = 0
        self.anon_vma: AnonVma | None = None
        self.anon_branch = 0
        self.file_writable = False
        self.ra_miss = 0
        self.remapped: RemappedVmas | None = None
        self.vm_prev: VmArea | None = None
        self.vm_next: VmArea | None = None

    @property
    def nr_pages(self) -> int:
        """The length in pages."""
        return (self.end - self.start) >> self.page_shift

    @property
    def start_gap(self) -> int:
        """Where the gap begins that a mapping which grows keeps below it; its start, if it does not (vm_start_gap)."""
        if not self.flags & VM_GROWSDOWN:
            return self.start
        return max(self.start - (STACK_GUARD_GAP << self.page_shift), 0)

    @property
    def nonlinear(self) -> bool:
        """Whether the page table alone knows the page order."""
        return bool(self.flags & VM_NONLINEAR)

    def linear_pgoff(self, vaddr: int) -> int:
        """Return the file page that a linear mapping has at `vaddr` (linear_page_index)."""
        return ((vaddr - self.start) >> self.page_shift) + self.pgoff

    def vma_address(self, pgoff: int) -> int:
        """Return where a linear mapping has file page `pgoff`, -1 if outside (vma_address)."""
        vaddr = self.start + ((pgoff - self.pgoff) << self.page_shift)
        return vaddr if self.start <= vaddr < self.end else -1

    def __repr__(self) -> str:
        flags = VmFlag(self.flags).name or "none"
        return f"VmArea({self.start:#x}-{self.end:#x} pgoff={self.pgoff} {flags})"
