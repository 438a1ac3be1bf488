"""fremap report: pictures and a page from the records of runs."""

from pathlib import Path
from typing import Annotated

import typer

from emu.lab.errors import LabError
from emu.lab.rows import Row
from emu.lab.rundir import naming, refuse_a_run


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("report", rich_help_panel="Observation")(report)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where to write; else into the first run.")
    ] = None,
) -> None:
    """Make pictures and one self-contained HTML page of a run, or of several side by side.

    Runs of `fremap record`, `fremap run` and `fremap compare` can be reported, those that were cut short, too.
    """
    # Here, not at the top: matplotlib takes half a second to load, and --help needs none.
    from emu.report.matrix_page import cells_from_json, render_matrix  # noqa: PLC0415 - see above
    from emu.report.page import render_page  # noqa: PLC0415 - see above
    from emu.report.pictures import save_pictures  # noqa: PLC0415 - see above
    from emu.report.replay_page import write_replay_page  # noqa: PLC0415 - see above
    from emu.report.run_page import write_run_page  # noqa: PLC0415 - see above
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
        special = next((run for run in loaded if "matrix" in run.counters or run.name == "answer"), None)
        if special is not None and (len(loaded) > 1 or special.name == "answer"):
            own = special.path / "index.html"
            raise LabError(f"{special.path} is reported alone" + (f": its page is {own}" if own.is_file() else ""))
        if special is not None:
            page = directory / "index.html"
            page.write_text(
                render_matrix(cells_from_json(special.counters), special.manifest), encoding="utf-8"
            )
        elif loaded[0].name == "compare" and "runs" in loaded[0].counters:
            if len(loaded) > 1:
                raise LabError("a comparison is reported alone: give one run")
            rows = [Row(**values) for values in loaded[0].counters["runs"]]
            page = directory / "index.html"
            page.write_text(
                render_page(rows, save_pictures(rows, directory), loaded[0].manifest), encoding="utf-8"
            )
        elif loaded[0].name == "replay" and "replay" in loaded[0].counters and len(loaded) == 1:
            page = write_replay_page(loaded[0], directory)
        else:
            page = write_run_page(loaded, directory)
    typer.echo(f"{page}")
