"""Mm: one address space of user memory.

Source: Linux v2.6.20 include/linux/sched.h: struct mm_struct.
"""

import resource
from typing import TYPE_CHECKING

from emu.mm_types.locks import RwSem
from emu.mm_types.pgtable import PageTable
from emu.mm_types.vma_tree import VmaTree
from fsbackend.throttle import DirtyTask

if TYPE_CHECKING:
    from emu.mm_types.address_space import FileErrors
    from fsbackend.bdi import BackingDevInfo

RLIM_INFINITY = (1 << 64) - 1

_DIRTY_POLL_KIB = 128


def dirty_poll_pages(page_shift: int) -> int:
    """Return the most pages that one process dirties before the limits are looked at (v4.9 kernel/fork.c, at first)."""
    return max(_DIRTY_POLL_KIB >> page_shift - 10, 1)


START_BRK = 1 << 24
"""Where the heap begins: there is no program below it, but room for one."""


class Mm:
    """A page table, the VMAs, and their counts in pages.

    `cpu_mask` has a bit for each CPU whose TLB may hold entries of this mm; flushes go to those.
    `rlim`: (soft, hard) in bytes by RLIMIT_*, of the one process that an mm has here. `brk`: the end of the heap.
    `dirty_task`: what its one thread owes for pages it dirtied; `nr_dirtied`: how many it dirtied since the limits were
    looked at for it, which they are at `nr_dirtied_pause`; `pause_bdi`: the device that it paused for last.
    `wb_seen`: for each file that was mapped, by its address space's number, which of its errors were reported here.
    """

    def __init__(self, ident: int, asid: int, pt: PageTable, mmap_sem: RwSem) -> None:
        self.ident = ident
        self.asid = asid
        self.pt = pt
        self.fmt = pt.fmt
        self.page_shift = pt.page_shift
        self.page_size = 1 << pt.page_shift
        self.task_size = pt.fmt.task_size
        self.vmas = VmaTree()
        self.mmap_sem = mmap_sem
        self.cpu_mask = 0
        self.file_rss = 0
        self.anon_rss = 0
        self.swap_ents = 0
        self.locked_vm = 0
        self.total_vm = 0
        self.nr_nonlinear = 0
        self.def_flags = 0
        self.privileged = True
        self.rlim = {
            resource.RLIMIT_AS: (RLIM_INFINITY, RLIM_INFINITY),
            resource.RLIMIT_DATA: (RLIM_INFINITY, RLIM_INFINITY),
            resource.RLIMIT_STACK: (8 << 20, RLIM_INFINITY),
            resource.RLIMIT_MEMLOCK: (8 << 20, 8 << 20),
        }
        self.start_brk = self.brk = START_BRK
        self.dirty_task = DirtyTask()
        self.nr_dirtied = 0
        self.nr_dirtied_pause = dirty_poll_pages(pt.page_shift)
        self.pause_bdi: BackingDevInfo | None = None
        self.wb_seen: dict[int, FileErrors] = {}
        self.dead = False

    @property
    def map_count(self) -> int:
        """How many VMAs there are, which max_map_count limits."""
        return len(self.vmas)

    def __repr__(self) -> str:
        return f"Mm({self.ident} asid={self.asid} {self.map_count} VMAs)"
