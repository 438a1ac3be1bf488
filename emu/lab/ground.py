"""Where an experiment's files lie: a temporary mount, plain files, or a directory that the user names.

A ground knows how to be cut from the power, and in which places an ordinary process finds a file afterwards.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from emu.lab.errors import LabError
from fsbackend.mount import MountError, TemporaryMount, temporary_mount


class Ground(Protocol):
    """A directory to make files in, and what becomes of it when the power goes."""

    kind: str
    """One of "fuse" (a mount of our own), "plain" (no mount), "given" (the user's directory)."""

    directory: Path

    def places(self, name: str) -> dict[str, Path]:
        """Return where an ordinary process finds the file `name`: by the mount, in the store."""

    def crash(self) -> None:
        """Take the daemon away without a word (SIGKILL), then mount the same store anew."""


class FuseGround:
    """A temporary mount of fremap's own filesystem."""

    kind = "fuse"

    def __init__(self, mount: TemporaryMount, *, has_store: bool) -> None:
        self._mount = mount
        self._has_store = has_store
        self.directory = Path(mount.path)

    def places(self, name: str) -> dict[str, Path]:
        """Return the file on the mount and, unless the bytes live in RAM only, in the store."""
        found = {"mount": self.directory / name}
        if self._has_store:
            found["store"] = Path(self._mount.store) / name
        return found

    def crash(self) -> None:
        """SIGKILL the daemon and mount the store anew."""
        self._mount.kill()
        try:
            self._mount.remount()
        except MountError as error:
            raise LabError(f"the store could not be mounted again after the crash: {error}") from error


class PlainGround:
    """An ordinary directory. Nothing serves it, so a crash of the emulated machine is all that can happen."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.directory = directory
        self.kind = kind

    def places(self, name: str) -> dict[str, Path]:
        """Return the one place."""
        return {"file": self.directory / name}

    def crash(self) -> None:
        """Do nothing: there is no daemon."""


@contextmanager
def fuse_ground(caps: str) -> Iterator[FuseGround]:
    """Mount a temporary filesystem with `caps`; unmounted and removed at the end, whatever happens.

    Raises
    ------
    LabError
        If nothing can be mounted here; with the reason.

    """
    manager = temporary_mount(caps=caps)
    try:
        mount = manager.__enter__()
    except MountError as error:
        raise LabError(str(error)) from error
    try:
        yield FuseGround(mount, has_store=not caps.startswith("ramfs"))
    finally:
        manager.__exit__(None, None, None)


def why_no_fuse() -> str | None:
    """Return why nothing can be mounted here, in one line, or None if a mount works. Tries it."""
    try:
        with temporary_mount(caps="ramfs"):
            return None
    except MountError as error:
        return str(error)


@contextmanager
def plain_ground() -> Iterator[PlainGround]:
    """Make a temporary directory on plain files; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="fremap-plain-") as directory:
        yield PlainGround(Path(directory), "plain")


@contextmanager
def given_ground(directory: Path) -> Iterator[PlainGround]:
    """Use a directory that the user names; only the files that a workload makes there are touched.

    Raises
    ------
    LabError
        If it is no directory.

    """
    if not directory.is_dir():
        raise LabError(f"--on {directory}: no such directory")
    yield PlainGround(directory, "given")
