"""Machine: RAM, CPUs, clock and an emulated kernel, with the switches for all of them.

A machine is deterministic for a seed, but for the order in which real disks finish. Leaving its `with` block shuts
it down in order; `power_off` drops its RAM without a word.
"""

import errno
import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from emu.hw.mmu import Mmu
from emu.hw.physmem import PhysMem
from emu.hw.pte import PteFormat, get_format
from emu.hw.tlb import DEFAULT, TlbModel
from emu.mm.boot import boot, copy_out
from emu.mm.entry import Task, run_tasks
from emu.mm.flusher import sync_all
from emu.mm.fork import exit_mmap, mm_alloc
from emu.mm.inode import forget_inode
from emu.mm.kernel import MAX_MAP_COUNT, Kernel, Options
from emu.mm.sched import audit, boundary
from emu.mm.swapfile import close_all, swapoff, swapon
from emu.mm.truncate import invalidate_mapping_pages
from emu.mm_types.events import EventKind, EventLog
from emu.process import Process
from emu.units import MIB, format_size, parse_size
from fsbackend.bdi import parse_caps
from fsbackend.throttle import DirtyParams

if TYPE_CHECKING:
    from emu.mm_types.clock import Clock
    from emu.mm_types.vmstat import VmStat


MIN_FRAMES = 32
"""With fewer, page tables and the watermarks leave nothing for a process to run in."""


class Machine:
    """One emulated computer.

    Parameters
    ----------
    format
        A page-table format by name (emu.hw.pte.FORMATS) or itself.
    ram
        Bytes, or a size such as "64M".
    rmap
        A reverse-map strategy by name (emu.mm.rmap.STRATEGIES).
    cpus
        How many CPUs, each with its TLB. Processes run on CPU 0 unless `kernel.cpu` is set.
    fault_path
        "merged" (->fault, page locked until its PTE is in) or "legacy" (->nopage and ->populate).
    clock
        A Clock; the host's by default.
    seed
        For what is random: the junk in frames.
    io_depth
        Writes in flight; 0: each is done at once.
    params
        Dirty limits and times.
    junk
        Fill frames with junk when they are allocated and freed.
    remap_privileged
        remap_file_pages needs a privileged process.
    nonlinear_max_pages
        Most pages that an unprivileged process may have in nonlinear mappings; 0: no bound.
    readahead
        Largest read-ahead in pages; 0: none.
    guest_cache
        "none": host files are opened O_DIRECT; "writeback": through the host's cache.
    plain_caps
        Capabilities of files that are not on a fremap mount.
    events
        Record events; an EventLog of one's own says where to.
    audit
        Keep unaccounted_dirty_max.
    max_map_count
        How many VMAs a process may have.
    huge_pages
        Map anonymous memory with large pages where they fit.
    lazy_tlb
        A CPU that runs another process is not interrupted for a flush, but flushes when it comes back (x86 since 4.14).
    tlb
        Sizes of the CPUs' TLBs (emu.hw.tlb.TlbModel).
    swap
        Where anonymous memory is swapped to: a file that mkswap made, or a size, such as "64M", for a temporary one.
    swappiness
        0 to 100: how willingly anonymous pages are swapped as long as pages of files can be had.
    page_cluster
        Swap is read 2**page_cluster pages at a time.
    overcommit_memory
        0: memory that could never fit is refused; 1: none is; 2: the sum stays under CommitLimit
        (vm.overcommit_memory).
    overcommit_ratio
        How many percent of RAM count for CommitLimit, besides all of swap.

    """

    def __init__(
        self,
        format: str | PteFormat = "x86_64",  # noqa: A002 - the option's name everywhere
        ram: int | str = 64 * MIB,
        rmap: str = "dirty_index",
        *,
        cpus: int = 1,
        fault_path: str = "merged",
        clock: "Clock | None" = None,
        seed: int = 0,
        io_depth: int = 2,
        params: DirtyParams | None = None,
        junk: bool = True,
        remap_privileged: bool = False,
        nonlinear_max_pages: int = 0,
        readahead: int = 32,
        guest_cache: str = "none",
        plain_caps: str = "disk",
        events: bool | EventLog = False,
        audit: bool = False,
        max_map_count: int = MAX_MAP_COUNT,
        huge_pages: bool = True,
        lazy_tlb: bool = False,
        tlb: TlbModel | None = None,
        swap: int | str | os.PathLike[str] | None = None,
        swappiness: int = 60,
        page_cluster: int = 3,
        overcommit_memory: int = 0,
        overcommit_ratio: int = 50,
    ) -> None:
        self.format = get_format(format) if isinstance(format, str) else format
        if guest_cache not in {"none", "writeback"}:
            raise ValueError(f"guest_cache is 'none' or 'writeback', not {guest_cache!r}")
        if cpus < 1:
            raise ValueError("a machine needs at least one CPU")
        self.seed = seed
        nbytes = parse_size(ram) if isinstance(ram, str) else ram
        if nbytes < MIN_FRAMES << self.format.page_shift:
            least = format_size(MIN_FRAMES << self.format.page_shift)
            raise ValueError(f"{nbytes} bytes of RAM are too few for {self.format.name}: give at least {least}")
        parse_caps(plain_caps)
        if overcommit_memory not in {0, 1, 2}:
            raise ValueError(f"overcommit_memory is 0, 1 or 2, not {overcommit_memory}")
        self.ram = PhysMem(nbytes, self.format.page_shift, junk=junk, seed=seed)
        options = Options(
            fault_path=fault_path,
            readahead_pages=readahead,
            remap_privileged=remap_privileged,
            nonlinear_max_pages=nonlinear_max_pages,
            guest_cache=guest_cache,
            plain_caps=plain_caps,
            audit_dirty=audit,
            max_map_count=max_map_count,
            huge_pages=huge_pages,
            lazy_tlb=lazy_tlb,
            page_cluster=page_cluster,
            overcommit_memory=overcommit_memory,
            overcommit_ratio=overcommit_ratio,
            swappiness=swappiness,
        )
        self.kernel = Kernel(
            self.ram,
            self.format,
            [Mmu(self.ram, self.format, tlb or DEFAULT) for _ in range(cpus)],
            options=options,
            params=params or DirtyParams(),
            clock=clock,
            events=events if isinstance(events, EventLog) else EventLog() if events else None,
        )
        boot(self.kernel, rmap=rmap, io_depth=io_depth)
        if swap is not None:
            swapon(self.kernel, swap)
        self.running = True

    @property
    def vmstat(self) -> "VmStat":
        """The kernel's counters."""
        return self.kernel.vmstat

    @property
    def events(self) -> EventLog | None:
        """The recorded events, if they are recorded."""
        return self.kernel.events

    def spawn(self, *, privileged: bool = True) -> Process:
        """Start a process with an empty address space."""
        mm = mm_alloc(self.kernel)
        mm.privileged = privileged
        return Process(self.kernel, mm)

    def run(self, tasks: list[Task]) -> None:
        """Run batches of accesses of several processes in turns (Process.task makes one)."""
        run_tasks(self.kernel, tasks)

    def sync(self) -> None:
        """Write back everything dirty and wait: after that nr_dirty and nr_writeback are 0.

        OSError of the first file that could not be written; its pages stay dirty.
        """
        failed = sync_all(self.kernel)
        self._audit()
        boundary(self.kernel)
        if failed:
            mapping, error = failed[0]
            raise OSError(error, f"{mapping.host.name} could not be written back; its pages stay dirty")

    def _audit(self) -> None:
        if self.kernel.options.audit_dirty:
            audit(self.kernel)

    def swapon(self, where: int | str | os.PathLike[str]) -> int:
        """Start swapping to a file that mkswap made, or to a temporary one of a size; return the area's number."""
        return swapon(self.kernel, where).swap_type

    def swapoff(self, swap_type: int = 0) -> None:
        """Bring everything in from a swap area and stop using it.

        OSError: EINVAL if there is none of that number, ENOMEM if memory does not hold it, EIO if it cannot be read.
        """
        area = self.kernel.swap.areas.get(swap_type)
        if area is None:
            raise OSError(errno.EINVAL, f"there is no swap area {swap_type}")
        swapoff(self.kernel, area)

    def drop_caches(self) -> int:
        """Drop clean, unmapped pages and forget unused files; return how many pages went.

        A file of which something was written, but not synced, is kept until it is: else sync would pass it over.
        """
        dropped = 0
        for inode in list(self.kernel.inodes.values()):
            dropped += invalidate_mapping_pages(self.kernel, inode.mapping)
            mapping = inode.mapping
            if not mapping.is_mapped() and not mapping.pages.nr_pages and not mapping.nr_unsynced:
                forget_inode(self.kernel, inode)
        return dropped

    def shutdown(self) -> None:
        """Stop in order: processes exit, dirty pages are written, files without writeback are copied out.

        OSError if something could not be written; the machine is off all the same.
        """
        if not self.running:
            return
        try:
            self._audit()
            for mm in list(self.kernel.mms.values()):
                exit_mmap(self.kernel, mm)
            try:
                self.sync()
            finally:
                copy_out(self.kernel)
                close_all(self.kernel, orderly=True)
        finally:
            self._off()

    def power_off(self) -> None:
        """Cut the power: RAM is gone, nothing is written any more but what the disk has been given."""
        if self.running:
            self._audit()
            if self.kernel.events is not None:
                self.kernel.emit(EventKind.POWER_OFF)
            self.kernel.io.abandon()
            self._off()

    def _off(self) -> None:
        self.running = False
        k = self.kernel
        k.io.close()
        close_all(k, orderly=False)
        for inode in list(k.inodes.values()):
            inode.close()
        for mm in k.mms.values():
            mm.dead = True
        k.current = [None] * len(k.cpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.power_off()
