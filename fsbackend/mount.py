"""Mount a store in a daemon of its own, find mounts, unmount, clean up after dead daemons.

`mount` returns when the mount serves. Every refusal is a MountError with one line that says what to do.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbackend import state
from fsbackend.bdi import parse_caps
from fsbackend.client import (
    MountError,
    check_mount,
    control_path,
    inject,
    power_cut,
    read_stats,
    sync,
    unsynced,
    write_control,
)
from fsbackend.handles import Override
from fsbackend.options import MountOptions
from fsbackend.spawn import EXIT_TIMEOUT_S, start_daemon, wait_exit
from fsbackend.state import FoundMount, find_mounts
from fsbackend.throttle import DirtyParams
from fsbackend.unmount import kernel_unmount, umount, whereabouts

__all__ = [
    "FoundMount",
    "MountError",
    "MountInfo",
    "TemporaryMount",
    "check_fuse",
    "check_mount",
    "control_path",
    "find_mounts",
    "inject",
    "mount",
    "power_cut",
    "read_stats",
    "sync",
    "temporary_mount",
    "umount",
    "unsynced",
    "wait_exit",
    "whereabouts",
    "write_control",
]


@dataclass(frozen=True, slots=True)
class MountInfo:
    """A mount that serves."""

    store: str
    mountpoint: str
    caps: str
    pid: int
    log: str
    note: str = ""


def check_fuse() -> None:
    """Refuse where there is no FUSE, saying what is missing."""
    if not Path("/dev/fuse").exists():
        raise MountError("there is no /dev/fuse: load the kernel module (modprobe fuse) or run where FUSE is")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise MountError("/dev/fuse may not be opened here: run as a user who may use FUSE, or as root")
    if shutil.which("fusermount") is None:
        raise MountError("fusermount is missing: install fuse3 (Debian: apt-get install fuse3)")


def _check_store(store: str, *, is_ram: bool) -> str:
    if is_ram and not store:
        return ""
    if Path(store).exists() and not Path(store).is_dir():
        raise MountError(f"the store {store} is a file: give a directory")
    if not Path(store).is_dir():
        raise MountError(f"the store {store} is no directory: make it first (mkdir -p {store})")
    path = os.path.realpath(store)
    mountpoint, fstype = _filesystem_of(path)
    if not is_ram and fstype == f"fuse.{state.SUBTYPE}":
        raise MountError(f"the store {path} lies in the fremap mount {mountpoint}: give a directory outside of it")
    return path


def _real_path(mountpoint: str) -> str:
    try:
        return os.path.realpath(mountpoint, strict=False)
    except OSError:
        return str(Path(mountpoint).absolute())


def _check_mountpoint(mountpoint: str) -> str:
    """Return the real path; clean a stale mount of ours; refuse anything else that is in the way."""
    path = _real_path(mountpoint)
    table = {row[0]: row for row in state.mount_table()}
    if path in table:
        if table[path][1] == f"fuse.{state.SUBTYPE}" and state.is_stale(path):
            error = state.kernel_unmount(path, lazy=True)
            # Somebody else may have cleaned it in between: then it is as it must be.
            if error and path in {row[0] for row in state.mount_table()}:
                raise MountError(f"{path} has a mount whose daemon died, and it cannot be cleaned: {error}")
            return _check_mountpoint(path)
        raise MountError(f"{path} is a mount point already ({table[path][1]}): unmount it, or choose another")
    if Path(path).exists() and not Path(path).is_dir():
        raise MountError(f"the mount point {path} is a file: give an empty directory")
    if not Path(path).is_dir():
        raise MountError(f"the mount point {path} is no directory: make it first (mkdir -p {path})")
    with contextlib.suppress(PermissionError), os.scandir(path) as entries:
        if any(entries):
            raise MountError(f"the mount point {path} is not empty: give an empty directory")
    return path


@contextlib.contextmanager
def _alone_at(mountpoint: str) -> Iterator[None]:
    """Let nobody else mount at the same place meanwhile: a second mount would cover the first."""
    path = _real_path(mountpoint)
    if path in {row[0] for row in state.mount_table()}:
        # It is refused or cleaned; and to open what does not answer would wait for it.
        yield
        return
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # _check_mountpoint says why, better.
        yield
        return
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _filesystem_of(store: str) -> tuple[str, str]:
    """Return mount point and type of the filesystem that a directory is on."""
    best: tuple[str, str] = ("", "")
    for mountpoint, fstype, _, _ in state.mount_table():
        inside = store == mountpoint or store.startswith(mountpoint.rstrip("/") + "/")
        if inside and len(mountpoint) >= len(best[0]):
            best = (mountpoint, fstype)
    return best


def _store_note(store: str) -> str:
    """Say so if the store cannot be written or is no real disk."""
    if os.statvfs(store).f_flag & os.ST_RDONLY:
        return f"warning: the store {store} is read-only: what it holds can be read, and every change fails with EROFS"
    fstype = _filesystem_of(store)[1]
    if fstype in {"tmpfs", "ramfs"}:
        return f"note: the store {store} is on {fstype}: that is no real disk, nothing on it survives a power cut"
    return ""


def mount(
    store: str | os.PathLike[str],
    mountpoint: str | os.PathLike[str],
    caps: str = "disk",
    overrides: Iterable[str] = (),
    params: DirtyParams | None = None,
    *,
    foreground: bool = False,
    **more: Any,
) -> MountInfo:
    """Mount `store` at `mountpoint` in a daemon and return when it serves.

    `more` are the other fields of `MountOptions`. With `foreground` the call returns when it was unmounted.
    Raises MountError.
    """
    try:
        parsed = parse_caps(str(caps))
        kept = [str(Override(text)) for text in overrides]
        options = MountOptions(str(store), str(mountpoint), str(parsed), kept, params or DirtyParams(), **more)
    except ValueError as error:
        raise MountError(str(error)) from error
    check_fuse()
    with _alone_at(options.mountpoint):
        pid = _start(options)
    if foreground:
        _wait_foreground(pid, options.mountpoint)
    note = _store_note(options.store) if options.store and not options.is_ram else ""
    return MountInfo(options.store, options.mountpoint, options.caps, pid, options.log_path, note)


def _start(options: MountOptions) -> int:
    """Check and complete the options, start the daemon, and return its pid when it serves."""
    options.mountpoint = _check_mountpoint(options.mountpoint)
    options.store = _check_store(options.store, is_ram=options.is_ram)
    if options.store and _inside(options.store, options.mountpoint):
        raise MountError("the store and the mount point must not lie inside each other: choose others")
    if not options.log_path:
        name = options.mountpoint.strip("/").replace("/", "-") or "root"
        options.log_path = str(state.state_dir() / f"{name[-120:]}.log")
    state.sweep()
    Path(options.log_path).touch(mode=0o600)
    pid = start_daemon(options)
    _set_kernel_bdi(options)
    return pid


def _inside(one: str, other: str) -> bool:
    return one == other or one.startswith(other.rstrip("/") + "/") or other.startswith(one.rstrip("/") + "/")


def _set_kernel_bdi(options: MountOptions) -> None:
    """Change the kernel's own limits for this mount, which are max_ratio 1 and strict; needs root."""
    wanted: list[tuple[str, int]] = []
    if options.kernel_strict_limit is not None:
        wanted.append(("strict_limit", int(options.kernel_strict_limit)))
    if options.kernel_max_ratio is not None:
        wanted.append(("max_ratio", options.kernel_max_ratio))
    device = next((m.device for m in find_mounts() if m.mountpoint == options.mountpoint), "")
    for name, value in wanted:
        path = Path(f"/sys/class/bdi/{device}/{name}")
        try:
            path.write_text(str(value))
        except OSError as error:
            umount(options.mountpoint)
            needs = "; this needs root" if isinstance(error, PermissionError) else f"; it does not take {value}"
            raise MountError(f"cannot write {path}: {error.strerror}{needs}") from error


def _wait_foreground(pid: int, mountpoint: str) -> None:
    try:
        while not wait_exit(pid, 3600.0):
            pass
    except KeyboardInterrupt:
        umount(mountpoint)
    except BaseException:
        umount(mountpoint)
        raise


class TemporaryMount:
    """A mount of a temporary store that cleans up after itself, whatever happened to it."""

    def __init__(self, base: Path, store: Path | None, caps: str, options: dict[str, Any]) -> None:
        self.base = base
        self.store = store if store is not None else base / "store"
        self.path = base / "mnt"
        self.store.mkdir(exist_ok=True)
        self.path.mkdir(exist_ok=True)
        self._caps = caps
        self._options = {"log_path": str(base / "daemon.log"), "scratch": str(base), **options}
        self.pid = 0
        self.log = base / "daemon.log"
        self.remount()

    @property
    def mountpoint(self) -> Path:
        """The mount point, as `path`."""
        return self.path

    def remount(self) -> None:
        """Mount the store, again: after `kill` or `umount`."""
        self.pid = mount(self.store, self.path, self._caps, owner_pid=os.getpid(), **self._options).pid

    def kill(self) -> None:
        """Kill the daemon, as a crash would; the mount point is stale until `remount` or `umount`."""
        os.kill(self.pid, signal.SIGKILL)
        wait_exit(self.pid, EXIT_TIMEOUT_S)

    def umount(self, *, force: bool = False) -> None:
        """Unmount."""
        umount(self.path, force=force)

    def control(self, name: str) -> str:
        """Read a control file."""
        return control_path(self.path, name).read_text()

    def set_control(self, name: str, text: str) -> None:
        """Write a control file."""
        write_control(self.path, name, text)

    def stats(self) -> dict[str, int]:
        """Return the figures of ``.bdi/stats``."""
        return read_stats(self.path)

    def inject(self, *rules: str) -> None:
        """Add rules of faults; ``clear`` removes all. ValueError with one line for a rule that makes no sense."""
        inject(self.path, rules)

    def power_cut(self, survive: str = "none") -> None:
        """Cut the power: only what was durable is left, and of the rest what `survive` says."""
        power_cut(self.path, survive)

    def unsynced(self) -> list[dict[str, Any]]:
        """Return each file that a power cut would change now."""
        return unsynced(self.path)

    def close(self) -> None:
        """Write back, unmount whatever is mounted, and remove everything; who has a file open still loses it."""
        if any(m.mountpoint == str(self.path) for m in find_mounts()):
            with contextlib.suppress(MountError):
                sync(self.path)
            kernel_unmount(str(self.path), lazy=True)
        if not wait_exit(self.pid, 5.0):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            wait_exit(self.pid, EXIT_TIMEOUT_S)
        state.remove_record(self.pid)
        state.remove_scratch(str(self.base))


@contextlib.contextmanager
def temporary_mount(
    caps: str = "disk", store_dir: str | os.PathLike[str] | None = None, **options: Any
) -> Iterator[TemporaryMount]:
    """Mount a temporary store (or `store_dir`) and always clean up; raises MountError."""
    base = Path(os.path.realpath(tempfile.mkdtemp(prefix="fremap-")))
    temporary: TemporaryMount | None = None
    try:
        temporary = TemporaryMount(base, None if store_dir is None else Path(store_dir), caps, options)
        yield temporary
    finally:
        if temporary is not None:
            temporary.close()
        else:
            state.remove_scratch(str(base))
