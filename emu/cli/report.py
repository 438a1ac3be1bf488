"""fremap report: pictures and a page from the records of runs."""

from pathlib import Path
from typing import Annotated

import typer

from emu.cli.options import read_place
from emu.lab.rundir import naming, refuse_a_run


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("report", rich_help_panel="Observation")(report)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.", parser=read_place)],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where to write; else into the first run.", parser=read_place),
    ] = None,
) -> None:
    """Make pictures and one self-contained HTML page of a run, or of several side by side.

    Runs of `fremap record`, `fremap run` and `fremap compare` can be reported, those that were cut short, too; and each
    row of a comparison, which lies in RUN/rows. Comparisons stand beside comparisons.
    """
    # Here, not at the top: matplotlib takes half a second to load, and --help needs none.
    from emu.report.pages import write_page  # noqa: PLC0415 - see above
    from emu.report.runs import load_run  # noqa: PLC0415 - see above

    loaded = [load_run(path) for path in runs]
    for run in loaded:
        run.check_manifest()
        for line in run.missing:
            typer.echo(f"fremap: {line}", err=True)
    directory = loaded[0].path if out is None else out
    if directory.resolve() not in {path.resolve() for path in runs}:
        refuse_a_run(directory, "--out")
    directory.mkdir(parents=True, exist_ok=True)
    with naming(directory):
        page = write_page(loaded, directory)
    typer.echo(f"{page}")
