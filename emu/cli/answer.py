"""What `fremap compare --all` does: run every cell, print the tables, leave pictures, a page and records."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from emu.cli.experiments import choose_ground, saying_where
from emu.cli.progress import RichProgress
from emu.cli.show import print_marked, print_whole
from emu.lab.answer import AnswerOrder, answer
from emu.lab.answer_cells import CellOptions
from emu.lab.answer_rows import Answer
from emu.lab.contention import Prices
from emu.lab.errors import LabError
from emu.lab.row_records import RowRecords
from emu.lab.rundir import RunDirectory, write_records
from emu.mm.rmap import STRATEGIES
from emu.report.answer_page import render_answer
from emu.report.answer_pictures import save_answer_pictures
from emu.report.answer_table import answer_verdicts, cost_table, error_lines, memory_table, wait_table
from emu.report.save import save_page


def answer_order(
    rmaps: tuple[str, ...],
    formats: tuple[str, ...],
    seed: int,
    max_pages: int,
    cell_s: float,
    verify_max: int,
    present_max: int,
    visit_ns: float,
) -> AnswerOrder:
    """Return what the options ask for; LabError for more than one format."""
    if len(formats) != 1 or formats == ("all",):
        raise LabError("compare --all takes one --format at a time")
    chosen = tuple(STRATEGIES) if not rmaps or "all" in rmaps else rmaps
    return AnswerOrder(
        rmaps=chosen,
        cells=CellOptions(format=formats[0], seed=seed, present_max=present_max),
        max_pages=max_pages,
        cell_s=cell_s,
        verify_max=verify_max,
        prices=Prices(visit=visit_ns),
    )


def run_answer(order: AnswerOrder, json_path: Path | None, report: Path | None, *, require_fuse: bool) -> int:
    """Measure everything, show and keep it; return the exit code: 1 if a strategy loses that must not."""
    order.check()
    open_ground, ground = choose_ground(require_fuse=require_fuse)
    config = asdict(order) | {"ground": f"{ground}; costs and memory on sparse files"}
    directory = RunDirectory("answer", report, config, order.cells.seed, overwrite=True, option="--report")
    with saying_where(directory):
        found = answer(
            order,
            open_ground,
            ground,
            RichProgress(),
            records=RowRecords(directory.path, order.cells.seed, several_sizes=True),
            keep=lambda some: directory.save_counters(some.as_json()),
        )
        records = found.as_json()
        directory.save_counters(records)
        if json_path is not None:
            write_records(json_path, records)
        said = answer_verdicts(found)
        broken = [sentence for good, sentence in said if not good]
        directory.finish("broken" if broken else "done", broken=broken)
    page = directory.path / "index.html"
    pictures = save_answer_pictures(found, directory.path)
    save_page(page, render_answer(found, pictures, directory.manifest))
    _show(found, page)
    return 1 if broken else 0


def _show(found: Answer, page: Path) -> None:
    console = Console(highlight=False)
    print_whole(console, cost_table(found.costs))
    console.print(
        "lost: pages that an ordinary process did not find after a power cut; with *: late\n"
        "stores of a sample that left their page clean in memory; v: PTEs and nodes looked\n"
        "at, but to find the VMA of an address; us: CPU time; e: extrapolated from a sample",
        style="dim",
        soft_wrap=True,
    )
    print_whole(console, memory_table(found.memory))
    if found.waits:
        print_whole(console, wait_table(found.waits))
    for line in error_lines(found):
        print_marked(console, "[yellow]--[/]", line)
    for good, sentence in answer_verdicts(found):
        mark = "[green]ok[/]" if good else "[bold red]BROKEN[/]"
        print_marked(console, mark, sentence)
    console.print(f"pictures and page: {page}", soft_wrap=True, style="dim", markup=False)
