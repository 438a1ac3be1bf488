"""AddressSpace: one file's page cache state and the VMAs that map it.

Source: Linux v2.6.20 include/linux/fs.h: struct address_space.
"""

from typing import TYPE_CHECKING, Protocol

from emu.mm_types.interval_tree import IntervalTree
from emu.mm_types.locks import RwSem
from emu.mm_types.page_tree import PageTree
from fsbackend.bdi import BackingDevInfo

if TYPE_CHECKING:
    from emu.mm_types.vma import VmArea


class Host(Protocol):
    """The inode behind an address space, as far as state needs it."""

    @property
    def name(self) -> str:
        """A name for messages."""
        ...

    @property
    def fd_direct(self) -> int:
        """The descriptor for whole pages, -1 without a file."""
        ...

    @property
    def fd_buffered(self) -> int:
        """The descriptor for tails and for fsync, -1 without a file."""
        ...


class FileErrors:
    """What a struct file keeps: how many writeback errors its owner was told, or found when he opened it (f_wb_err)."""

    def __init__(self, nr_seen: int) -> None:
        self.nr_seen = nr_seen


class AddressSpace:
    """Pages of one file by pgoff, and who maps them.

    `i_mmap` holds the linear VMAs by pgoff, `i_mmap_nonlinear` those whose page order only their page tables
    know. The three capabilities are the backing device's for this file: `account_dirty` (clean PTEs of shared
    mappings are read-only), `writeback` (dirty pages are written; without it they are never evicted) and
    `stable_writes`. `dirtied_when_s` is when it last went from clean to dirty, None while it is clean.
    `wb_err` is the sequence of writeback errors: (count, errno of the last), `wb_err_seen` the last count that
    anybody was told. `nr_unsynced` counts the pages written since the host file was last synced. `swappable`: shared
    anonymous memory, whose pages go to swap; `swapped` is what is there now, pgoff -> swap entry.
    """

    def __init__(self, ident: int, host: Host, bdi: BackingDevInfo, i_mmap_lock: RwSem) -> None:
        self.ident = ident
        self.host = host
        self.bdi = bdi
        self.i_mmap_lock = i_mmap_lock
        self.account_dirty = bdi.caps.account_dirty
        self.writeback = bdi.caps.writeback
        self.stable_writes = bdi.caps.stable_writes
        self.pages = PageTree()
        self.i_mmap: IntervalTree[VmArea] = IntervalTree()
        self.i_mmap_nonlinear: dict[VmArea, None] = {}
        self.i_size = 0
        self.dirtied_when_s: float | None = None
        self.writeback_index = 0
        self.wb_err: tuple[int, int] = (0, 0)
        self.wb_err_seen = 0
        self.truncate_count = 0
        self.nr_unsynced = 0
        self.ra_next = -1
        self.ra_window = 0
        self.refcount = 0
        self.swappable = False
        self.swapped: dict[int, int] = {}

    @property
    def evictable(self) -> bool:
        """Whether reclaim has anywhere to put its dirty pages."""
        return self.writeback or self.swappable

    def is_mapped(self) -> bool:
        """Tell whether any VMA maps the file (mapping_mapped), or is about to (`refcount`)."""
        return bool(self.refcount) or bool(self.i_mmap) or bool(self.i_mmap_nonlinear)

    def __repr__(self) -> str:
        return f"AddressSpace({self.ident} {self.host.name!r} {self.pages.nr_pages} pages)"
