"""Which page a run gets, by what ran: each kind of experiment has its own."""

from collections.abc import Sequence
from pathlib import Path

from emu.lab.answer_rows import Answer
from emu.lab.errors import LabError
from emu.report.answer_page import render_answer
from emu.report.answer_pictures import save_answer_pictures
from emu.report.compare_page import write_compare_page
from emu.report.matrix_page import cells_from_json, render_matrix
from emu.report.replay_page import write_replay_page
from emu.report.run_page import write_run_page
from emu.report.runs import Run
from emu.report.save import save_page

_ALONE = ("matrix", "answer")


def write_page(runs: Sequence[Run], directory: Path) -> Path:
    """Write index.html and its pictures into a directory, for one run or several side by side; return the page.

    Raises
    ------
    LabError
        If there is no page that shows these together.

    """
    names = {run.name for run in runs}
    for name in _ALONE:
        if name in names and len(runs) > 1:
            raise LabError(f"{next(run.path for run in runs if run.name == name)} is reported alone: give one run")
    if names == {"compare"}:
        return write_compare_page(runs, directory)
    if "compare" in names:
        path = next(run.path for run in runs if run.name == "compare")
        raise LabError(f"{path} is a comparison: beside other runs give its rows, such as {_a_row_of(runs)}")
    if names == {"matrix"}:
        return _write_matrix(runs[0], directory)
    if names == {"answer"}:
        return _write_answer(runs[0], directory)
    if names == {"replay"} and len(runs) == 1 and "replay" in runs[0].counters:
        return write_replay_page(runs[0], directory)
    return write_run_page(runs, directory)


def _a_row_of(runs: Sequence[Run]) -> str:
    return str(next((row.path for run in runs for row in run.rows), "DIR/rows/NAME"))


def _write_matrix(run: Run, directory: Path) -> Path:
    page = directory / "index.html"
    cells = cells_from_json(run.counters) if run.counters else []
    save_page(page, render_matrix(cells, run.manifest))
    return page


def _write_answer(run: Run, directory: Path) -> Path:
    page = directory / "index.html"
    answer = Answer.from_json(run.counters)
    pictures = save_answer_pictures(answer, directory)
    save_page(page, render_answer(answer, pictures, run.manifest))
    return page
