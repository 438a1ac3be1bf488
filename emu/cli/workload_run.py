"""What fremap run does with a loaded workload: open the ground, run it, keep and show the outcome."""

import sys
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from emu.cli.outcome import show_outcome
from emu.cli.progress import RichProgress
from emu.cli.show import say
from emu.errors import KernelBug, Signal
from emu.lab.errors import LabError, Terminated, WrongOption
from emu.lab.ground import Ground, fuse_ground, given_ground, plain_ground, why_no_fuse
from emu.lab.host_lab import HostLab, host_format, without_unknowns
from emu.lab.lab import Lab, LabOptions
from emu.lab.rundir import RunDirectory
from emu.lab.workload import Workload
from emu.report.procfs_text import write_proc


def _open_ground(on: Path | None, caps: str) -> AbstractContextManager[Ground]:
    if on is not None:
        return given_ground(on)
    reason = why_no_fuse()
    if reason is None:
        return fuse_ground(caps)
    _say(f"nothing can be mounted here ({reason}); going on with plain files and --caps {caps}")
    return plain_ground()


def _as_dict(result: object, workload: Workload) -> dict[str, Any]:
    if result is None:
        return {}
    if isinstance(result, Mapping):
        return dict(result)
    if is_dataclass(result) and not isinstance(result, type):
        return asdict(result)
    if isinstance(result, list) and all(isinstance(row, Mapping) for row in result):
        return {"rows": [dict(row) for row in result]}
    raise LabError(f"{workload.path}: {workload.name}() must return a dict, a list of dicts, a dataclass or None")


def _call(workload: Workload, lab: Lab, values: dict[str, Any]) -> object:
    """Call the workload; whatever it raises becomes one line with the place in its file."""
    try:
        return workload.function(lab, **values)
    except (LabError, KernelBug):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = workload.path.resolve()
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == own]
        where = f"{workload.path}:{lines[-1]}" if lines else str(workload.path)
        raise LabError(f"{where}: {_words(error)}") from error


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, Signal):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _on_host(options: LabOptions, *, proc: bool) -> LabOptions:
    """Return the options with the format of this computer; LabError for what a real kernel does not give."""
    if options.events or proc:
        raise WrongOption("--host: a real kernel gives no --events and no --proc of its inside; leave them out")
    usual = LabOptions()
    for name in ("rmap", "format", "ram"):
        if getattr(options, name) != getattr(usual, name):
            _say(f"--{name} has no meaning with --host: this kernel and its memory are what they are")
    return replace(options, format=host_format(), rmap=usual.rmap, ram=None)


def _say(sentence: str) -> None:
    say(f"fremap: {sentence}")


def _tell_notes(lab: Lab) -> None:
    """Say, a line each, what the workload asked for that has no meaning on the host."""
    if isinstance(lab, HostLab):
        for note in lab.notes:
            _say(f"on the host: {note}")


def run_workload(workload: Workload, values: dict[str, Any], lab_values: dict[str, Any]) -> int:
    """Run a workload with its own `values` and the laboratory's; return the exit code."""
    options = LabOptions(
        rmap=lab_values["rmap"],
        format=lab_values["format"],
        ram=lab_values["ram"],
        caps=lab_values["caps"],
        seed=lab_values["seed"],
        events=lab_values["events"],
    )
    options.check()
    if lab_values["host"]:
        options = _on_host(options, proc=lab_values["proc"])
    lab_class = HostLab if lab_values["host"] else Lab
    config = {"workload": str(workload.path), "parameters": values, **asdict(options), "on": lab_values["on"]}
    directory = RunDirectory(workload.name, lab_values["out"], config, options.seed)
    status, booted, refused = "failed", False, False
    sampled: dict[str, float] = {}
    try:
        with (
            _open_ground(lab_values["on"], options.caps) as ground,
            lab_class(ground, options, RichProgress(), directory.path) as lab,
        ):
            try:
                # What the workload prints must not mix with the JSON.
                with redirect_stdout(sys.stderr if lab_values["json"] else sys.stdout):
                    returned = _call(workload, lab, values)
                outcome = without_unknowns(_as_dict(returned, workload))
            finally:
                booted = lab.has_booted
                lab.stop_recording()
                sampled = lab.sampler()
            directory.save_counters(lab.counters() | {"outcome": outcome})
            if lab_values["proc"] and booted:
                write_proc(lab.machine.kernel, directory.path / "proc", pagemaps=True)
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except Terminated:
        status = "terminated"
        raise
    except LabError as error:
        status = str(error)
        # Refused in a clear line before anything happened: no record is worth keeping.
        refused = not booted and error.__cause__ is None
        raise
    except Exception as error:
        status = f"{type(error).__name__}: {error}"
        raise
    finally:
        if refused:
            directory.discard()
        else:
            directory.finish(status, **sampled)
    _tell_notes(lab)
    show_outcome(outcome, as_json=lab_values["json"], title=workload.name)
    say(f"records: {directory.path}", dim=True)
    return 0
