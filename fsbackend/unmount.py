"""Unmount, and end what an unmounting leaves behind.

A mount in which files are open can be detached only: its daemon serves them until the last is closed, since what
they hold is not in the store yet. Every call here ends in bounded time.
"""

import contextlib
import os
import signal
import time

from fsbackend import state
from fsbackend.client import MountError, sync
from fsbackend.spawn import EXIT_TIMEOUT_S, wait_exit
from fsbackend.state import find_mounts

BUSY_TIMEOUT_S = 1.0
FORCE_TIMEOUT_S = 4.0


def umount(mountpoint: str | os.PathLike[str], *, force: bool = False) -> str:
    """Write everything back, unmount, and wait for the daemon to end; return "" or what is left, and why.

    Fails, and leaves the mount as it is, if something cannot be written back, or is in use; with `force` it
    detaches all the same, and again with `force` it ends the daemon that serves on. Raises MountError.
    """
    path = os.path.realpath(mountpoint, strict=False) if not _is_listed(mountpoint) else str(mountpoint)
    found = next((m for m in find_mounts() if m.mountpoint == path), None)
    if found is None:
        left = next((one for one in state.find_detached() if one.mountpoint == path), None)
        if left is None:
            raise MountError(f"{mountpoint} is no mount of fremap; `fremap status` lists them")
        if not force:
            raise MountError(f"{path} is {_left_behind(left.pid)}")
        _end_detached(left)
        return ""
    if not found.stale and not force:
        remains = sync(path)  # before the kernel unmounts: afterwards nobody could be told
        if remains:
            raise MountError(
                f"not unmounted, this could not be written back: {remains} (--force unmounts and gives it up)"
            )
    error = kernel_unmount(path, lazy=found.stale or force)
    if error:
        raise MountError(error)
    if found.pid is not None:
        if not wait_exit(found.pid, FORCE_TIMEOUT_S if force else EXIT_TIMEOUT_S):
            if force:
                return _left_behind(found.pid)
            raise MountError(f"unmounted, but the daemon (pid {found.pid}) still writes; its log: {found.log}")
        state.remove_record(found.pid)
    return ""


def _left_behind(pid: int) -> str:
    return f"detached; daemon pid {pid} ends when the last file is closed and written back; `kill {pid}` ends it now"


def _end_detached(left: state.Detached) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(left.pid, signal.SIGTERM)
    if not wait_exit(left.pid, FORCE_TIMEOUT_S):
        raise MountError(
            f"daemon pid {left.pid} of the detached {left.mountpoint} still writes, or cannot: {left.log} says; "
            f"`kill -9 {left.pid}` gives up what is not written"
        )


def whereabouts(mountpoint: str | os.PathLike[str]) -> str:
    """Say what is left of a mount whose unmounting was broken off."""
    path = os.path.abspath(mountpoint)  # noqa: PTH100 - resolving would ask a daemon that may be stuck
    if any(row[0] == path and row[1] == f"fuse.{state.SUBTYPE}" for row in state.mount_table()):
        return "still mounted"
    left = next((one for one in state.find_detached() if one.mountpoint == path), None)
    return _left_behind(left.pid) if left else "unmounted"


def kernel_unmount(path: str, *, lazy: bool) -> str:
    """Unmount; wait a little for whoever is just reading statistics. Return "" or what to say to the user."""
    until_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        error = state.kernel_unmount(path, lazy=lazy)
        if "busy" not in error.lower():
            break
        if time.monotonic() > until_s:
            return f"{path} is in use: close what is open there and try again, or give --force"
        time.sleep(0.05)
    if os.geteuid() and any(words in error.lower() for words in ("not permitted", "denied", "not found in")):
        return f"{path} is another user's mount: only that user or root may unmount it"
    return error


def _is_listed(mountpoint: str | os.PathLike[str]) -> bool:
    return any(m.mountpoint == str(mountpoint) for m in find_mounts())
