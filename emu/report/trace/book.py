"""A run's events and their book of names, read back: what the numbers in the records stand for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.lab.errors import LabError
from emu.lab.procfs import pid_of
from emu.report.trace.model import Thread

MACHINE_PID = 1
KERNEL_PID = 2
KSWAPD = Thread(KERNEL_PID, 3, "kswapd0", "kernel threads")
FLUSHER = Thread(KERNEL_PID, 4, "kworker/flush", "kernel threads")
IDLE = Thread(KERNEL_PID, 5, "kernel", "kernel threads")
"""Whoever acts when no process runs: boot, shutdown."""

_FIELDS = frozenset({"time_s", "kind", "cpu", "flags", "mm", "mapping", "pfn", "vaddr", "pgoff", "arg", "duration_ns"})


@dataclass(frozen=True, slots=True)
class File:
    """What an address space's number stands for; `dev` is (major, minor)."""

    name: str
    dev: tuple[int, int]
    ino: int
    bdi: str


@dataclass(frozen=True, slots=True)
class Book:
    """Names for the numbers in events; what is not in the book gets a name made of its number.

    `base` is added to all process numbers, where several machines, or the real kernel's processes, share a trace.
    """

    comm: str
    page_size: int
    files: dict[int, File]
    bdis: dict[int, str]
    base: int = 0

    def thread(self, mm: int) -> Thread:
        """Return the main thread of the process with this mm; the kernel itself for 0."""
        if not mm:
            return self.kthread(IDLE)
        pid = self.base + pid_of(mm)
        return Thread(pid, pid, self.comm[:15], self.comm)

    def kthread(self, thread: Thread) -> Thread:
        """Return one of the kernel's threads with this machine's numbers."""
        return thread._replace(pid=thread.pid + self.base, tid=thread.tid + self.base)

    def file(self, mapping: int) -> File:
        """Return the file of an address space."""
        return self.files.get(mapping) or File(f"mapping {mapping}", (0, 0), mapping, "0:0")

    def bdi(self, number: int) -> str:
        """Return the name of a backing device."""
        return self.bdis.get(number, f"0:{number}")


def read_names(path: Path) -> dict[str, Any] | None:
    """Read events.json; None if there is none, or if it holds no JSON object."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def read_book(path: Path, comm: str, base: int = 0) -> Book:
    """Read events.json; of a run that has none, or a damaged one, everything keeps its number."""
    told = read_names(path) or {}
    files, bdis = {}, {}
    for number, known in told.get("mapping", {}).items():
        major, minor = known["dev"]
        files[int(number)] = File(known["name"], (major, minor), known["ino"], known["bdi"])
        bdis[known["bdi_number"]] = known["bdi"]
    page_size = told.get("machine", {}).get("page_size", 4096)
    return Book(comm, page_size, files, bdis, base)


def read_events(path: Path) -> npt.NDArray[Any]:
    """Read events.npy, in order of time.

    Raises
    ------
    LabError
        If it is damaged, or of a fremap that recorded other fields.

    """
    try:
        events: npt.NDArray[Any] = np.load(path)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError):
        # numpy's own words are about pickles, which it takes for whatever it cannot read.
        raise LabError(f"{path} is damaged: it is no whole file of events") from None
    missing = _FIELDS - set(events.dtype.names or ())
    if missing:
        raise LabError(f"{path} was recorded by another version of fremap: it has no {', '.join(sorted(missing))}")
    return events
