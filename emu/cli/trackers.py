"""fremap trackers: today's dirty trackers of this kernel, proved right and priced, beside dirty_index."""

from pathlib import Path
from typing import Annotated

import typer

from emu.cli.options import JsonPath, read_place, tables_apart_from

_TRACKERS = ("mprotect", "uffd_wp", "uffd_sigbus", "uffd_async", "pagemap_scan", "soft_dirty", "dirty_index")
"""The names of emu.trackers.measure.TRACKERS and the emulated one; a test compares them."""


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("trackers", rich_help_panel="Experiments")(trackers)


def trackers(
    *,
    pages: Annotated[int, typer.Option(min=2, help="Pages mapped.")] = 16384,
    dirty: Annotated[
        int | None, typer.Option(min=1, help="Pages stored to in each round; a tenth if not given.", show_default=False)
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(_TRACKERS)}; all if not given. Repeatable.", show_default=False),
    ] = None,
    memory: Annotated[
        list[str] | None,
        typer.Option(help="anonymous, tmpfs or disk; all if not given. Repeatable.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count; times are their medians.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Decides which pages are stored to, and their order.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Leave records, a picture and an HTML page there.", parser=read_place),
    ] = None,
    json_path: JsonPath = None,
) -> int:
    """Price what this kernel offers to learn which pages were stored to.

    The same stores into anonymous memory, tmpfs and a file on disk, tracked by mprotect and SIGSEGV, by userfaultfd
    write-protection (served by a thread, by SIGBUS, or asynchronous and read from pagemap or by PAGEMAP_SCAN) and by
    soft-dirty bits; and in the emulated kernel by dirty_index. In a process of their own, and without privilege.

    Every round must report exactly the pages that were stored to, else it is no figure but an error, and the exit code
    is 1. What this kernel does not have or does not permit is said in a line.
    """
    # Here, not at the top: --help needs nothing of it.
    from emu.cli.tracker_run import TrackersOrder, run_all_trackers  # noqa: PLC0415 - see above

    wanted = TrackersOrder(
        pages=pages,
        dirty=max(pages // 10, 1) if dirty is None else dirty,
        trackers=tuple(tracker or ()),
        memories=tuple(memory or ()),
        rounds=rounds,
        seed=seed,
    )
    with tables_apart_from(json_path):
        return run_all_trackers(wanted, json_path, report)
