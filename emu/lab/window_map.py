"""Which page of its file each page of a mapping shows, and in what state that page is: a look at one moment.

A look changes nothing: page tables, struct pages and tags are read, no page is faulted in. A run keeps its looks in
windows.npz, written anew after each, so that a run that is killed leaves those that were taken.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from emu.lab.errors import LabError
from emu.machine import Machine
from emu.mapping import Mapping
from emu.mm.inode import Inode
from emu.mm_types.page import PG_DIRTY, PG_WRITEBACK
from emu.process import Process

WINDOWS = "windows.npz"


class PageState(IntEnum):
    """What is known of a page of a mapping; the kernel's view, but for UNNOTICED."""

    ABSENT = 0  # no PTE shows it just now
    CLEAN = 1
    DIRTY = 2
    WRITEBACK = 3
    UNNOTICED = 4  # the PTE is dirty and writable, the page clean: no writeback finds what is stored now


@dataclass(frozen=True, slots=True)
class Look:
    """A mapping at one moment: `pgoffs[i]` (-1 unknown) and `states[i]` belong to its page i."""

    label: str
    pgoffs: npt.NDArray[np.int64]
    states: npt.NDArray[np.uint8]

    def count(self, state: PageState) -> int:
        """Return how many pages are in a state."""
        return int(np.count_nonzero(self.states == state))


def look_at(machine: Machine, process: Process, mapping: Mapping, label: str) -> Look:
    """Look at every page of a mapping of a file; LabError if it is not one.

    UNNOTICED is told of accounted files only: elsewhere a dirty PTE of a clean page is the usual state.
    """
    inode = mapping.file
    if not isinstance(inode, Inode):
        raise LabError("only mappings of files can be looked at")
    kernel, mm = machine.kernel, process.mm
    page_size = kernel.page_size
    nr_pages = -(-len(mapping) // page_size)
    start, end = mapping.vaddr, mapping.vaddr + nr_pages * page_size
    pgoffs = np.full(nr_pages, -1, np.int64)
    states = np.zeros(nr_pages, np.uint8)
    for vma in mm.vmas:
        low, high = max(vma.start, start), min(vma.end, end)
        if low < high:
            slots = np.arange((low - start) // page_size, (high - start) // page_size)
            pgoffs[slots] = (low - vma.start) // page_size + vma.pgoff + np.arange(len(slots))
    vaddrs, ptes = mm.pt.entries(start, end)
    fmt, mem_map = kernel.fmt, kernel.mem_map
    for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
        slot = (vaddr - start) // page_size
        if not fmt.pte_present(pte):
            if fmt.pte_file(pte):
                pgoffs[slot] = fmt.pte_to_pgoff(pte)
            continue
        pfn = fmt.pte_pfn(pte)
        pgoffs[slot] = mem_map.index[pfn]
        flags = int(mem_map.flags_array[pfn])
        if flags & PG_WRITEBACK:
            states[slot] = PageState.WRITEBACK
        elif flags & PG_DIRTY:
            states[slot] = PageState.DIRTY
        elif fmt.pte_dirty(pte) and fmt.pte_write(pte) and inode.mapping.account_dirty:
            states[slot] = PageState.UNNOTICED
        else:
            states[slot] = PageState.CLEAN
    return Look(label, pgoffs, states)


def save_looks(looks: list[Look], directory: Path) -> None:
    """Write the looks of a run, in order."""
    arrays: dict[str, npt.NDArray[np.generic]] = {"labels": np.array([look.label for look in looks])}
    for number, look in enumerate(looks):
        arrays[f"pgoffs_{number}"], arrays[f"states_{number}"] = look.pgoffs, look.states
    scratch = directory / f".{WINDOWS}"
    np.savez_compressed(scratch, **arrays)  # type: ignore[arg-type] # its stub takes a flag among the arrays
    scratch.rename(directory / WINDOWS)


def read_looks(directory: Path) -> list[Look]:
    """Return the looks of a run; none if it took none."""
    path = directory / WINDOWS
    if not path.is_file():
        return []
    try:
        with np.load(path) as arrays:
            return [
                Look(str(label), arrays[f"pgoffs_{number}"], arrays[f"states_{number}"])
                for number, label in enumerate(arrays["labels"])
            ]
    except OSError as error:
        raise LabError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, KeyError, EOFError, BadZipFile):
        raise LabError(f"{path} is damaged: it is no whole file of looks at the window") from None
