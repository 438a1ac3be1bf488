"""The real kernel's tracepoints for one mount, taken from tracefs into a run while it is recorded.

A tracing instance of our own is used, so that nobody else's tracing is touched: its own buffer, clock (monotonic, as
the samples have), events and filters. It is removed however the recording ends; one that a killed recording left is
removed by the next. Where tracefs is not mounted, root reaches it through a mount that no directory shows (fsmount),
which ends with this process.

Source: Linux v6.12 Documentation/trace/ftrace.rst, "Instances", "trace_pipe"; Documentation/trace/events.rst.
"""

import contextlib
import ctypes
import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from emu.lab.errors import LabError

KERNEL_TRACE = "kernel.trace"
BUFFER_KIB = 16 << 10
"""Per CPU: at 200 bytes an event, 80,000 events between two looks."""

_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_SYSTEMS = ("writeback", "fuse")
_OF_DISKS = frozenset({"balance_dirty_pages", "bdi_dirty_ratelimit", "writeback_start", "writeback_written"})
_PREFIX = "fremap-"
_LOOK_EVERY_S = 0.1
_READ_NBYTES = 1 << 16
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE, _CLOEXEC = 6, 1
_HEADER = """\
# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def hidden_mount(fstype: str) -> int:
    """Mount a kernel filesystem where nobody sees it and return its descriptor; OSError if that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *args: object) -> int:
        result = int(libc.syscall(number, *args))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), fstype)
        return result

    context = call(_FSOPEN, fstype.encode(), _CLOEXEC)
    try:
        call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


@contextlib.contextmanager
def tracefs() -> Iterator[Path]:
    """Give a path of tracefs, mounted or hidden.

    Raises
    ------
    LabError
        One line, if it cannot be reached or written.

    """
    for place in _PLACES:
        if Path(place, "instances").is_dir():
            if not os.access(f"{place}/instances", os.W_OK):
                raise LabError(f"{place} may not be written by this user: only root traces the kernel")
            yield Path(place)
            return
    try:
        fd = hidden_mount("tracefs")
    except OSError as error:
        why = error.strerror or str(error)
        raise LabError(f"tracefs is not mounted and cannot be ({why}): mount -t tracefs nodev {_PLACES[0]}") from None
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def event_filter(event_format: str, devices: list[str]) -> str:
    """Return the filter that keeps an event to devices ("MAJ:MIN"), from its format; "" if it names none."""
    for field in ("bdi", "name"):
        if re.search(rf"field:char {field}\[", event_format):
            return " || ".join(f'{field} == "{device}"' for device in devices)
    for field in ("connection", "sb_dev", "dev", "s_dev"):
        if re.search(rf"field:dev_t {field};", event_format):
            # The kernel's own dev_t: the minor in 20 bits.
            numbers = [(int(major) << 20) + int(minor) for major, minor in (device.split(":") for device in devices)]
            return " || ".join(f"{field} == {number}" for number in numbers)
    return ""


class KernelTrace:
    """Takes tracepoints into `path` from `with` to its end; `nr_events` lines, `cpu_s` for reading them.

    `devices`: whose events are taken, as "MAJ:MIN": first the mount, then perhaps the disk under it, of which only
    writeback as a whole is taken, not each inode's. What names no device (global_dirty_state) comes along.

    Raises
    ------
    LabError
        If the kernel's tracing cannot be used here; nothing is left behind.

    """

    def __init__(self, path: Path, devices: list[str], buffer_kib: int = BUFFER_KIB) -> None:
        self._path = path
        self._devices = devices
        self._buffer_kib = buffer_kib
        self._undo = contextlib.ExitStack()
        self._stop = threading.Event()
        self.nr_events = 0
        self.nr_lost = 0
        self.cpu_s = 0.0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            root = undo.enter_context(tracefs())
            try:
                self._begin(root, undo)
            except OSError as error:
                raise LabError(f"the kernel's tracing cannot be used: {error.filename}: {error.strerror}") from None
            self._undo = undo.pop_all()
        return self

    def _begin(self, root: Path, undo: contextlib.ExitStack) -> None:
        _sweep(root / "instances")
        instance = root / "instances" / f"{_PREFIX}{os.getpid()}"
        instance.mkdir()
        undo.callback(_remove, instance)
        _write(instance / "tracing_on", "0")
        _write(instance / "trace_clock", "mono")
        _write(instance / "buffer_size_kb", str(self._buffer_kib))
        for system in _SYSTEMS:
            for event in sorted((instance / "events" / system).iterdir()):
                if (event / "enable").exists():
                    devices = self._devices if event.name in _OF_DISKS else self._devices[:1]
                    keep = event_filter((event / "format").read_text(encoding="ascii"), devices)
                    if keep:
                        _write(event / "filter", keep)
                    _write(event / "enable", "1")
        file = undo.enter_context(self._path.open("wb"))
        file.write(_HEADER.encode())
        pipe = os.open(instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        undo.callback(os.close, pipe)
        self._drain_to = (pipe, file.fileno())
        file.flush()
        thread = threading.Thread(target=self._run, name="kernel-trace", daemon=True)
        undo.callback(thread.join)
        undo.callback(self._stop.set)
        undo.callback(_write, instance / "tracing_on", "0")
        _write(instance / "tracing_on", "1")
        thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            self._drain()
        self._drain()
        self.cpu_s = time.thread_time()

    def _drain(self) -> None:
        """Move what is in the buffers to the file; lines come whole."""
        pipe, out = self._drain_to
        while True:
            try:
                data = os.read(pipe, _READ_NBYTES)
            except OSError as error:
                if error.errno in {errno.EAGAIN, errno.EINTR}:
                    return
                raise
            if not data:
                return
            os.write(out, data)
            self.nr_events += data.count(b"\n")
            self.nr_lost += sum(int(number) for number in re.findall(rb"\[LOST (\d+) EVENTS\]", data))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")


def _remove(instance: Path) -> None:
    """Remove an instance; for a moment its readers may still be on their way out."""
    for _ in range(50):
        try:
            instance.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return


def _sweep(instances: Path) -> None:
    """Remove what recordings that were killed left."""
    for instance in instances.glob(f"{_PREFIX}*"):
        pid = instance.name.removeprefix(_PREFIX)
        # One of our own number is left from a process before us.
        if pid.isdigit() and (int(pid) == os.getpid() or not Path("/proc", pid).exists()):
            _remove(instance)
