"""Kernel: the emulated kernel's global variables, and the few operations that every room needs.

Functions of the other rooms take the Kernel as their first argument, as the kernel's functions use globals.
One thread runs it; kernel threads get their turn at fault and system-call boundaries and at quanta.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from emu.errors import KernelBug
from emu.mm_types.clock import Clock, RealClock
from emu.mm_types.events import EventKind, EventLog
from emu.mm_types.locks import Locks
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_UPTODATE, LruLists, MemMap
from emu.mm_types.pgtable import TlbGather
from emu.mm_types.swap import Swap
from emu.mm_types.vmstat import VmStat
from fsbackend.throttle import DirtyParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.hw.mmu import Mmu
    from emu.hw.physmem import PhysMem
    from emu.hw.pte import PteFormat
    from emu.mm.inode import Inode
    from emu.mm.io import IoQueue
    from emu.mm.rmap.base import RmapStrategy
    from emu.mm_types.address_space import AddressSpace
    from emu.mm_types.anon_vma import AnonVma
    from emu.mm_types.vma import VmArea
    from fsbackend.bdi import BackingDevInfo

RATELIMIT_PAGES_MIN = 16
"""Linux v4.9 mm/page-writeback.c: writeback_set_ratelimit()."""

MAX_MAP_COUNT = 65530
"""Linux include/linux/mm.h: DEFAULT_MAX_MAP_COUNT."""


class FileFault(Protocol):
    """How a fault on a file page is served: do_fault (merged) or legacy_fault."""

    def __call__(
        self, k: "Kernel", mm: Mm, vma: "VmArea", vaddr: int, pgoff: int, pte: int, *, write: bool
    ) -> bool:
        """Map file page `pgoff` at `vaddr`; return whether it had to be read."""
        ...


@dataclass(slots=True)
class Options:
    """How this kernel was configured; fixed at boot.

    `readahead_pages` is the largest read-ahead window (0: none). `remap_privileged` makes remap_file_pages ask for
    privilege. `guest_cache` is how host files are opened: "none" with O_DIRECT, "writeback" through the host's
    cache. `plain_caps` are the capabilities of files that are not on a fremap mount. `audit_dirty` counts pages
    that are dirty in a PTE and nowhere else (unaccounted_dirty_max) at every boundary. `huge_pages`: anonymous memory
    is mapped with large pages where they fit. `lazy_tlb`: a CPU that runs another mm is not interrupted for a flush,
    but flushes when it comes back to the mm. `page_cluster`: swap is read 2**page_cluster slots at a time.
    `swappiness` (0 to 100) is how willingly anonymous pages are taken as long as there are others. `overcommit_memory`
    and `overcommit_ratio` are what emu.mm.overcommit makes of them.
    """

    fault_path: str = "merged"
    readahead_pages: int = 32
    remap_privileged: bool = False
    guest_cache: str = "none"
    plain_caps: str = "disk"
    audit_dirty: bool = False
    max_map_count: int = MAX_MAP_COUNT
    nonlinear_max_pages: int = 0
    huge_pages: bool = True
    lazy_tlb: bool = False
    page_cluster: int = 3
    overcommit_memory: int = 0
    overcommit_ratio: int = 50
    swappiness: int = 60


@dataclass(slots=True)
class KThreads:
    """What the kernel threads are asked to do, and when they run by themselves next.

    `kswapd_priority` is how much less than everything kswapd scans in its next turn, as a shift.
    """

    flusher_next_s: float = 0.0
    flusher_wanted: bool = False
    flusher_running: bool = False
    kswapd_wanted: bool = False
    kswapd_priority: int = 12
    audit_wanted: bool = False


@dataclass(slots=True)
class Watermarks:
    """Free frames: below `low` kswapd wakes and works up to `high`; below `min` an allocator reclaims itself."""

    min: int
    low: int
    high: int


class Kernel:
    """State of one emulated kernel over its RAM and CPUs."""

    def __init__(
        self,
        ram: "PhysMem",
        fmt: "PteFormat",
        cpus: "list[Mmu]",
        *,
        options: Options,
        params: DirtyParams,
        clock: Clock | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.ram = ram
        self.fmt = fmt
        self.page_shift = fmt.page_shift
        self.page_size = 1 << fmt.page_shift
        self.cpus = cpus
        self.cpu = 0
        self.options = options
        self.params = params
        self.clock: Clock = RealClock() if clock is None else clock
        self.events = events
        self.preempt: Callable[[str], None] | None = None
        self.block_on_page: Callable[[int], None] | None = None
        self.mem_map = MemMap(ram.nr_frames)
        self.lru = LruLists(self.mem_map)
        self.vmstat = VmStat()
        self.locks = Locks()
        self.kthreads = KThreads()
        low = max(ram.nr_frames // 64, min(ram.nr_frames // 8, 8))
        self.watermarks = Watermarks(min=low // 2, low=low, high=low + low // 2)
        self.mms: dict[int, Mm] = {}
        self.asids: dict[int, Mm] = {}
        self.inodes: dict[tuple[int, int], Inode] = {}
        self.mappings: dict[int, AddressSpace] = {}
        self.anon_vmas: dict[int, AnonVma] = {}
        self.swap = Swap()
        self.zero_pfn = self._zero_page()
        self.bdis: dict[tuple[int, str], BackingDevInfo] = {}
        self.dirty_mappings: dict[AddressSpace, None] = {}
        self.current: list[Mm | None] = [None] * len(cpus)
        self.stale_asids: list[set[int]] = [set() for _ in cpus]
        self.pause_s = 0.0
        self.vm_committed_as = 0
        # Pages dirtied on each CPU since the limits were last looked at there; at how many they are, whoever it was.
        self.bdp_ratelimits = [0] * len(cpus)
        self.ratelimit_pages = RATELIMIT_PAGES_MIN
        # Pages that processes dirtied just before they exited: the next dirtier pays.
        self.dirty_throttle_leaks = 0
        # (access and sharing flags, write-notify) -> page_prot, page_prot_write: what vma_prot worked out so far.
        self.protection_map: dict[tuple[int, bool], tuple[int, int]] = {}
        self.next_ident = 1
        # Wired up by boot(): rooms above this one.
        self.rmap: RmapStrategy
        self.io: IoQueue
        self.try_to_free_pages: Callable[[Kernel, int], int]
        self.file_fault: FileFault
        self.set_page_dirty: Callable[[Kernel, AddressSpace, int], bool]

    def _zero_page(self) -> int:
        """Return the frame that all reads of untouched anonymous memory share (ZERO_PAGE); it is never freed."""
        pfn = self.ram.alloc_frame()
        self.ram.zero_frame(pfn)
        self.mem_map.refcount[pfn] = 1
        self.mem_map.flags[pfn] = PG_UPTODATE
        return pfn

    def new_ident(self) -> int:
        """Return a number for a new mm or address space, never used before."""
        ident = self.next_ident
        self.next_ident = ident + 1
        return ident

    def emit(self, kind: EventKind, **fields: int) -> None:
        """Record an event; call it only where `events` is not None."""
        if self.events is not None:
            self.events.emit(kind, self.clock.now(), cpu=self.cpu, **fields)

    def preempt_point(self, name: str) -> None:
        """Let a test interleave something at a named point."""
        if self.preempt is not None:
            self.preempt(name)

    def wait_on_page_locked(self, pfn: int) -> None:
        """Let whoever holds the page lock go on; with nobody to run that would be a deadlock."""
        if self.block_on_page is None:
            raise KernelBug(f"deadlock on a page lock: {self.mem_map.describe(pfn)}")
        self.block_on_page(pfn)

    def switch_mm(self, mm: Mm) -> "Mmu":
        """Load an mm's page table on the present CPU, if it is not there already.

        Where ASIDs tell address spaces apart nothing is flushed, and the CPU stays in the mask of the one that it
        leaves (v6.12 arch/riscv/mm/context.c: set_mm(); for x86, `lazy_tlb`). Where there are none, all of that goes.
        """
        mmu = self.cpus[self.cpu]
        before = self.current[self.cpu]
        if before is not mm:
            if mm.dead:
                raise KernelBug(f"{mm!r} is dead and cannot run")
            if before is not None and not self.fmt.asid_bits:
                mmu.invalidate_asid(before.asid)
                before.cpu_mask &= ~(1 << self.cpu)
            self.current[self.cpu] = mm
            mm.cpu_mask |= 1 << self.cpu
            if mm.asid in self.stale_asids[self.cpu]:
                self.stale_asids[self.cpu].discard(mm.asid)
                mmu.invalidate_asid(mm.asid)
                self.vmstat.nr_tlb_lazy_flush += 1
            mmu.load_root(mm.pt.root_pfn, mm.asid)
            if self.events is not None:
                self.emit(EventKind.SWITCH, mm=mm.ident)
        return mmu

    def flush_tlb_page(self, mm: Mm, vaddr: int) -> None:
        """Drop one translation from the TLB of every CPU that may hold it (flush_tlb_page)."""
        mask, cpu = mm.cpu_mask, 0
        while mask:
            if mask & 1 and not self._flush_later(mm, cpu):
                self.cpus[cpu].invalidate_page(vaddr, mm.asid)
                if cpu == self.cpu:
                    self.vmstat.nr_tlb_local_flush_one += 1
                else:
                    self.vmstat.nr_tlb_remote_flush += 1
            mask >>= 1
            cpu += 1

    def flush_tlb_mm(self, mm: Mm, vaddrs: list[int] | None = None) -> None:
        """Drop some (or all: None) translations of an mm from every CPU that may hold them."""
        if self.events is not None:
            self.emit(EventKind.TLB_FLUSH, mm=mm.ident, arg=-1 if vaddrs is None else len(vaddrs))
        if vaddrs is not None:
            for vaddr in vaddrs:
                self.flush_tlb_page(mm, vaddr)
            return
        for cpu, mmu in enumerate(self.cpus):
            if mm.cpu_mask >> cpu & 1 and not self._flush_later(mm, cpu):
                mmu.invalidate_asid(mm.asid)
                if cpu == self.cpu:
                    self.vmstat.nr_tlb_local_flush_all += 1
                else:
                    self.vmstat.nr_tlb_remote_flush += 1

    def _flush_later(self, mm: Mm, cpu: int) -> bool:
        """Put a flush off until a CPU that runs something else comes back to the mm, where that is the mode.

        Source of the idea: Linux v4.20 arch/x86/mm/tlb.c: lazy TLB mode, and tlb_gen for mms that are not loaded.
        """
        if not self.options.lazy_tlb or cpu == self.cpu or self.current[cpu] is mm:
            return False
        self.stale_asids[cpu].add(mm.asid)
        return True

    def gather(self, mm: Mm) -> TlbGather:
        """Start a gather for an mm; leaving its `with` block flushes what it owes."""
        return TlbGather(mm, self.flush_tlb_mm)

