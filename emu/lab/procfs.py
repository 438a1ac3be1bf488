"""What /proc would say of an emulated machine: vmstat, meminfo, and of each process its maps, smaps and pagemap.

Plain numbers under the kernel's names; emu.report.procfs_text gives them the kernel's formats. Nothing is changed.

Source: Linux v6.12 fs/proc/meminfo.c: meminfo_proc_show(); mm/vmstat.c: vmstat_text; fs/proc/task_mmu.c:
smaps_account(), show_smap_vma_flags(), pte_to_pagemap_entry(). `Nonlinear` and the flag `nl`: v3.19, smaps_pte_entry().
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emu.hw.pte_format import PteFormat
from emu.hw.swapops import pte_to_swp_entry, swp_offset, swp_type
from emu.mm.overcommit import vm_commit_limit
from emu.mm.page_writeback import global_dirty_limits
from emu.mm_types.mm import Mm
from emu.mm_types.page import (
    ACTIVE,
    INACTIVE,
    PG_ANON,
    PG_DIRTY,
    PG_LAZYFREE,
    PG_REFERENCED,
    UNEVICTABLE,
)
from emu.mm_types.vma import VM_EXEC, VM_LOCKED, VM_NONLINEAR, VM_READ, VM_SHARED, VM_WRITE, VmArea, VmFlag

if TYPE_CHECKING:
    from emu.mm.kernel import Kernel

FIRST_PID = 1000
"""Processes have numbers from here on, in the order in which they began; below lie kernel threads."""

_PM_FILE, _PM_SWAP, _PM_PRESENT, _PM_EXCLUSIVE = 1 << 61, 1 << 62, 1 << 63, 1 << 56
PAGEMAP_BITS = ((63, "present"), (62, "on swap"), (61, "file"), (56, "mapped once"))
PFN_MASK = (1 << 55) - 1
_VM_NAMES = (
    (VmFlag.READ, "rd"),
    (VmFlag.WRITE, "wr"),
    (VmFlag.EXEC, "ex"),
    (VmFlag.SHARED, "sh"),
    (VmFlag.MAYREAD, "mr"),
    (VmFlag.MAYWRITE, "mw"),
    (VmFlag.MAYEXEC, "me"),
    (VmFlag.MAYSHARE, "ms"),
    (VmFlag.GROWSDOWN, "gd"),
    (VmFlag.LOCKED, "lo"),
    (VmFlag.LOCKONFAULT, "lf"),
    (VmFlag.IO, "io"),
    (VmFlag.SEQ_READ, "sr"),
    (VmFlag.RAND_READ, "rr"),
    (VmFlag.DONTCOPY, "dc"),
    (VmFlag.DONTEXPAND, "de"),
    (VmFlag.ACCOUNT, "ac"),
    (VmFlag.NORESERVE, "nr"),
    (VmFlag.NONLINEAR, "nl"),
)


def pid_of(ident: int) -> int:
    """Return the process number of the mm with this number."""
    return FIRST_PID + ident


def vmstat(k: "Kernel") -> dict[str, int]:
    """Return what /proc/vmstat would hold: gauges in pages, then counters; the last are fremap's own."""
    return cheap_vmstat(k) | _lru_counts(k)


def cheap_vmstat(k: "Kernel") -> dict[str, int]:
    """Return what of vmstat a series keeps; about 20 us."""
    limits = global_dirty_limits(k)
    gauges = {
        "nr_free_pages": k.ram.nr_free,
        "nr_unevictable": k.lru.nr[UNEVICTABLE],
        "nr_dirty_threshold": limits.dirty,
        "nr_dirty_background_threshold": limits.background,
    }
    return gauges | k.vmstat.snapshot()


def _lru_counts(k: "Kernel") -> dict[str, int]:
    """Return the pages on each list, by what the kernel calls them."""
    nr, nr_file = k.lru.nr, k.lru.nr_file
    return {
        "nr_inactive_anon": nr[INACTIVE] - nr_file[INACTIVE],
        "nr_active_anon": nr[ACTIVE] - nr_file[ACTIVE],
        "nr_inactive_file": nr_file[INACTIVE],
        "nr_active_file": nr_file[ACTIVE],
    }


def meminfo(k: "Kernel") -> dict[str, int]:
    """Return what /proc/meminfo would hold, in kB; only the fields that this kernel has something to say of.

    MemAvailable is free memory above the low watermark, and the page cache but for half of it or that watermark
    (si_mem_available()).
    """
    pages, stat = vmstat(k), k.vmstat
    low = k.watermarks.low
    pagecache = pages["nr_active_file"] + pages["nr_inactive_file"]
    available = max(k.ram.nr_free - low, 0) + pagecache - min(pagecache // 2, low)
    # Shared anonymous memory belongs to no device; that a file has no descriptor may mean that the power is off.
    shmem = sum(inode.mapping.pages.nr_pages for (dev, _), inode in k.inodes.items() if not dev)
    told = {
        "MemTotal": k.ram.nr_frames,
        "MemFree": k.ram.nr_free,
        "MemAvailable": available,
        "Buffers": 0,
        "Cached": stat.nr_file_pages,
        "SwapCached": stat.nr_swapcached,
        "Active": pages["nr_active_anon"] + pages["nr_active_file"],
        "Inactive": pages["nr_inactive_anon"] + pages["nr_inactive_file"],
        "Active(anon)": pages["nr_active_anon"],
        "Inactive(anon)": pages["nr_inactive_anon"],
        "Active(file)": pages["nr_active_file"],
        "Inactive(file)": pages["nr_inactive_file"],
        "Unevictable": pages["nr_unevictable"],
        "Mlocked": stat.nr_mlock,
        "SwapTotal": k.swap.total_pages,
        "SwapFree": k.swap.nr_free,
        "Dirty": stat.nr_dirty,
        "Writeback": stat.nr_writeback,
        "AnonPages": stat.nr_anon_pages,
        "Mapped": stat.nr_mapped,
        "Shmem": shmem,
        "PageTables": stat.nr_page_table_pages,
        "CommitLimit": vm_commit_limit(k),
        "Committed_AS": k.vm_committed_as,
    }
    kib = k.page_size // 1024
    return {name: nr_pages * kib for name, nr_pages in told.items()}


@dataclass(slots=True)
class Smaps:
    """What smaps says of one VMA, in bytes; `pss` and `pss_dirty` divide a page by those who map it."""

    rss: int = 0
    pss: float = 0.0
    pss_dirty: float = 0.0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    referenced: int = 0
    anonymous: int = 0
    anon_huge: int = 0
    lazyfree: int = 0
    swap: int = 0
    swap_pss: float = 0.0
    nonlinear: int = 0


def smaps(k: "Kernel", vma: VmArea) -> Smaps:
    """Look at every PTE of a VMA; `nonlinear` counts file pages that lie elsewhere than in order."""
    fmt, mem_map, page = k.fmt, k.mem_map, k.page_size
    found = Smaps()
    if vma.mapping is not None:
        # Shared anonymous memory: its slots are its own, whoever maps it (shmem_swap_usage()); not in swap_pss.
        found.swap = page * sum(vma.vma_address(pgoff) >= 0 for pgoff in vma.mapping.swapped)
    vaddrs, ptes = vma.mm.pt.entries(vma.start, vma.end)
    for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
        if not fmt.pte_present(pte):
            if is_file_pte(fmt, pte):
                found.nonlinear += page * (fmt.pte_to_pgoff(pte) != vma.linear_pgoff(vaddr))
            else:
                entry = pte_to_swp_entry(fmt, pte)
                area = k.swap.areas[swp_type(entry)]
                # The slot's users without the swap cache, as swp_swapcount() counts them.
                users = int(area.swap_map[swp_offset(entry)]) - (entry in k.swap.cache)
                found.swap += page
                found.swap_pss += page / max(users, 1)
            continue
        pfn = fmt.pte_pfn(pte)
        flags, mapcount = mem_map.flags[pfn], max(mem_map.mapcount[pfn], 1)
        dirty = bool(fmt.pte_dirty(pte) or flags & PG_DIRTY)
        found.rss += page
        found.pss += page / mapcount
        found.pss_dirty += page / mapcount * dirty
        found.referenced += page * bool(fmt.pte_young(pte) or flags & PG_REFERENCED)
        if flags & PG_ANON:
            found.anonymous += page
            found.lazyfree += page * bool(flags & PG_LAZYFREE and not dirty)
            found.anon_huge += page * (vaddr >> vma.mm.pt.leaf_shift in vma.mm.pt.huge)
        elif vma.flags & VM_NONLINEAR:
            found.nonlinear += page * (mem_map.index[pfn] != vma.linear_pgoff(vaddr))
        if mapcount > 1:
            found.shared_dirty += page * dirty
            found.shared_clean += page * (not dirty)
        else:
            found.private_dirty += page * dirty
            found.private_clean += page * (not dirty)
    return found


def is_file_pte(fmt: PteFormat, pte: int) -> bool:
    """Tell whether an entry is a file PTE, of a nonlinear mapping."""
    return not fmt.pte_present(pte) and fmt.pte_file(pte)


def vm_flag_names(vma: VmArea) -> list[str]:
    """Return the two-letter names of a VMA's flags, as smaps prints them."""
    return [name for flag, name in _VM_NAMES if vma.flags & flag]


def permissions(vma: VmArea) -> str:
    """Return the permissions as maps prints them."""
    letters = ((VM_READ, "r"), (VM_WRITE, "w"), (VM_EXEC, "x"))
    return "".join(letter if vma.flags & flag else "-" for flag, letter in letters) + (
        "s" if vma.flags & VM_SHARED else "p"
    )


def file_of(k: "Kernel", vma: VmArea) -> tuple[int, int, int, str]:
    """Return (major, minor, inode, name) of what a VMA maps; zeros and "" for anonymous memory."""
    if vma.mapping is None:
        return 0, 0, 0, ""
    for (dev, ino), inode in k.inodes.items():
        if inode.mapping is vma.mapping:
            return os.major(dev), os.minor(dev), ino, inode.name
    return 0, 0, 0, vma.mapping.host.name


def pagemap(k: "Kernel", vma: VmArea) -> npt.NDArray[np.uint64]:
    """Return a 64-bit word a page of a VMA, as /proc/PID/pagemap has them.

    Bits (Linux v6.12 Documentation/admin-guide/mm/pagemap.rst): 0 to 54 the frame, if present (63); 56 mapped once
    only; 61 a page of a file or shared memory; 62 on swap: then bits 0 to 4 have the area, 5 to 54 the slot. A file PTE
    without its page is 0, as a page not there.
    """
    fmt, mem_map = k.fmt, k.mem_map
    words = np.zeros(vma.nr_pages, np.uint64)
    vaddrs, ptes = vma.mm.pt.entries(vma.start, vma.end)
    for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
        place = (vaddr - vma.start) >> k.page_shift
        if fmt.pte_present(pte):
            pfn = fmt.pte_pfn(pte)
            word = _PM_PRESENT | pfn
            word |= 0 if mem_map.flags[pfn] & PG_ANON or pfn == k.zero_pfn else _PM_FILE
            word |= _PM_EXCLUSIVE if mem_map.mapcount[pfn] == 1 else 0
            words[place] = word
        elif not is_file_pte(fmt, pte):
            entry = pte_to_swp_entry(fmt, pte)
            words[place] = _PM_SWAP | swp_type(entry) | swp_offset(entry) << 5
    return words


def processes(k: "Kernel") -> dict[int, Mm]:
    """Return the processes by number, those that a power cut ended included."""
    return {pid_of(ident): mm for ident, mm in k.mms.items()}


def locked(vma: VmArea) -> bool:
    """Tell whether a VMA is mlocked."""
    return bool(vma.flags & VM_LOCKED)
