"""What any process may ask of a mount, through its control files: sync, faults, power cuts, figures."""

import contextlib
import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fsbackend.control import CONTROL_NAME
from fsbackend.durability import Choice
from fsbackend.inject import parse_rule


class MountError(Exception):
    """A mount, unmount or request that cannot be; one line that says what to do."""


def control_path(mountpoint: str | os.PathLike[str], name: str) -> Path:
    """Return the path of a control file."""
    return Path(mountpoint) / os.fsdecode(CONTROL_NAME) / name


def check_mount(mountpoint: str | os.PathLike[str]) -> None:
    """Refuse what is no living mount of ours, or not this user's; MountError says which."""
    try:
        control_path(mountpoint, "stats").stat()
    except PermissionError as error:
        raise MountError(f"{mountpoint} is another user's mount: only that user may do this") from error
    except OSError as error:
        if error.errno in {errno.ENOTCONN, errno.ECONNABORTED}:
            raise MountError(f"{mountpoint} has lost its daemon; clean it up: fremap umount {mountpoint}") from error
        raise MountError(f"{mountpoint} is no mount of fremap; `fremap status` lists them") from error


def write_control(mountpoint: str | os.PathLike[str], name: str, text: str) -> None:
    """Write a control file, in one piece; never makes one."""
    fd = os.open(control_path(mountpoint, name), os.O_WRONLY)
    try:
        os.write(fd, os.fsencode(text))
    finally:
        os.close(fd)


def sync(mountpoint: str | os.PathLike[str]) -> str:
    """Write back and make durable all of a mount; return "" or what could not be written."""
    check_mount(mountpoint)
    try:
        write_control(mountpoint, "sync", "1")
    except PermissionError as error:
        raise MountError(f"{mountpoint} is another user's mount: only that user may do this") from error
    except OSError as error:
        with contextlib.suppress(OSError):
            return control_path(mountpoint, "last_error").read_text().strip() or str(error)
        return str(error)
    return ""


def inject(mountpoint: str | os.PathLike[str], rules: Iterable[str]) -> None:
    """Add rules of faults to a mount; ValueError with one line for a rule that makes no sense."""
    rules = list(rules)
    for rule in rules:
        if rule.strip() != "clear":
            parse_rule(rule)
    check_mount(mountpoint)
    if any(rule.strip() != "clear" and parse_rule(rule).action == "cut" for rule in rules):
        unsynced(mountpoint)  # only a mount with pre-images has the power cut
    write_control(mountpoint, "inject", "\n".join(rules))


def power_cut(mountpoint: str | os.PathLike[str], survive: str = "none") -> None:
    """Cut the power of a mount: ``none``, ``all`` or a seeded choice of the unsynced writes survives."""
    Choice(survive)
    check_mount(mountpoint)
    try:
        write_control(mountpoint, "power_cut", survive)
    except FileNotFoundError as error:
        raise MountError(f"{mountpoint} keeps no pre-images: mount it with --power-cut") from error


def unsynced(mountpoint: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return each file of a mount that a power cut would change now."""
    check_mount(mountpoint)
    try:
        rows: list[dict[str, Any]] = json.loads(control_path(mountpoint, "unsynced").read_text())
    except FileNotFoundError as error:
        raise MountError(f"{mountpoint} keeps no pre-images: mount it with --power-cut") from error
    return rows


def read_stats(mountpoint: str | os.PathLike[str]) -> dict[str, int]:
    """Return the figures of ``.bdi/stats``."""
    rows = (line.split() for line in control_path(mountpoint, "stats").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows}
