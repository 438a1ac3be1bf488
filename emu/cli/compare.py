"""fremap compare: the main job."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from emu.cli.options import JsonPath, read_place, read_share, read_size, tables_apart_from

DEFAULT_PAGES = 16384
_RMAPS = (
    "none", "scan", "pte_chain", "slot_chain", "range_tree", "shadow", "linear_vmas", "linear_vmas_accounted",
    "dirty_index",
)  # fmt: skip
"""The names of emu.mm.rmap.STRATEGIES, which take a second to import; a test compares them."""
_ALL = "Every strategy at every size (--all)"
_OF_ALL = "max_pages", "cell_seconds", "verify_pages", "present_pages", "ns_per_visit"
_OF_ROWS = "pages", "caps", "share", "ram", "events"
"""Options that mean nothing with --matrix, nor with --all."""


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("compare", rich_help_panel="Experiments")(compare)


def _refuse_given(context: typer.Context, mode: str, names: Iterable[str]) -> None:
    """Refuse options that would be passed over in silence."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{mode} has no use for {option}: leave {option} out")


def compare(
    context: typer.Context,
    *,
    pages: Annotated[int, typer.Option(min=2, help="Pages of the file; the machine's RAM is twice that.")] = (
        DEFAULT_PAGES
    ),
    caps: Annotated[
        list[str] | None,
        typer.Option(help="What the filesystem can do: ramfs, disk or strict, and flags. Repeatable."),
    ] = None,
    rmap: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A reverse map: {', '.join(_RMAPS)}, all of these, or linux: this kernel; else none, scan,"
            " dirty_index. Repeatable."
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        list[str] | None, typer.Option(help="A page-table format, such as i386, or all. Repeatable.")
    ] = None,
    share: Annotated[
        float, typer.Option(parser=read_share, metavar="SHARE", help="How many of the pages to store into.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Decides the permutation, the pages and the stamps.")] = 0,
    ram: Annotated[
        int | None, typer.Option(parser=read_size, metavar="SIZE", help="RAM of the machine, at least twice the file.")
    ] = None,
    json_path: JsonPath = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where the pictures and the page go; else runs/TIME-compare.", parser=read_place
        ),
    ] = None,
    matrix: Annotated[
        bool,
        typer.Option("--matrix", help="Instead: which kinds of mapping call mkclean, and which can lose writes?"),
    ] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Record each row's events, for `fremap trace`; its times are longer then.")
    ] = False,
    require_fuse: Annotated[
        bool, typer.Option("--require-fuse", help="Fail where nothing can be mounted, instead of plain files.")
    ] = False,
    every: Annotated[
        bool,
        typer.Option("--all", help="Instead: every strategy, every size: costs, memory, waits.", rich_help_panel=_ALL),
    ] = False,
    max_pages: Annotated[
        int, typer.Option(min=1024, help="The largest size, in pages.", rich_help_panel=_ALL)
    ] = 1 << 20,
    cell_seconds: Annotated[
        float, typer.Option(min=0, help="Leave a cell out that would take longer.", rich_help_panel=_ALL)
    ] = 30.0,
    verify_pages: Annotated[
        int, typer.Option(min=0, help="Read the files after a power cut up to this size.", rich_help_panel=_ALL)
    ] = 4096,
    present_pages: Annotated[
        int, typer.Option(min=64, help="Most pages that PTEs show at once.", rich_help_panel=_ALL)
    ] = 16384,
    ns_per_visit: Annotated[
        float, typer.Option(min=0.001, help="What a visit costs, to simulate waits.", rich_help_panel=_ALL)
    ] = 50.0,
) -> int:
    """Find out which reverse maps lose writes, and what each costs.

    For every combination of --rmap, --caps and --format: map a file nonlinearly, store generation 1, write it
    back, store generation 2, msync, cut the power, kill the filesystem's daemon, mount again, and let an
    ordinary process read every byte that msync promised.

    With --all: every strategy at sizes from 2^10 pages up, in four orders and at four dirty shares; what the
    discussion of 2007 left open, as numbers. A few minutes; `--max-pages 4194304 --cell-seconds 300` takes longer.

    Each row leaves a run directory, DIR/rows/NAME, with its counters over time: `fremap report` and `fremap trace` take
    it, and `fremap report A B` shows two comparisons side by side.

    Exits with 1 if a row does not come out as it must: on a disk, `none` loses exactly the pages stored after
    the writeback, and no other strategy loses anything.
    """
    if every:
        _refuse_given(context, "--all", ("matrix", *_OF_ROWS))
    else:
        _refuse_given(context, "a comparison without --all", _OF_ALL)
    if matrix:
        _refuse_given(context, "--matrix", _OF_ROWS)
    # Here, not at the top: numba and the machine take a second to load, and --help needs neither.
    if every:
        from emu.cli.answer import answer_order, run_answer  # noqa: PLC0415 - see above

        wanted = answer_order(
            tuple(rmap or ()), tuple(format or ("x86_64",)), seed, max_pages, cell_seconds, verify_pages, present_pages,
            ns_per_visit,
        )  # fmt: skip
        with tables_apart_from(json_path):
            return run_answer(wanted, json_path, report, require_fuse=require_fuse)
    from emu.cli.experiments import CompareOrder, run_compare, run_matrix  # noqa: PLC0415 - see above

    order = CompareOrder(
        nr_pages=pages,
        rmaps=tuple(rmap or ()),
        capses=tuple(caps or ("disk", "ramfs")),
        formats=tuple(format or ("x86_64",)),
        share=share,
        seed=seed,
        ram=ram,
        require_fuse=require_fuse,
        events=events,
    )
    with tables_apart_from(json_path):
        return run_matrix(order, json_path, report) if matrix else run_compare(order, json_path, report)
