"""Samples of a mount: its dirty pages and limits, the disk under its store, and what the real kernel says.

Everything is read from files that hold no state of the writer's: the mount's own .bdi/stats, the kernel's
/proc/meminfo, the disk's counters in /sys. No file of the user's is opened, since closing one on a FUSE
mount writes its dirty pages back.

Amounts are in bytes, rates in bytes a second, times in seconds; counters only grow from mount time on.
"""

import errno
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import psutil

from emu.lab.activity import read_control
from emu.lab.errors import LabError
from fsbackend.mount import check_mount, find_mounts

KIB = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a mount. What could not be read is 0.

    `dirty`, `writeback` and the limits are gauges of the mount (`limit`, `background`: the machine-wide limits as
    the mount sees them; `own_limit`: its share). `dirtied`, `written`, `pauses`, `paused_s`, `errors` are counters.
    `disk_*` are counters of the disk under the store (`disk_queue_s`: seconds in the queue, of all requests together;
    `disk_in_flight` is a gauge). `kernel_*` are the real kernel's whole-system gauges.
    """

    time_s: float
    dirty: int
    writeback: int
    own_limit: int
    limit: int
    background: int
    dirtied: int
    written: int
    bandwidth: int
    rate_limit: int
    pauses: int
    paused_s: float
    errors: int
    disk_read: int
    disk_written: int
    disk_busy_s: float
    disk_reads: int
    disk_writes: int
    disk_queue_s: float
    disk_in_flight: int
    kernel_dirty: int
    kernel_writeback: int

    @property
    def setpoint(self) -> float:
        """Where the control law balances the mount's dirty bytes: between freerun and the limit, in the middle."""
        own_background = self.background * self.own_limit / self.limit if self.limit else 0.0
        freerun = (own_background + self.own_limit) / 2
        return (freerun + self.own_limit) / 2

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Self:
        """Read a sample from text, as a row of a CSV file; raises TypeError or ValueError.

        A field that an older fremap did not record is 0.
        """
        return cls(**{field.name: _number(values.get(field.name, 0)) for field in fields(cls)})


def why_gone(error: OSError) -> str:
    """Return in words why a mount does not answer any more."""
    if error.errno == errno.ENOENT:
        return "unmounted"
    dead = {errno.ENOTCONN, errno.ECONNABORTED}
    return "its daemon died" if error.errno in dead else error.strerror or str(error)


FIELDS = [field.name for field in fields(Sample)]


def _number(text: Any) -> Any:
    value = float(text)
    return int(value) if value.is_integer() and "." not in str(text) else value


def filesystem_of(directory: str) -> Any | None:
    """Return the mount, as psutil tells it, that a directory lies on; None if there is none."""
    here = Path(directory).resolve()
    around = [part for part in psutil.disk_partitions(all=True) if here.is_relative_to(part.mountpoint)]
    return max(around, key=lambda part: len(part.mountpoint), default=None)


def _disk_of(store: str) -> str:
    """Return the name of the block device under a directory, or "" if there is none."""
    device = Path(store).stat().st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if name.exists():
        return name.resolve().name
    # btrfs gives each subvolume a device number of its own; the mount table knows what is under it.
    deepest = filesystem_of(store)
    disk = Path(deepest.device).resolve().name if deepest is not None else ""
    return disk if Path("/sys/class/block", disk).exists() and disk else ""


def _device_of(disk: str) -> str:
    """Return MAJ:MIN of the whole disk, whose backing_dev_info serves its partitions, too; "" if there is none."""
    place = Path("/sys/class/block", disk).resolve()
    if not disk or not place.exists():
        return ""
    whole = place.parent if (place / "partition").exists() else place
    return (whole / "dev").read_text(encoding="ascii").strip()


class _KernelFile:
    """A file of /proc or /sys, read again and again through one descriptor: a sample must cost little."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self) -> bytes:
        """Return its content now; nothing if it cannot be read."""
        if self._fd < 0:
            return b""
        try:
            return os.pread(self._fd, 8192, 0)
        except OSError:
            return b""


def _count(text: bytes, name: bytes) -> int:
    """Return what a line such as ``Dirty:  12 kB`` says, as a plain number; 0 if there is none.

    A line begins with its newline, so that no name is found within another. Quicker than an expression over all
    lines, of which a sample needs half.
    """
    _before, found, after = text.partition(b"\n" + name + b":")
    return int(after.split(maxsplit=1)[0]) if found else 0


def _amount(text: bytes, name: bytes) -> int:
    """Return what a line in kB says, in bytes."""
    return _count(text, name) * KIB


class Observer:
    """Looks at one mount, as often as it is asked to.

    Raises
    ------
    LabError
        If there is no living fremap mount there.
    MountError
        If it is another user's.

    """

    def __init__(self, mountpoint: Path) -> None:
        path = os.path.realpath(mountpoint)
        found = next((mount for mount in find_mounts() if mount.mountpoint == path), None)
        if found is None or found.stale:
            what = f"has lost its daemon; clean it up: fremap umount {mountpoint}"
            none = "is no mount of fremap; `fremap status` lists them"
            raise LabError(f"{mountpoint} {what if found else none}")
        check_mount(path)
        self.mountpoint = path
        self.device = found.device
        self.pid = found.pid
        self.store = str(found.store or "")
        self.disk = _disk_of(self.store) if self.store and Path(self.store).is_dir() else ""
        self.disk_device = _device_of(self.disk)
        # Kernel Documentation/block/stat.rst: sectors of 512 bytes, and ms; psutil has no I/O in flight and no queue.
        self._disk = _KernelFile(f"/sys/class/block/{self.disk}/stat" if self.disk else "/dev/null")
        self._meminfo = _KernelFile("/proc/meminfo")
        self._stats = f"{path}/.bdi/stats"

    def sample(self) -> Sample:
        """Look once; OSError if the mount is gone."""
        told = b"\n" + read_control(self._stats)
        disk = [int(word) for word in self._disk.read().split()] or [0] * 11
        memory = self._meminfo.read()
        return Sample(
            time_s=time.monotonic(),
            dirty=_amount(told, b"BdiReclaimable"),
            writeback=_amount(told, b"BdiWriteback"),
            own_limit=_amount(told, b"BdiDirtyThresh"),
            limit=_amount(told, b"DirtyThresh"),
            background=_amount(told, b"BackgroundThresh"),
            dirtied=_amount(told, b"BdiDirtied"),
            written=_amount(told, b"BdiWritten"),
            bandwidth=_amount(told, b"BdiWriteBandwidth"),
            rate_limit=_amount(told, b"DirtyRatelimit"),
            pauses=_count(told, b"nr_pauses"),
            paused_s=_count(told, b"paused_ms") / 1000,
            errors=_count(told, b"nr_errors"),
            disk_read=disk[2] * 512,
            disk_written=disk[6] * 512,
            disk_busy_s=disk[9] / 1000,
            disk_reads=disk[0],
            disk_writes=disk[4],
            disk_queue_s=disk[10] / 1000,
            disk_in_flight=disk[8],
            kernel_dirty=_amount(memory, b"Dirty"),
            kernel_writeback=_amount(memory, b"Writeback"),
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two samples, a second; `disk_queue` is how many requests the disk had on average."""

    dirtied: float
    written: float
    disk_read: float
    disk_written: float
    disk_busy: float
    disk_reads: float
    disk_writes: float
    disk_queue: float
    paused: float

    @classmethod
    def between(cls, before: Sample, after: Sample) -> Self:
        """Return the rates; 0 where no time has passed."""
        seconds = after.time_s - before.time_s

        def rate(name: str) -> float:
            return float(getattr(after, name) - getattr(before, name)) / seconds if seconds > 0 else 0.0

        return cls(
            dirtied=rate("dirtied"),
            written=rate("written"),
            disk_read=rate("disk_read"),
            disk_written=rate("disk_written"),
            disk_busy=min(rate("disk_busy_s"), 1.0),
            disk_reads=rate("disk_reads"),
            disk_writes=rate("disk_writes"),
            disk_queue=rate("disk_queue_s"),
            paused=rate("paused_s"),
        )


def as_row(sample: Sample) -> list[Any]:
    """Return a sample's values, in the order of FIELDS."""
    return [getattr(sample, name) for name in FIELDS]


def as_record(sample: Sample) -> dict[str, Any]:
    """Return a sample as a plain dict, in the order of FIELDS."""
    return asdict(sample)
