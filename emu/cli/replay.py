"""fremap replay: the memory accesses of a real program on the emulated machine."""

from pathlib import Path
from typing import Annotated

import typer

from emu.cli.options import read_new_file, read_place, read_size

_PRICED = "What each reverse map would have paid"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("replay", rich_help_panel="Experiments")(replay)


def replay(
    trace: Annotated[
        str | None,
        typer.Argument(metavar="[TRACE]", help="A trace file, or the name of one that comes with fremap."),
    ] = None,
    *,
    format: Annotated[str, typer.Option(help="The page-table format.")] = "x86_64",  # noqa: A002 - the option's name
    ram: Annotated[
        int | None, typer.Option(parser=read_size, metavar="SIZE", help="RAM of the machine, such as 64M.")
    ] = None,
    swap: Annotated[
        str | None,
        typer.Option(metavar="SIZE|FILE", help="Swap of the machine: a size, such as 64M, or what mkswap(8) made."),
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Pass over the trace's mappings: all is anonymous memory.")
    ] = False,
    on: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A directory for shared files; else a temporary mount.", parser=read_place),
    ] = None,
    caps: Annotated[str, typer.Option(help="Capabilities of the temporary mount.")] = "disk",
    seed: Annotated[int, typer.Option(min=0, help="Decides the junk in RAM.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="The run directory; else runs/TIME-replay.", parser=read_place
        ),
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Keep the machine's events, too: `fremap trace DIR` shows them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    rmap: Annotated[
        list[str] | None,
        typer.Option(
            help="A reverse map, as `fremap compare` has them, or all; else none, scan, dirty_index. Repeatable.",
            rich_help_panel=_PRICED,
        ),
    ] = None,
    writebacks: Annotated[
        int, typer.Option(min=0, max=63, help="How often all is written back meanwhile.", rich_help_panel=_PRICED)
    ] = 15,
    only: Annotated[
        bool, typer.Option("--only", help="Leave this part out.", rich_help_panel=_PRICED)
    ] = False,
    convert: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Only write the trace in another form: .txt text, else binary; .xz and .gz compress.",
            parser=read_new_file,
        ),
    ] = None,
) -> int:
    """Replay the memory accesses of a real program; without TRACE: list the traces that come with fremap.

    A trace is the output of `valgrind --tool=lackey --trace-mem=yes` or what `fremap record -- COMMAND` wrote. The
    program's mappings are made as it made them: private ones of the real files, shared ones of copies. Shown are
    faults by kind, TLB misses, the working set over time, dirty pages. Then the trace runs again for each reverse map,
    with all that the program may write in one file, mapped nonlinearly, as user-mode Linux kept a guest's memory:
    what does page_mkclean cost, what is lost? `fremap report DIR` makes a page with pictures of it.
    """
    # Here, not at the top: numba and the machine take a second to load, and --help needs neither.
    from emu.cli.replay_run import ReplayRequest, convert_trace, list_traces, replay_trace  # noqa: PLC0415 - see above

    if trace is None:
        if as_json or convert is not None or out is not None:
            raise typer.BadParameter("without TRACE there is nothing to replay: name a file, or a trace of the list")
        return list_traces()
    if convert is not None:
        return convert_trace(trace, convert)
    return replay_trace(
        ReplayRequest(
            trace=trace,
            format=format,
            ram=ram,
            swap=swap,
            anonymous=anonymous,
            on=on,
            caps=caps,
            seed=seed,
            out=out,
            events=events,
            as_json=as_json,
            rmaps=() if only else tuple(rmap or ("none", "scan", "dirty_index")),
            writebacks=writebacks,
        )
    )
