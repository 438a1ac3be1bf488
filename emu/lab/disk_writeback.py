"""One writer on one disk, its dirty pages once in a mount of fremap, once in the real kernel, under the same limit.

Each cell has a fresh filesystem on a loop device, so that none inherits what another left. The mount writes its store
with O_DIRECT: what it says was written is on the device. The kernel is held to the limit by the filesystem's own
backing_dev_info (strict_limit and max_bytes), since the limits of the whole system are not ours to change.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emu.lab.errors import LabError
from emu.lab.loopdisk import LoopDisk, debugfs, loop_disk
from emu.lab.observe import FIELDS, Observer, Sample, as_record
from emu.lab.record import SAMPLES
from emu.units import MIB
from fsbackend.mount import temporary_mount
from fsbackend.throttle import DirtyParams

INTERVAL_S = 0.025
DISK_NBYTES = 640 << 20
_WRITER = Path(__file__).with_name("disk_writer.py")
_KIB = 1024

Via = Literal["fremap", "kernel"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run: the filesystem of the disk, whose dirty pages, their limit, how much is written."""

    filesystem: str
    via: Via
    limit: int
    nbytes: int
    log_every_ms: float = 50

    @property
    def name(self) -> str:
        """A name for a directory."""
        return f"{self.filesystem}-{self.limit >> 10}K-{self.via}"


@dataclass(frozen=True, slots=True)
class DiskRow:
    """What came out, short enough for a line. `paused_s` is None for the kernel, which tells it to nobody.

    `write_ms` is the longest call of write, `p50_ms` and `p99_ms` are of the log's fsyncs; `disk_per_byte` is what the
    device was given for each byte that the programs wrote.
    """

    disk: str
    by: str
    limit_mib: float
    most_mib: float
    mib_s: float
    paused_s: float | None
    write_ms: float
    fsyncs: int
    p50_ms: float | None
    p99_ms: float | None
    disk_per_byte: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell's row, the samples that it was made of, and each fsync of the log in seconds."""

    cell: Cell
    row: DiskRow
    samples: list[Sample]
    fsync_s: list[float]

    @property
    def most_dirty(self) -> int:
        """The most bytes that were dirty or under writeback in any sample."""
        return max(sample.dirty + sample.writeback for sample in self.samples)


def kernel_sample(stats: Path, disk: LoopDisk) -> Sample:
    """Return what the real kernel says of a filesystem's dirty pages, in the terms of a mount of fremap."""
    rows = (line.split() for line in stats.read_text(encoding="ascii").splitlines())
    told = {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) >= 2}
    memory = {
        row[0].rstrip(":"): int(row[1])
        for row in (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    }
    known = {
        "time_s": time.monotonic(),
        "dirty": told["BdiReclaimable"] * _KIB,
        "writeback": told["BdiWriteback"] * _KIB,
        "own_limit": told["BdiDirtyThresh"] * _KIB,
        "limit": told["DirtyThresh"] * _KIB,
        "background": told["BackgroundThresh"] * _KIB,
        "dirtied": told["BdiDirtied"] * _KIB,
        "written": told["BdiWritten"] * _KIB,
        "bandwidth": told["BdiWriteBandwidth"] * _KIB,
        "disk_written": disk.written(),
        "disk_busy_s": disk.busy_s(),
        "kernel_dirty": memory["Dirty"] * _KIB,
        "kernel_writeback": memory["Writeback"] * _KIB,
    }
    # What only a mount of fremap tells, such as its pauses, stays 0.
    return Sample.from_mapping(dict.fromkeys(FIELDS, 0) | known)


@contextmanager
def _ground(cell: Cell, disk: LoopDisk, place: Path) -> Iterator[tuple[Path, Callable[[], Sample]]]:
    """Yield where to write, and how to look at what is dirty there."""
    if cell.via == "kernel":
        with disk.limited(cell.limit), debugfs(place) as debug:
            stats = debug / "bdi" / disk.bdi / "stats"
            if not stats.is_file():
                raise LabError(f"debugfs has no {stats.relative_to(debug)}: this kernel does not tell its dirty pages")
            yield disk.directory, lambda: kernel_sample(stats, disk)
        return
    params = DirtyParams(background_bytes=cell.limit // 2, dirty_bytes=cell.limit)
    store = disk.directory / "store"
    store.mkdir()
    with temporary_mount("disk", store, params=params, direct=True) as mounted:
        observer = Observer(Path(mounted.path))

        def look() -> Sample:
            sample = observer.sample()
            told = as_record(sample) | {"disk_written": disk.written(), "disk_busy_s": disk.busy_s()}
            return Sample.from_mapping(told)

        yield Path(mounted.path), look


def run_cell(cell: Cell, records: Path, place: Path | None = None) -> Measured:
    """Run a cell and keep its samples in `records`, as a run that can be reported.

    Raises
    ------
    LabError
        If there can be no such disk here, or the writer failed.

    """
    with (
        tempfile.TemporaryDirectory(prefix="fremap-disk-", dir=place) as scratch,
        loop_disk(cell.filesystem, max(DISK_NBYTES, 4 * cell.nbytes), Path(scratch)) as disk,
    ):
        before = disk.written()
        with _ground(cell, disk, Path(scratch)) as (directory, look):
            samples, told = watch_writer(cell, directory, look, records)
        _settle(disk)
        disk_nbytes = disk.written() - before
    return Measured(cell, _row_of(cell, samples, told, disk_nbytes), samples, told["fsync_s"])


def _row_of(cell: Cell, samples: list[Sample], told: dict[str, Any], disk_nbytes: int) -> DiskRow:
    spent_ms = np.array(told["fsync_s"]) * 1000
    median, late = np.percentile(spent_ms, (50, 99)).round(2).tolist() if len(spent_ms) else (None, None)
    return DiskRow(
        disk=cell.filesystem,
        by=cell.via,
        limit_mib=round(cell.limit / MIB, 2),
        most_mib=round(max(sample.dirty + sample.writeback for sample in samples) / MIB, 2),
        mib_s=round(told["nbytes"] / told["synced_s"] / MIB, 1),
        paused_s=round(samples[-1].paused_s - samples[0].paused_s, 3) if cell.via == "fremap" else None,
        write_ms=round(told["longest_write_s"] * 1000, 1),
        fsyncs=len(spent_ms),
        p50_ms=median,
        p99_ms=late,
        disk_per_byte=round(disk_nbytes / told["nbytes"], 3),
    )


def _settle(disk: LoopDisk) -> None:
    """Have the filesystem itself write what it still owes: journal, trees."""
    subprocess.run(["sync", "--file-system", str(disk.directory)], check=True)  # noqa: S603, S607 - fixed words


def watch_writer(
    cell: Cell, directory: Path, look: Callable[[], Sample], records: Path
) -> tuple[list[Sample], dict[str, Any]]:
    """Run the writer and sample until it ends; samples.csv is written as it goes."""
    records.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(_WRITER), str(directory), str(cell.nbytes >> 20), str(cell.log_every_ms)]
    samples = [look()]
    with (records / SAMPLES).open("w", newline="", encoding="ascii") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:  # noqa: S603 - our own program
            try:
                while True:
                    writer.writerow(as_record(samples[-1]))
                    file.flush()
                    try:
                        out, err = child.communicate(timeout=INTERVAL_S)
                        break
                    except subprocess.TimeoutExpired:
                        samples.append(look())
            except BaseException:
                child.kill()
                raise
        samples.append(look())
        writer.writerow(as_record(samples[-1]))
    if child.returncode:
        words = err.strip().splitlines()
        raise LabError(f"the writer failed on {cell.name}: {words[-1] if words else child.returncode}")
    told: dict[str, Any] = json.loads(out)
    return samples, told
