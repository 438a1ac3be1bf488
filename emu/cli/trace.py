"""fremap trace: a run for the trace viewers and parsers that people have."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from emu.cli.options import read_new_file, read_place

if TYPE_CHECKING:
    from emu.report.runs import Run


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("trace", rich_help_panel="Observation")(trace)


def _with_rows(run: "Run") -> "list[Run]":
    """Return a comparison's rows in its place, those that recorded anything before they were cut short."""
    return [row for row in run.rows if row.series or row.steps or row.has_events] or [run]


def trace(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories; several on one time line.", parser=read_place),
    ],
    *,
    perfetto: Annotated[bool, typer.Option("--perfetto", help="A trace for ui.perfetto.dev (the default).")] = False,
    ftrace: Annotated[bool, typer.Option("--ftrace", help="Text as /sys/kernel/tracing/trace has it.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Where to write; else into the first run.", parser=read_new_file
        ),
    ] = None,
) -> None:
    """Write what runs recorded as a trace: processes, kernel threads, faults, I/O, counters.

    Runs of `fremap run --events`, whose clock is the machine's, and of `fremap record`, with the real kernel's
    tracepoints if it was given `--kernel`. Of `fremap compare` all rows, each a machine of its own. Runs of one boot
    of this computer lie on one time line. `-o -` writes to standard output.
    """
    # Here, not at the top: protobuf and numpy take a moment to load, and --help needs neither.
    from emu.report.runs import load_run  # noqa: PLC0415 - see above
    from emu.report.trace.export import export_ftrace, export_perfetto  # noqa: PLC0415 - see above

    if perfetto and ftrace:
        raise typer.BadParameter("one trace has one format: give --perfetto or --ftrace")
    loaded = [row for path in runs for row in _with_rows(load_run(path, with_events=False))]
    for line in (line for run in loaded for line in run.missing):
        typer.echo(f"fremap: {line}", err=True)
    first = runs[0]
    name = "trace.txt" if ftrace else "trace.perfetto-trace"
    to_stdout = out is not None and str(out) == "-"
    path = first / name if out is None or to_stdout else out
    count = export_ftrace(loaded, path) if ftrace else export_perfetto(loaded, path)
    if to_stdout:
        with path.open("rb") as file:
            shutil.copyfileobj(file, typer.get_binary_stream("stdout"))
        return
    hint = "" if ftrace else "; open it in ui.perfetto.dev"
    Console(stderr=True, soft_wrap=True, highlight=False, style="dim").print(f"{count:,} entries{hint}")
    typer.echo(f"{path}")
