"""The run directory: all that a run leaves behind, and all that a report needs.

    manifest.json   what ran: configuration, seed, versions, facts about the machine, when, how it ended
    counters.json   the counters by the kernel's names, locks, the strategy's cost, the workload's own results
    events.npy      emu.mm_types.events records, if they were asked for

The manifest is written before the run and again after it, so a run that was killed says that it never ended.
"""

import contextlib
import fcntl
import functools
import json
import os
import platform
import sys
import time
import weakref
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from emu.lab.errors import LabError, Terminated
from emu.lab.steps import STEPS

MANIFEST_VERSION = 1
_PACKAGES = ("fremap", "numpy", "numba", "fusepy", "psutil")


@functools.cache
def _installed() -> dict[str, str]:
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def versions() -> dict[str, str]:
    """Return what was installed: the versions that a result may depend on."""
    return dict(_installed())


def machine_facts() -> dict[str, Any]:
    """Return what this computer is: processor, cores, memory, system."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # another system, or a sealed one: the platform's word will do
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "ram_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
    }


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of writing, which has no name of its own as where a disk is full, the name of what was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_records(path: Path, records: object) -> None:
    """Write records as JSON where the user wants them, ``-`` being standard output; OSError with the file's name."""
    if str(path) == "-":
        print(json.dumps(records, indent=1), file=sys.__stdout__, flush=True)
        return
    with naming(path):
        path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _write_json(path: Path, content: object) -> None:
    """Write all of it or nothing: a reader never sees half a file."""
    scratch = path.with_suffix(".tmp")
    with naming(path):
        try:
            scratch.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
            scratch.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise


def refuse_a_run(directory: Path, option: str) -> None:
    """Raise LabError if the directory that was given by an option holds a run, so that none is overwritten."""
    if (directory / "manifest.json").exists():
        raise LabError(f"{directory} holds a run already: give another {option}, or remove it")


def _name_of_run(directory: Path) -> str | None:
    """Return what ran into a directory; None if nothing did, or if its manifest cannot be read."""
    try:
        return str(json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lock(directory: Path, option: str) -> int:
    """Return a descriptor that holds a lock on a directory while it is open; LabError if another run has it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LabError(f"another run writes into {directory} now: wait for it, or give another {option}") from None
    except OSError:
        pass  # a filesystem without locks: nobody is kept out
    return descriptor


class RunDirectory:
    """One run's directory; `manifest` is what manifest.json holds.

    Without `out` it is made under ./runs. `overwrite` allows an `out` that holds an earlier run of the same name;
    `option` is what the user gave `out` by.

    Raises
    ------
    LabError
        If it cannot be made, or holds another run and must not be overwritten.

    """

    def __init__(
        self,
        name: str,
        out: Path | None,
        config: dict[str, Any],
        seed: int,
        *,
        overwrite: bool = False,
        option: str = "--out",
    ) -> None:
        self._began_s = time.monotonic()
        self.path = self._make(name, out)
        # Closed once: when the run ends, or when nobody has it any more.
        self._unlock = weakref.finalize(self, os.close, _lock(self.path, option))
        if out is not None and overwrite and _name_of_run(out) == name:
            # An earlier run's: if this one is cut short they would be taken for its own.
            (out / "counters.json").unlink(missing_ok=True)
        elif out is not None:
            refuse_a_run(out, option)
        self.manifest: dict[str, Any] = {
            "version": MANIFEST_VERSION,
            "name": name,
            "command": sys.argv,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "status": "running",
            "seconds": None,
            "seed": seed,
            "config": config,
            "versions": versions(),
            "machine": machine_facts(),
        }
        self._save_manifest()

    @staticmethod
    def _make(name: str, out: Path | None) -> Path:
        try:
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                return out
            stem = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}"
            for attempt in range(1, 1000):
                path = Path("runs") / (stem if attempt == 1 else f"{stem}-{attempt}")
                try:
                    path.mkdir(parents=True)
                except FileExistsError:
                    continue
                return path
        except OSError as error:
            raise LabError(f"cannot make the run directory: {error.strerror}: {error.filename}") from None
        raise LabError("a thousand runs began within this second: give --out")

    def _save_manifest(self) -> None:
        _write_json(self.path / "manifest.json", self.manifest)

    def discard(self) -> None:
        """Remove a run that never began; files that somebody else put there stay, and so does the directory."""
        for name in ("manifest.json", STEPS):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        self._unlock()

    def save_counters(self, counters: dict[str, Any]) -> None:
        """Write counters.json."""
        _write_json(self.path / "counters.json", counters)

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Note what ended the run, in words, if it gets to no `finish` of its own: no run that ended says "running"."""
        try:
            yield
        except KeyboardInterrupt:
            self._give_up("interrupted")
            raise
        except Terminated:
            self._give_up("terminated")
            raise
        except Exception as error:
            self._give_up(str(error) or type(error).__name__)
            raise

    def _give_up(self, status: str) -> None:
        # Where the disk is full, what filled it is what the user must be told.
        with contextlib.suppress(OSError):
            self.finish(status)

    def finish(self, status: str = "done", **facts: object) -> None:
        """Note in the manifest how the run ended ("done", or what went wrong) and how long it took."""
        self.manifest |= facts
        self.manifest["status"] = status
        self.manifest["seconds"] = round(time.monotonic() - self._began_s, 3)
        try:
            self._save_manifest()
        finally:
            self._unlock()
