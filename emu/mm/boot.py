"""Wiring at boot, and what an orderly shutdown owes to files without writeback."""

import errno
import os

from emu.errors import KernelBug
from emu.mm.fault import do_fault
from emu.mm.io import IoQueue
from emu.mm.kernel import FileFault, Kernel
from emu.mm.legacy_fault import legacy_fault
from emu.mm.page_writeback import set_page_dirty
from emu.mm.rmap import STRATEGIES
from emu.mm.trace import note_machine
from emu.mm.vmscan import try_to_free_pages
from emu.mm_types.page import PG_DIRTY

FAULT_PATHS: dict[str, FileFault] = {"merged": do_fault, "legacy": legacy_fault}


def boot(k: Kernel, *, rmap: str, io_depth: int) -> None:
    """Connect the rooms that the Kernel names but does not import. ValueError for an unknown name."""
    if k.options.fault_path not in FAULT_PATHS:
        raise ValueError(f"no fault path {k.options.fault_path!r}; there are {', '.join(FAULT_PATHS)}")
    if rmap not in STRATEGIES:
        raise ValueError(f"no reverse-map strategy {rmap!r}; there are {', '.join(STRATEGIES)}")
    k.rmap = STRATEGIES[rmap](k)
    note_machine(k, rmap)
    k.io = IoQueue(k.clock, io_depth)
    k.set_page_dirty = set_page_dirty
    k.file_fault = FAULT_PATHS[k.options.fault_path]
    k.try_to_free_pages = try_to_free_pages
    k.kthreads.flusher_next_s = k.clock.now() + k.params.periodic_s


def copy_out(k: Kernel) -> None:
    """Copy what files without writeback hold in RAM to their host files; all processes have exited.

    Until now ordinary readers of those files saw the old bytes; after a power cut they still do.
    """
    for inode in k.inodes.values():
        mapping = inode.mapping
        if mapping.writeback or inode.anonymous or not inode.writable:
            continue
        for pgoff, pfn in mapping.pages:
            if k.mem_map.mapcount[pfn]:
                raise KernelBug(f"copy_out of a mapped page: {k.mem_map.describe(pfn)}")
            first_byte = pgoff << k.page_shift
            nbytes = min(k.page_size, mapping.i_size - first_byte)
            if k.mem_map.flags[pfn] & PG_DIRTY and nbytes > 0:
                if os.pwrite(inode.fd_buffered, k.ram.frame(pfn)[:nbytes], first_byte) != nbytes:
                    raise OSError(errno.EIO, f"{inode.name} took only part of page {pgoff}")
                k.mem_map.flags[pfn] &= ~PG_DIRTY
                k.vmstat.nr_copyout += 1
        os.fdatasync(inode.fd_buffered)
