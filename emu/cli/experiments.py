"""What fremap compare does: choose the ground, run the rows, show and keep the outcome."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import typer
from rich.console import Console

from emu.cli.progress import RichProgress
from emu.cli.show import print_marked, print_whole, say
from emu.hw.pte import FORMATS
from emu.lab.compare import OpenGround, combinations, run_all
from emu.lab.errors import LabError, Terminated
from emu.lab.ground import Ground, fuse_ground, plain_ground, why_no_fuse
from emu.lab.host_late_store import HOST_RMAP
from emu.lab.matrix import cells_as_json, run_cells
from emu.lab.row_records import RowRecords
from emu.lab.rows import as_json
from emu.lab.rundir import RunDirectory, naming, write_records
from emu.mm.rmap import STRATEGIES
from emu.report.compare_page import write_compare_page
from emu.report.matrix_page import render_matrix
from emu.report.matrix_table import matrix_table, matrix_verdicts
from emu.report.runs import load_run
from emu.report.save import save_page
from emu.report.table import compare_table, verdicts
from emu.units import format_size

DEFAULT_RMAPS = ("none", "scan", "dirty_index")
"""The proof, the answer that was on the table in 2007, and fremap's own; --rmap all runs every strategy."""


def every_or(chosen: Sequence[str], default: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return what was chosen, the default if nothing was, and everything known for "all"."""
    if "all" in chosen:
        return (*known, *(name for name in chosen if name == HOST_RMAP))
    return tuple(chosen or default)


@dataclass(frozen=True, slots=True)
class CompareOrder:
    """What the user asked for; empty `rmaps` means DEFAULT_RMAPS, and "all" every one there is."""

    nr_pages: int
    rmaps: tuple[str, ...]
    capses: tuple[str, ...]
    formats: tuple[str, ...]
    share: float
    seed: int
    ram: int | None
    require_fuse: bool
    events: bool = False


def _open_plain(_caps: str) -> AbstractContextManager[Ground]:
    return plain_ground()


def _open_fuse(caps: str) -> AbstractContextManager[Ground]:
    return fuse_ground(caps)


def choose_ground(*, require_fuse: bool) -> tuple[OpenGround, str]:
    """Return what opens a ground, and its description; say so if it is only plain files.

    Raises
    ------
    LabError
        If nothing can be mounted and `require_fuse` is set.

    """
    reason = why_no_fuse()
    if reason is None:
        return _open_fuse, "each row on a FUSE mount of its own"
    if require_fuse:
        raise LabError(f"nothing can be mounted here: {reason}")
    say(f"fremap: nothing can be mounted here ({reason}); going on with plain files, capabilities given by hand")
    return _open_plain, "on plain files with the capabilities given by hand (nothing could be mounted)"


def run_compare(order: CompareOrder, json_path: Path | None, report: Path | None) -> int:
    """Run every row, print the table, leave pictures, page and records; return the exit code."""
    rmaps = every_or(order.rmaps, DEFAULT_RMAPS, STRATEGIES)
    todo = combinations(rmaps, order.capses, every_or(order.formats, ("x86_64",), FORMATS))
    _check_ram(order, {row.format for row in todo})
    open_ground, ground = choose_ground(require_fuse=order.require_fuse)
    directory = _run_directory("compare", order, report, ground, nr_rows=len(todo))
    with saying_where(directory):
        rows = run_all(
            todo,
            order.nr_pages,
            open_ground,
            share=order.share,
            seed=order.seed,
            ram=order.ram,
            progress=RichProgress(),
            records=RowRecords(directory.path, order.seed, events=order.events),
            keep=lambda done: directory.save_counters(as_json(done)),
        )
        said = verdicts(rows)
        _keep(directory, as_json(rows), json_path, said)
    with naming(directory.path):
        page = write_compare_page([load_run(directory.path)], directory.path)
    console = Console(highlight=False)
    print_whole(console, compare_table(rows))
    return _conclude(console, said, f"pictures and page: {page}")


def _check_ram(order: CompareOrder, formats: Iterable[str]) -> None:
    """Refuse, before the first row, a machine that holds less than twice the file or more than this computer."""
    has_nbytes = psutil.virtual_memory().total
    for name in sorted(formats):
        least_nbytes = 2 * order.nr_pages * FORMATS[name].page_size
        if order.ram is not None and order.ram < least_nbytes:
            raise typer.BadParameter(
                f"--ram {format_size(order.ram)} is too little for --pages {order.nr_pages} in {name}: "
                f"give at least {format_size(least_nbytes)}"
            )
        wants_nbytes = max(order.ram or 0, least_nbytes)
        if wants_nbytes > has_nbytes:
            raise typer.BadParameter(
                f"--pages {order.nr_pages} in {name} and its machine of {format_size(wants_nbytes)}"
                f" do not fit into this computer's {format_size(has_nbytes)}: give fewer --pages or less --ram"
            )


def run_matrix(order: CompareOrder, json_path: Path | None, report: Path | None) -> int:
    """Try every kind of mapping, print the table, leave a page and the records; return the exit code."""
    rmaps = every_or(order.rmaps, DEFAULT_RMAPS, STRATEGIES)
    if HOST_RMAP in rmaps:
        raise LabError("--rmap linux: the matrix counts what no program sees of a real kernel; leave it out")
    combinations(rmaps, order.capses, order.formats)
    open_ground, ground = choose_ground(require_fuse=order.require_fuse)
    directory = _run_directory("matrix", order, report, ground)
    with saying_where(directory):
        cells = run_cells(
            rmaps,
            order.formats[0],
            order.seed,
            open_ground,
            RichProgress(),
            keep=lambda some: directory.save_counters(cells_as_json(some)),
        )
        said = matrix_verdicts(cells)
        _keep(directory, cells_as_json(cells), json_path, said)
    page = directory.path / "index.html"
    save_page(page, render_matrix(cells, directory.manifest))
    console = Console(highlight=False)
    print_whole(console, matrix_table(cells))
    return _conclude(console, said, f"page: {page}")


def _run_directory(
    name: str, order: CompareOrder, report: Path | None, ground: str, **more: object
) -> RunDirectory:
    config = asdict(order) | {"ground": ground} | more
    return RunDirectory(name, report, config, order.seed, overwrite=True, option="--report")


@contextmanager
def saying_where(directory: RunDirectory) -> Iterator[None]:
    """Note how an experiment ended; if it is interrupted, say where what was done is."""
    try:
        with directory.ending():
            yield
    except (KeyboardInterrupt, Terminated):
        say(f"fremap: what was done is in {directory.path}; fremap report {directory.path} shows it")
        raise


def _keep(
    directory: RunDirectory,
    records: dict[str, Any],
    json_path: Path | None,
    said: Sequence[tuple[bool, str]],
) -> None:
    """Save the records in the run directory and where the user wants them, and close the manifest."""
    directory.save_counters(records)
    if json_path is not None:
        write_records(json_path, records)
    broken = [sentence for good, sentence in said if not good]
    directory.finish("broken" if broken else "done", broken=broken)


def _conclude(console: Console, said: Sequence[tuple[bool, str]], where: str) -> int:
    for good, sentence in said:
        mark = "[green]ok[/]" if good else "[bold red]BROKEN[/]"
        print_marked(console, mark, sentence)
    console.print(where, soft_wrap=True, style="dim", markup=False)
    return 0 if all(good for good, _sentence in said) else 1
