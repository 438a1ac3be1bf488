"""What a recording notes of its mount, so that it can be made again: options, what is in force, the disk under it."""

import contextlib
import json
from pathlib import Path
from typing import Any

from emu.lab.activity import read_control
from emu.lab.observe import Observer, filesystem_of

_IN_FORCE = (
    "caps", "max_ratio", "min_ratio", "strict_limit", "dirty_background_ratio", "dirty_ratio",
    "dirty_background_bytes", "dirty_bytes", "dirty_expire_centisecs", "dirty_writeback_centisecs",
)  # fmt: skip
_LISTS = ("overrides", "inject")
_OF_DISK = ("device/model", "queue/rotational", "queue/scheduler", "queue/write_cache")


def config_of_mount(observer: Observer) -> dict[str, Any]:
    """Return the mount as it is now; control files may have been written since it was made, so both are told."""
    bdi = f"{observer.mountpoint}/.bdi"
    in_force: dict[str, Any] = {name: _value(_text(f"{bdi}/{name}")) for name in _IN_FORCE}
    for name in _LISTS:  # how often a rule has fired is no part of it
        in_force[name] = [line.partition("  #")[0] for line in _text(f"{bdi}/{name}").splitlines()]
    return {
        "mountpoint": observer.mountpoint,
        "store": observer.store,
        "disk": observer.disk,
        "store_is": _facts_of_store(observer),
        "mount": json.loads(read_control(f"{bdi}/options")),
        "in_force": in_force,
    }


def _text(path: str) -> str:
    return read_control(path).decode("utf-8", "replace").strip()


def _value(text: str) -> int | str:
    """Return a number where it is one."""
    return int(text) if text.isdecimal() else text


def _facts_of_store(observer: Observer) -> dict[str, Any]:
    """Return the filesystem that the store lies on, and what the kernel tells of the disk under it."""
    if not observer.store:
        return {}
    under = filesystem_of(observer.store)
    facts: dict[str, Any] = {} if under is None else {"fstype": under.fstype, "options": under.opts}
    if observer.disk_device:
        place = Path("/sys/dev/block", observer.disk_device)
        for name in _OF_DISK:
            with contextlib.suppress(OSError):
                facts[name.rpartition("/")[2]] = _value((place / name).read_text(encoding="utf-8").strip())
    return facts
