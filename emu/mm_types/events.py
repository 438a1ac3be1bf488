"""What a run leaves behind when asked: one fixed numpy record an event.

Off by default: the kernel holds None instead of an EventLog, and each place that emits tests for that first.

With a file the records are appended to it, about every second, as a .npy whose header is brought up to date each
time: a run that is killed leaves what had happened, and memory does not grow. Beside it lies the book of names,
events.json: what the numbers of address spaces and processes stand for.
"""

import json
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

EVENT_DTYPE = np.dtype(
    [
        ("time_s", "<f8"),
        ("kind", "<u2"),
        ("cpu", "<u2"),
        ("flags", "<u4"),
        ("mm", "<u4"),
        ("mapping", "<u4"),
        ("pfn", "<u8"),
        ("vaddr", "<u8"),
        ("pgoff", "<i8"),
        ("arg", "<i8"),
        ("duration_ns", "<u8"),
    ]
)
"""`time_s` is when it was over, on the machine's clock; it began `duration_ns` before that."""

_BLOCK = 1 << 14
_SAVE_EVERY_S = 1.0


class EventKind(IntEnum):
    """What happened; `arg` carries what the comment says, `pgoff` and `vaddr` where they have a meaning."""

    FAULT = 1  # arg: duration in ns; flags: bit 0 write, 1 major, 2 nonlinear, 3 write-protected, 4 fetch
    REMAP = 2  # arg: nr_pages
    MKCLEAN = 3  # arg: PTEs cleaned
    WRITEBACK_START = 4  # arg: nr_pages; mm: who submits, 0: a kernel thread
    WRITEBACK_END = 5  # arg: nr_pages; flags: errno
    DIRTIED = 6  # arg: nr_dirty of the machine after it
    THROTTLE = 7  # arg: pause in us, which begins now
    TLB_FLUSH = 8  # arg: pages, -1 for all
    RECLAIM = 9  # arg: pages reclaimed; flags: bit 0 direct, else kswapd
    SYSCALL = 10  # arg: errno or 0; flags: its number on x86-64
    POWER_OFF = 11
    SWITCH = 12  # mm: whose page table is loaded
    FSYNC = 13  # arg: duration in us
    ADD_TO_PAGE_CACHE = 14
    DELETE_FROM_PAGE_CACHE = 15
    FLUSHER = 16  # arg: writes submitted in this turn; flags: bit 0 background, 1 periodic
    COUNTER = 17  # arg: the value from now on; flags: a Counter; mapping: its bdi, for what is a bdi's own
    SWAPOUT = 18  # pgoff: the slot; arg: the area
    SWAPIN = 19  # pgoff: the slot; arg: the area


class Counter(IntEnum):
    """What a COUNTER record counts: pages, and for rates pages a second."""

    NR_DIRTY = 1
    NR_WRITEBACK = 2
    NR_FREE = 3
    BACKGROUND_THRESH = 4
    DIRTY_THRESH = 5
    NR_DIRTIED = 6
    NR_WRITTEN = 7
    WRITE_BANDWIDTH = 8
    DIRTY_RATELIMIT = 9
    TASK_RATELIMIT = 10
    BDI_DIRTY = 11
    BDI_THRESH = 12


class EventLog:
    """Records in order of emission, in memory, or in a file that is kept up to date.

    `names` is the book of names, of JSON's types: "mm" and "mapping" map a number to what is known of it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._blocks: list[npt.NDArray[Any]] = [np.zeros(_BLOCK, EVENT_DTYPE)]
        self._used = 0
        self._path = path
        self._file: BinaryIO | None = None
        self._nr_saved = 0
        self._data_at = 0
        self._nr_names_saved = -1
        self._save_due_s = float("-inf")
        self._counters: dict[tuple[int, int], int] = {}
        self.names: dict[str, Any] = {"mm": {}, "mapping": {}}
        if path is not None:
            self._file = path.open("w+b")
            self._write_header()

    def __len__(self) -> int:
        return self._nr_saved + (len(self._blocks) - 1) * _BLOCK + self._used

    def emit(
        self,
        kind: int,
        time_s: float,
        *,
        mm: int = 0,
        cpu: int = 0,
        flags: int = 0,
        vaddr: int = 0,
        mapping: int = 0,
        pfn: int = 0,
        pgoff: int = 0,
        arg: int = 0,
        duration_ns: int = 0,
    ) -> None:
        """Append one record; about a microsecond."""
        if self._used == _BLOCK:
            if self._file is not None:
                self._spill()
            else:
                self._blocks.append(np.zeros(_BLOCK, EVENT_DTYPE))
                self._used = 0
        self._blocks[-1][self._used] = (time_s, kind, cpu, flags, mm, mapping, pfn, vaddr, pgoff, arg, duration_ns)
        self._used += 1
        if self._file is not None and time_s >= self._save_due_s:
            self._spill()
            self._save_due_s = time_s + _SAVE_EVERY_S

    def count(self, counter: Counter, value: int, time_s: float, bdi: int = 0) -> None:
        """Append a COUNTER record, if the value is another than before."""
        if self._counters.get((counter, bdi)) != value:
            self._counters[counter, bdi] = value
            self.emit(EventKind.COUNTER, time_s, flags=counter, mapping=bdi, arg=value)

    def name(self, what: str, number: int, **known: Any) -> None:
        """Note what a number stands for: `what` is "mm" or "mapping"."""
        self.names[what][str(number)] = known

    def array(self) -> npt.NDArray[Any]:
        """Return all records as one structured array, shape (n,), dtype EVENT_DTYPE."""
        present = [*self._blocks[:-1], self._blocks[-1][: self._used]]
        if self._nr_saved and self._path is not None:
            present.insert(0, np.load(self._path))
        return np.concatenate(present)

    def save(self, path: Path) -> None:
        """Write the records as a .npy file, and the book of names beside it."""
        if self._path is not None and path == self._path:
            self._spill()
        else:
            np.save(path, self.array())
            self._save_names(path)

    def close(self) -> None:
        """Bring the file up to date and close it; what is emitted afterwards stays in memory."""
        if self._file is not None:
            self._spill()
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        """Append what is in memory to the file; the header says so only when it is there."""
        assert self._file is not None
        assert self._path is not None
        self._file.seek(self._data_at + self._nr_saved * EVENT_DTYPE.itemsize)
        self._file.write(self._blocks[0][: self._used].tobytes())
        self._nr_saved += self._used
        self._used = 0
        self._write_header()
        if len(self.names["mm"]) + len(self.names["mapping"]) != self._nr_names_saved:
            self._save_names(self._path)

    def _write_header(self) -> None:
        assert self._file is not None
        self._file.flush()
        self._file.seek(0)
        # numpy leaves room in the header for the number of rows to grow (numpy.lib.format: GROWTH_AXIS_MAX_DIGITS).
        shape = {"descr": np.lib.format.dtype_to_descr(EVENT_DTYPE), "fortran_order": False, "shape": (self._nr_saved,)}
        np.lib.format.write_array_header_1_0(self._file, shape)
        self._data_at = self._file.tell()
        self._file.flush()

    def _save_names(self, path: Path) -> None:
        self._nr_names_saved = len(self.names["mm"]) + len(self.names["mapping"])
        scratch = path.with_suffix(".json.tmp")
        scratch.write_text(json.dumps(self.names, indent=1) + "\n", encoding="utf-8")
        scratch.replace(path.with_suffix(".json"))
