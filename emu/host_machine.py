"""HostMachine: the kernel underneath in the place of a Machine, for workloads that ask for one.

Its processes are HostProcesses. What a real kernel does not tell a program is UNKNOWN, a NaN: it goes through a
workload's sums and ratios and comes out as null.
"""

import errno
import math
import os
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from emu.host import HostProcess

UNKNOWN = math.nan


class _Counters(dict[str, float]):
    """A snapshot of counters: names that are not known have the value UNKNOWN."""

    def __missing__(self, _name: str) -> float:
        return UNKNOWN


class HostVmstat:
    """The counters of emu.mm_types.vmstat.VmStat, as far as /proc knows them of our own processes."""

    def __init__(self, machine: "HostMachine") -> None:
        self._machine = machine

    @property
    def pgfault(self) -> int:
        """Faults of all processes, those of the child's own code among them."""
        return sum(sum(faults) for faults in self._machine.faults())

    @property
    def pgmajfault(self) -> int:
        """Faults with I/O."""
        return sum(major for _minor, major in self._machine.faults())

    def snapshot(self) -> dict[str, float]:
        """Return what is known; every other name has the value UNKNOWN."""
        return _Counters(pgfault=self.pgfault, pgmajfault=self.pgmajfault)

    def __getattr__(self, name: str) -> float:
        if name.startswith("__"):
            raise AttributeError(name)
        return UNKNOWN


class HostMachine:
    """The computer that this runs on; leave its `with` block, or shut it down, and its processes end.

    `notes` are sentences on what was asked for and has no meaning here.
    """

    def __init__(self, **options: object) -> None:
        self.running = True
        self.notes: list[str] = []
        self.processes: list[HostProcess] = []
        self._gone: list[tuple[int, int]] = []
        if options:
            self.notes.append(f"{', '.join(sorted(options))}: the machine is the computer as it is")
        self.vmstat = HostVmstat(self)
        cost = SimpleNamespace(nbytes_peak=UNKNOWN, node_visits=UNKNOWN)
        lru = SimpleNamespace(nr=(UNKNOWN, UNKNOWN, UNKNOWN))
        self.kernel = SimpleNamespace(rmap=SimpleNamespace(cost=cost), lru=lru, vmstat=self.vmstat)

    def spawn(self, *, privileged: bool = True) -> HostProcess:
        """Start a process; it has this user's privileges."""
        if not self.running:
            raise OSError(errno.ESRCH, "the machine is off")
        if not privileged:
            self._note("privileged=False: the process has this user's privileges")
        process = HostProcess()
        self.processes.append(process)
        return process

    def faults(self) -> list[tuple[int, int]]:
        """Return minor and major faults of each process, of those that ended as far as they were seen."""
        return [*self._gone, *(process.mm.faults for process in self.processes)]

    def sync(self) -> None:
        """fsync(2) of every file that a process maps or has mapped."""
        for process in self.processes:
            for file in list(process.files):
                os.fsync(file.fd)

    def power_off(self) -> None:
        """End the processes: this kernel and its page cache go on."""
        if self.running:
            self._note("power_off(): the processes end; nobody cuts this computer's power, and its page cache stays")
        self.shutdown()

    def shutdown(self) -> None:
        """End the processes."""
        if self.running:
            self._gone = self.faults()
            for process in self.processes:
                process.exit()
            self.processes = []
            self.running = False

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def run(self, _tasks: object) -> None:
        """Fail: batches of several processes in turns are the emulated machine's."""
        raise OSError(errno.ENOTSUP, "Machine.run() has no meaning on the host: run the accesses of each process")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise OSError(errno.ENOTSUP, f"machine.{name} has no meaning on the host")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()
