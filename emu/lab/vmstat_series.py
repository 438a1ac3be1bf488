"""A machine's counters over time: a line of vmstat.csv every tenth of a second while a workload runs.

A thread of the host reads plain integers of the emulated kernel, which has no locks to take and none to wait for. Each
line is flushed at once: of a run that is killed everything up to the last tenth of a second is there.
"""

import csv
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from emu.lab.errors import LabError
from emu.lab.procfs import cheap_vmstat

if TYPE_CHECKING:
    from emu.mm.kernel import Kernel

VMSTAT = "vmstat.csv"
INTERVAL_S = 0.1
_TIMES = ("time_s", "clock_s")


class VmstatSeries:
    """Writes vmstat.csv into a directory until it is stopped; the first line at once, the last one when it stops.

    Columns: `time_s` (the host's monotonic clock), `clock_s` (the machine's), then the counters of /proc/vmstat.
    """

    def __init__(self, kernel: "Kernel", directory: Path, interval_s: float = INTERVAL_S) -> None:
        self._kernel = kernel
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._file = (directory / VMSTAT).open("w", newline="", encoding="ascii")
        self._writer = csv.writer(self._file)
        self._writer.writerow([*_TIMES, *cheap_vmstat(kernel)])
        self.nr_samples = 0
        self.cpu_s = 0.0
        self.sample()
        self._thread = threading.Thread(target=self._run, name="vmstat-series", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.sample()
        self.cpu_s += time.thread_time()

    def sample(self) -> None:
        """Write a line now; nothing once it was stopped."""
        with self._writing:
            if self._file.closed:
                return
            row = [f"{time.monotonic():.6f}", f"{self._kernel.clock.now():.6f}", *cheap_vmstat(self._kernel).values()]
            self._writer.writerow(row)
            self._file.flush()
            self.nr_samples += 1

    def stop(self) -> None:
        """Write the last line and close the file."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self.sample()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def read_vmstat_series(directory: Path) -> list[dict[str, float]]:
    """Read a run's counters over time, oldest first; a line cut short by a kill is left out.

    Raises
    ------
    LabError
        If there is no such file.

    """
    path = directory / VMSTAT
    rows = []
    try:
        with path.open(newline="", encoding="ascii", errors="replace") as file:
            reader = csv.reader(file)
            names = next(reader, [])
            for words in reader:
                try:
                    if len(words) == len(names):
                        values = [float(w) if n in _TIMES else int(w) for n, w in zip(names, words, strict=True)]
                        rows.append(dict(zip(names, values, strict=True)))
                except ValueError:
                    continue
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error
    except csv.Error as error:
        raise LabError(f"{path} is damaged: {error}") from None
    if names and not set(_TIMES) <= set(names):
        raise LabError(f"{path} is damaged: its first line does not name the columns")
    return rows


