"""fremap vmstat: the emulated counters in the formats of /proc, of a run or of a workload run for it."""

import contextlib
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from emu.lab.errors import LabError

_NEEDS_PROC = "maps", "smaps", "pagemap"
_SHOWN = ("vmstat", "meminfo", *_NEEDS_PROC)


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    settings = {"ignore_unknown_options": True}
    app.command("vmstat", rich_help_panel="Observation", context_settings=settings)(vmstat)


def vmstat(
    run: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="A run directory; with --workload its options.")
    ] = None,
    *,
    workload: Annotated[
        str | None,
        typer.Option("--workload", metavar="FILE", help="Run this instead; other options are the workload's."),
    ] = None,
    show: Annotated[
        str, typer.Option("--show", metavar="NAME", help="vmstat, meminfo, or of a process maps, smaps, pagemap.")
    ] = "vmstat",
    pid: Annotated[int | None, typer.Option("--pid", help="Which process; else the first that is left.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="vmstat or meminfo as a JSON object.")] = False,
) -> None:
    """Print the emulated machine's counters as /proc does: vmstat, meminfo, maps, smaps, pagemap.

    What a run says in vmstat and meminfo it always keeps; for the processes run it with `--proc`, which leaves
    RUN/proc laid out as /proc is: `grep Nonlinear RUN/proc/*/smaps`.
    """
    if show not in _SHOWN:
        raise typer.BadParameter(f"--show {show}: there are {', '.join(_SHOWN)}")
    given = run or []
    if workload is None:
        if len(given) != 1 or given[0].startswith("-"):
            raise LabError("give one RUN directory, or --workload FILE and its options")
        _show(Path(given[0]), show, pid, as_json=as_json)
        return
    with TemporaryDirectory(prefix="fremap-vmstat-") as scratch:
        out = Path(scratch) / "run"
        _run(workload, [*given, "--proc", "--out", str(out)])
        _show(out, show, pid, as_json=as_json)


def _run(workload: str, arguments: list[str]) -> None:
    """Run a workload as `fremap run` does, without its words on standard output."""
    # Here, not at the top: these load numba and the machine.
    from emu.cli.run import command_of  # noqa: PLC0415 - see above
    from emu.lab.workload import load_workload  # noqa: PLC0415 - see above

    single = typer.Typer(add_completion=False)
    single.command()(command_of(load_workload(workload)))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        typer.main.get_command(single).main(arguments, prog_name=f"fremap run {workload}", standalone_mode=False)


def _show(path: Path, show: str, pid: int | None, *, as_json: bool) -> None:
    from emu.report.procfs_text import meminfo_text, pagemap_lines, vmstat_text  # noqa: PLC0415 - see _run
    from emu.report.runs import load_run  # noqa: PLC0415 - see _run

    if show in _NEEDS_PROC:
        own = _process(path, pid)
        if show == "pagemap":
            for line in pagemap_lines(own):
                typer.echo(line)
        else:
            typer.echo((own / show).read_text(encoding="utf-8", errors="replace"), nl=False)
        return
    run = load_run(path, with_events=False)
    counters = run.counters
    if show not in counters and run.rows:
        raise LabError(f"{path} is a comparison: its rows keep a {show} each, such as {run.rows[0].path}")
    if show not in counters:
        raise LabError(f"{path} keeps no {show}: it is no run of an emulated machine, or was cut short before")
    if as_json:
        typer.echo(json.dumps(counters[show], indent=1))
    else:
        typer.echo((vmstat_text if show == "vmstat" else meminfo_text)(counters[show]), nl=False)


def _process(path: Path, pid: int | None) -> Path:
    """Return the directory of a process in a run's proc."""
    load = path / "proc"
    if not load.is_dir():
        raise LabError(f"{path} holds no proc of its processes: run it with --proc")
    found = sorted((entry for entry in load.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    if not found:
        raise LabError(f"{path}: no process was left when the workload ended")
    if pid is None:
        return found[0]
    chosen = load / str(pid)
    if chosen not in found:
        raise LabError(f"--pid {pid}: there are {', '.join(entry.name for entry in found)}")
    return chosen
