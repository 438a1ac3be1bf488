"""Which mounts there are: read from the kernel's mount table; what a daemon leaves for others to find it by.

A daemon's record is a small JSON file in a directory of the user's own, named by its pid. The kernel's table is
what counts: a record without a mount is old and is removed.
"""

import contextlib
import ctypes
import ctypes.util
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbackend.share import is_alive

SUBTYPE = "fremap"
_FSTYPE = f"fuse.{SUBTYPE}"
MNT_FORCE = 1
DAEMON_MODULE = b"fsbackend.daemon"
LOGS_KEPT_S = 7 * 24 * 3600
LOG_WITHOUT_RECORD_S = 60.0
"""A daemon that just starts has a log before it has a record."""
_LOUD = re.compile(r" (WARNING|ERROR|CRITICAL) |Traceback|fuse:")


@dataclass(frozen=True, slots=True)
class FoundMount:
    """One mount of ours in the kernel's table."""

    mountpoint: str
    store: str
    device: str
    pid: int | None
    log: str
    stale: bool


@dataclass(frozen=True, slots=True)
class Detached:
    """A daemon whose mount was detached while files were open in it: it serves them until the last is closed."""

    mountpoint: str
    store: str
    pid: int
    log: str


def state_dir() -> Path:
    """Return the user's own directory for logs and records, made if missing; refuses one of somebody else's."""
    path = _state_path()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise OSError(errno.EPERM, f"{path} is not a directory of your own: remove it", str(path))
    return path


def _state_path() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "fremap" if base and Path(base).is_dir() else _in_tmp()


def _in_tmp() -> Path:
    """Return a place that does not depend on TMPDIR, so that whoever unmounts finds what the daemon left."""
    return Path("/tmp") / f"fremap-{os.geteuid()}"  # noqa: S108 - state_dir() refuses what is not ours


def write_record(mountpoint: str, record: dict[str, Any]) -> None:
    """Leave a record of this process's mount."""
    path = state_dir() / f"{os.getpid()}.json"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(json.dumps({"mountpoint": mountpoint, **record}))


def remove_record(pid: int) -> None:
    """Remove a process's record."""
    with contextlib.suppress(OSError):
        (state_dir() / f"{pid}.json").unlink()


def remove_quiet_log(log_path: str) -> None:
    """Remove a mount's log, kept in the user's own directory, if it warns of nothing."""
    path = Path(log_path)
    if path.parent != _state_path() or any(log_path == one.get("log") for one in _living_records()):
        return  # the log's name is the mount point's: a newer mount there may write it, too
    with contextlib.suppress(OSError):
        if not _LOUD.search(path.read_text(encoding="utf-8", errors="replace")):
            path.unlink()


def remove_scratch(base: str) -> None:
    """Remove a temporary mount's directory; never through a mount, behind which may be somebody's files."""
    inside = base.rstrip("/") + "/"
    if not any(row[0].startswith(inside) for row in mount_table()):
        shutil.rmtree(base, ignore_errors=True)


def sweep() -> None:
    """Remove what killed daemons left: their records, and the temporary mounts whose owners are gone, too.

    Logs in the state directory stay as long as their mount; those that warn of something are kept for a week.
    """
    if not _state_path().is_dir():
        return
    table = {row[0] for row in mount_table() if row[1] == _FSTYPE}
    for path in state_dir().glob("*.json"):
        if not path.stem.isdigit() or is_alive(int(path.stem)):
            continue
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            record = {}
        mountpoint, scratch, owner = record.get("mountpoint", ""), record.get("scratch", ""), record.get("owner", 0)
        if scratch and owner and not is_alive(owner):
            if mountpoint in table:
                kernel_unmount(mountpoint, lazy=True)
            remove_scratch(scratch)
        elif mountpoint in table:
            continue
        with contextlib.suppress(OSError):
            path.unlink()
    _sweep_logs()


def _sweep_logs() -> None:
    needed = {record.get("log") for record in _all_records()}
    for path in state_dir().glob("*.log"):
        with contextlib.suppress(OSError):
            age_s = time.time() - path.stat().st_mtime
            if str(path) in needed or age_s < LOG_WITHOUT_RECORD_S:
                continue
            if age_s > LOGS_KEPT_S:
                path.unlink()
            else:
                remove_quiet_log(str(path))


def _all_records() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        paths = list(state_dir().glob("*.json")) if _state_path().is_dir() else []
    except OSError:
        return found
    for path in paths:
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return found


def _living_records() -> list[dict[str, Any]]:
    return [record for record in _all_records() if _is_daemon(record.get("pid", 0))]


def _is_daemon(pid: int) -> bool:
    """Return whether a process is a daemon of ours: the number in a record may be another process's by now."""
    try:
        return is_alive(pid) and DAEMON_MODULE in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def find_detached() -> list[Detached]:
    """Return this user's daemons that serve on without a mount."""
    return [
        Detached(record["mountpoint"], record.get("store", ""), record["pid"], record.get("log", ""))
        for record in _living_records()
        if record.get("device") and not is_mounted(record["device"], record["pid"])
    ]


def is_mounted(device: str, pid: int | str = "self") -> bool:
    """Return whether a device is in the mount table of a process; True if that cannot be read."""
    try:
        return any(row[1] == _FSTYPE and row[3] == device for row in mount_table(pid))
    except OSError:
        return True


def device_of(mountpoint: str) -> str:
    """Return the device number of our mount at a mount point, as MAJOR:MINOR; "" if there is none."""
    return next((row[3] for row in reversed(mount_table()) if row[:2] == (mountpoint, _FSTYPE)), "")


def _records() -> dict[str, dict[str, Any]]:
    """Return the newest record of each mountpoint; those of dead processes are kept for their log only."""
    found: dict[str, dict[str, Any]] = {}
    for record in _all_records():
        old = found.get(record["mountpoint"])
        if old is None or record.get("started", 0) > old.get("started", 0):
            found[record["mountpoint"]] = record
    return found


def _unescape(word: str) -> str:
    """Undo the octal escapes of /proc/self/mountinfo."""
    out, rest = bytearray(), os.fsencode(word)
    while rest:
        if rest[:1] == b"\\" and rest[1:4].isdigit():
            out.append(int(rest[1:4], 8))
            rest = rest[4:]
        else:
            out += rest[:1]
            rest = rest[1:]
    return os.fsdecode(bytes(out))


def mount_table(pid: int | str = "self") -> list[tuple[str, str, str, str]]:
    """Return (mountpoint, filesystem type, source, device) of every mount, in the order of mounting."""
    table = []
    text = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        words, rest = head.split(" "), tail.split(" ")
        table.append((_unescape(words[4]), rest[0], _unescape(rest[1]), words[2]))
    return table


def is_stale(mountpoint: str) -> bool:
    """Return whether the daemon of our mount there is gone; with a record of it the mount is not asked."""
    return _is_stale(mountpoint, device_of(mountpoint), _records().get(mountpoint, {}))


def _is_stale(mountpoint: str, device: str, record: dict[str, Any]) -> bool:
    if device and record.get("device") == device:
        return not _is_daemon(record["pid"])
    try:
        os.statvfs(mountpoint)  # which the kernel never answers from a cache
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def find_mounts() -> list[FoundMount]:
    """Return our mounts, living and stale; one with a record is not asked, since it may never answer."""
    records = _records()
    found = []
    for mountpoint, fstype, source, device in mount_table():
        if fstype == _FSTYPE:
            record = records.get(mountpoint, {})
            found.append(
                FoundMount(
                    mountpoint,
                    source,
                    device,
                    record.get("pid"),
                    record.get("log", ""),
                    _is_stale(mountpoint, device, record),
                )
            )
    return found


def _abort_if_dead(mountpoint: str) -> bool:
    """Have the kernel fail all requests of a mount whose daemon is dead; return whether that unmounted it, too.

    It does so by itself when the last thread of the daemon is gone; but one that waits in the kernel, for a request
    that it would have to answer itself, outlives a SIGKILL, and with it wait all who ever asked the mount.
    """
    device = device_of(mountpoint)
    record = _records().get(mountpoint, {})
    if not device or record.get("device") != device or _is_daemon(record["pid"]):
        return False
    try:
        Path(f"/sys/fs/fuse/connections/{device.partition(':')[2]}/abort").write_text("1")
    except OSError:  # no fusectl is mounted: root can do without
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        return bool(libc.umount2(os.fsencode(mountpoint), MNT_FORCE) == 0)
    return False


def kernel_unmount(mountpoint: str, *, lazy: bool = False) -> str:
    """Have the kernel unmount; return "" or one line that says why not."""
    if lazy and _abort_if_dead(mountpoint):
        return ""
    command = ["fusermount", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    except FileNotFoundError:
        return "fusermount is missing: install fuse3"
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split()) or f"fusermount failed with {done.returncode}"
