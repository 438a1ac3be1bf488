"""Accesses: loads and stores of one emulated process, single, in ranges and in batches, all through its CPU's MMU.

They raise SegmentationFault, BusError or OutOfMemory, as signals would come.
"""

import errno
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from emu.hw.mmu import AccessKind, kind_of
from emu.mm.entry import Task, access, load_bytes, run_tasks, store_bytes
from emu.mm.kernel import Kernel
from emu.mm_types.mm import Mm

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LOAD_BYTE = kind_of(AccessKind.LOAD, 1)
_STORE_BYTE = kind_of(AccessKind.STORE, 1)
_LOAD = int(AccessKind.LOAD)
_STORE = int(AccessKind.STORE)


class Accesses:
    """What user mode does with an address space; addresses (`vaddr`) and lengths (`nbytes`) are in bytes."""

    def __init__(self, kernel: Kernel, mm: Mm) -> None:
        self.kernel = kernel
        self.mm = mm

    def _alive(self) -> None:
        if self.mm.dead:
            raise OSError(errno.ESRCH, "the process has exited, or its machine is off")

    def task(self, vaddrs: npt.ArrayLike, kinds: npt.ArrayLike, values: npt.ArrayLike | None = None) -> Task:
        """Make a batch of accesses for Machine.run; shapes (n,), a scalar kind or value stands for all.

        `kinds`: emu.hw.mmu.kind_of(AccessKind, nbytes). Loads put what they loaded into `values` of the task.
        """
        self._alive()
        # Copied only if need be: the MMU takes arrays that may be written, though it writes to `values` alone.
        where = np.require(vaddrs, np.uint64, ["C", "W"])
        count = len(where)
        what = np.require(np.broadcast_to(np.asarray(kinds, dtype=np.uint8), count), np.uint8, ["C", "W"])
        data: npt.NDArray[np.uint64]
        if values is None:
            data = np.zeros(count, np.uint64)
        else:
            data = np.array(np.broadcast_to(np.asarray(values, dtype=np.uint64), count))
        return Task(self.mm, where, what, data)

    def run(
        self, vaddrs: npt.ArrayLike, kinds: npt.ArrayLike, values: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.uint64]:
        """Do a whole array of accesses; returns the values, with what was loaded in the place of the loads."""
        task = self.task(vaddrs, kinds, values)
        run_tasks(self.kernel, [task])
        return task.values

    def load(self, vaddr: int, nbytes: int) -> bytes:
        """Load bytes."""
        self._alive()
        buffer = np.empty(nbytes, np.uint8)
        load_bytes(self.kernel, self.mm, vaddr, buffer)
        return buffer.tobytes()

    def store(self, vaddr: int, data: "Buffer | npt.NDArray[np.uint8]") -> None:
        """Store bytes; what lies before a signal has been stored."""
        self._alive()
        buffer: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)  # type: ignore[arg-type]
        store_bytes(self.kernel, self.mm, vaddr, buffer)

    def load_byte(self, vaddr: int) -> int:
        """Load one byte."""
        return access(self.kernel, self.mm, vaddr, _LOAD_BYTE, 0)

    def store_byte(self, vaddr: int, value: int) -> None:
        """Store one byte."""
        access(self.kernel, self.mm, vaddr, _STORE_BYTE, value)

    def load_word(self, vaddr: int) -> int:
        """Load 8 bytes as an unsigned number."""
        return access(self.kernel, self.mm, vaddr, _LOAD, 0)

    def store_word(self, vaddr: int, value: int) -> None:
        """Store an unsigned number of 8 bytes."""
        access(self.kernel, self.mm, vaddr, _STORE, value)
