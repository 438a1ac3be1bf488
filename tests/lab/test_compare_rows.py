"""Each row of a comparison is a run of its own over time; comparisons side by side; what is cut short says so."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from emu.cli import experiments, frame
from emu.lab import answer, matrix
from emu.lab.compare import Combination, run_row
from emu.lab.errors import Terminated
from emu.lab.ground import plain_ground
from emu.lab.lab import Lab
from emu.lab.late_store import late_store as late_store_whole
from emu.lab.row_records import RowRecords, row_directories
from emu.lab.steps import STEPS, Step, read_steps
from emu.lab.vmstat_series import read_vmstat_series
from emu.lab.window_map import Look, look_at
from emu.mm_types.events import EventKind
from emu.report.row_pictures import COURSES, draw_looked_at, draw_waiting, draw_written
from emu.report.runs import load_run

PAGES, ROWS = 256, ("none-disk-x86_64", "dirty_index-disk-x86_64")
CHOICE = ("--pages", str(PAGES), "--caps", "disk", "--rmap", "none", "--rmap", "dirty_index")
STEPS_OF_A_ROW = [
    "writing late_store.dat", "reading the file in", "remapping, one page a call", "storing generation 1, writing back",
    "storing generation 2", "reading by an ordinary process",
]  # fmt: skip


def on_plain_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(experiments, "why_no_fuse", lambda: "a test says so")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    on_plain_files(monkeypatch)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two comparisons, a and b, of other seeds and shares; a with its rows' events."""
    directory = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        on_plain_files(patch)
        for name, more in (("a", ["--events"]), ("b", ["--seed", "5", "--share", "0.5"])):
            assert frame.run(["compare", *CHOICE, *more, "--report", str(directory / name)]) == 0
    return directory


def rows_in(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((path / "counters.json").read_text())["runs"]
    return rows


def test_each_row_is_a_run_with_its_counters_over_time(place: Path) -> None:
    assert [path.name for path in row_directories(place / "a")] == list(ROWS)
    for path, row in zip(row_directories(place / "a"), rows_in(place / "a"), strict=True):
        run = load_run(path)
        assert run.manifest["status"] == "done"
        assert run.manifest["config"]["rmap"] == row["rmap"]
        assert run.counters["outcome"] == row | {"note": None}
        assert run.counters["vmstat"]["mkclean_calls"] == row["mkclean_calls"]
        assert [look.label for look in run.looks] == ["before msync", "after msync"]
        assert run.manifest["samples"] == len(run.series)
        assert run.manifest["sampler_cpu_s"] >= 0
        assert [step.title for step in run.steps] == STEPS_OF_A_ROW
        assert all(step.ended_s is not None and step.began_s <= step.ended_s for step in run.steps)


def test_a_line_at_each_step_shows_what_it_left_however_short_it_was(place: Path) -> None:
    none, index = (read_vmstat_series(place / "a" / "rows" / name) for name in ROWS)
    stored_twice = rows_in(place / "a")[1]["dirty_pages"]
    assert max(line["nr_dirty"] for line in index) == stored_twice
    assert index[-1]["nr_written"] == 2 * stored_twice
    assert none[-1]["unaccounted_dirty_max"] == none[-1]["nr_written"] == stored_twice
    [again] = [step for step in read_steps(place / "a" / "rows" / ROWS[1]) if step.title == "storing generation 2"]
    assert again.ended_s is not None
    [at_its_end] = [line for line in index if again.ended_s <= line["time_s"] < again.ended_s + 1e-3][:1]
    assert at_its_end["nr_dirty"] == stored_twice


def test_events_are_recorded_if_asked_for(place: Path) -> None:
    kinds = set(np.load(place / "a" / "rows" / ROWS[1] / "events.npy")["kind"].tolist())
    assert {EventKind.FAULT, EventKind.REMAP, EventKind.MKCLEAN, EventKind.FSYNC, EventKind.POWER_OFF} <= kinds
    assert not list((place / "b").glob("rows/*/events.npy"))


def test_the_page_shows_the_rows_over_time(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["report", str(place / "a")]) == 0
    capsys.readouterr()
    page = (place / "a" / "index.html").read_text()
    assert "Row by row, over time" in page
    assert page.count("data:image/png;base64,") == 4 + len(COURSES)
    for name in COURSES:
        assert (place / "a" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_pictures_are_of_the_rows_series(place: Path) -> None:
    rows = load_run(place / "a").rows
    panels = draw_waiting(rows).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["none", "dirty_index"]
    stored_twice = rows_in(place / "a")[1]["dirty_pages"]
    dirty, _writeback, unnoticed = (_highest(paths) for paths in panels[1].collections[:3])
    assert (dirty, unnoticed) == (stored_twice, 0)
    assert _highest(panels[0].collections[2]) == stored_twice
    labels = [str(text.get_text()) for text in draw_written(rows).axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == [f"none: {stored_twice}", f"dirty_index: {2 * stored_twice}"]
    visits = rows_in(place / "a")[1]
    looked_at = visits["mkclean_pte_visits"] + visits["mkclean_node_visits"]
    lines = draw_looked_at(rows).axes[0].lines
    assert [float(np.asarray(line.get_ydata())[-1]) for line in lines] == [0.0, looked_at]


def _highest(collection: Any) -> float:
    return max(float(path.vertices[:, 1].max()) for path in collection.get_paths())


def test_comparisons_stand_side_by_side_with_differences(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "both"
    assert frame.run(["report", str(place / "a"), str(place / "b"), "-o", str(out)]) == 0
    capsys.readouterr()
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * (4 + len(COURSES))
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    lines = [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)] for row in found]
    lost = [line[-4:] for line in lines if "pages lost" in line]
    assert lost == [["pages lost", "26", "128", "+392.3 %"], ["pages lost", "0", "0", "-"]]
    for before, after in zip(rows_in(place / "a"), rows_in(place / "b"), strict=True):
        cells = [f"{before['remap_us_per_page']:,.4g}", f"{after['remap_us_per_page']:,.4g}"]
        assert any(line[-4:-1] == ["remap, us a page", *cells] for line in lines)
    assert "<mark>" in page


def test_rows_of_comparisons_stand_beside_any_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [str(place / "b" / "rows" / name) for name in ROWS]
    assert frame.run(["report", *rows, "-o", str(place / "pair")]) == 0
    assert "<th>none-disk-x86_64</th><th>dirty_index-disk-x86_64</th>" in (place / "pair" / "index.html").read_text()
    capsys.readouterr()
    assert frame.run(["report", str(place / "b"), rows[0], "-o", str(place / "no")]) == 1
    said = capsys.readouterr().err
    assert said == f"fremap: {place / 'b'} is a comparison: beside other runs give its rows, such as {rows[0]}\n"
    assert frame.run(["vmstat", str(place / "b")]) == 1
    said = capsys.readouterr().err
    assert said == f"fremap: {place / 'b'} is a comparison: its rows keep a vmstat each, such as {rows[0]}\n"


def test_a_trace_of_a_comparison_has_all_rows(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["trace", str(place / "a")]) == 0
    assert capsys.readouterr().out == f"{place}/a/trace.perfetto-trace\n"
    trace = pb.Trace()
    trace.ParseFromString((place / "a" / "trace.perfetto-trace").read_bytes())
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    processes = {track.process.process_name for track in tracks.values() if track.HasField("process")}
    assert processes >= {*ROWS, *(f"emulated machine: {name}" for name in ROWS)}
    begins = [p.track_event.name for p in trace.packet if p.track_event.type == pb.TrackEvent.TYPE_SLICE_BEGIN]
    assert [name for name in begins if name in STEPS_OF_A_ROW] == STEPS_OF_A_ROW * 2
    assert begins.count("msync") == 2
    assert frame.run(["trace", str(place / "b"), "--ftrace", "-o", "-"]) == 0
    text = capsys.readouterr().out
    assert len(re.findall(r"tracing_mark_write: [SF]\|\d+\|storing generation 2\|\d+\n", text)) == 4


def test_a_comparison_in_the_same_place_replaces_the_rows(tmp_path: Path, plain: None) -> None:
    del plain
    out = tmp_path / "out"
    assert frame.run(["compare", *CHOICE, "--report", str(out)]) == 0
    (out / "rows" / "mine").mkdir()
    assert frame.run(["compare", "--pages", "64", "--caps", "disk", "--rmap", "scan", "--report", str(out)]) == 0
    assert {path.name for path in (out / "rows").iterdir()} == {"scan-disk-x86_64", "mine"}


def test_looks_at_the_mapping_are_no_part_of_the_rows_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> Look:
        time.sleep(0.5)
        return look_at(*arguments)

    monkeypatch.setattr("emu.lab.lab.look_at", slow)
    began_s = time.perf_counter()
    row = run_row(
        Combination("dirty_index", "disk", "x86_64"), 64, lambda _caps: plain_ground(), records=RowRecords(tmp_path, 0)
    )
    took_s = time.perf_counter() - began_s
    assert row.seconds is not None
    assert row.seconds < took_s - 0.9


def ends_in_row(number: int, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    """Let the late_store of one row end in the middle."""
    calls = []

    def late_store(lab: Lab, nr_pages: int, share: float) -> Any:
        calls.append(nr_pages)
        if len(calls) == number:
            with lab.progress.step("in the middle"):
                lab.boot()
                raise error
        return late_store_whole(lab, nr_pages, share)

    patch.setattr("emu.lab.compare.late_store", late_store)


@pytest.mark.parametrize(
    ("error", "status", "code"), [(KeyboardInterrupt(), "interrupted", 130), (Terminated(15), "terminated", 143)]
)
def test_an_interrupted_comparison_keeps_what_was_done(
    error: BaseException, status: str, code: int, tmp_path: Path, plain: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    del plain
    ends_in_row(2, error, monkeypatch)
    out = tmp_path / "out"
    assert frame.run(["compare", *CHOICE, "--report", str(out)]) == code
    assert f"fremap: what was done is in {out}; fremap report {out} shows it\n" in capsys.readouterr().err
    statuses = [json.loads((path / "manifest.json").read_text())["status"] for path in (out, *row_directories(out))]
    assert statuses == [status, "done", status]
    assert [row["rmap"] for row in rows_in(out)] == ["none"]
    assert frame.run(["report", str(out)]) == 0
    assert f'<li class="bad">{status}: 1 of 2 rows are here</li>' in (out / "index.html").read_text()
    capsys.readouterr()


def interrupt(patch: pytest.MonkeyPatch, room: Any, name: str, after: int) -> None:
    calls = []
    inner: Callable[..., Any] = getattr(room, name)

    def counted(*arguments: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) > after:
            raise KeyboardInterrupt
        return inner(*arguments, **more)

    patch.setattr(room, name, counted)


@pytest.mark.parametrize(
    ("options", "room", "name", "says"),
    [
        (["--all", "--max-pages", "1024", "--rmap", "none"], answer, "measure_memory", "the cells that were done"),
        (["--matrix", "--rmap", "scan"], matrix, "run_cell", "3 cells"),
    ],
)
def test_what_compare_all_and_the_matrix_have_done_is_kept(
    options: Sequence[str], room: Any, name: str, says: str, tmp_path: Path, plain: None,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    del plain
    interrupt(monkeypatch, room, name, 3)
    out = tmp_path / "out"
    assert frame.run(["compare", *options, "--report", str(out)]) == 130
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
    assert frame.run(["report", str(out)]) == 0
    assert f"interrupted: {says} are here" in (out / "index.html").read_text()
    capsys.readouterr()


@pytest.mark.fuse
def test_a_comparison_that_is_killed_is_reported_as_far_as_it_got(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "emu.cli", "compare", *CHOICE, *("--rmap", "all"), "--report", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and len(row_directories(out)) < 2:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    nr_done = len(rows_in(out))
    assert nr_done >= 1
    last = load_run(row_directories(out)[-1])
    assert last.cut_short
    assert frame.run(["report", str(out)]) == 0
    assert f"cut short: {nr_done} of 9 rows are here" in (out / "index.html").read_text()
    assert frame.run(["report", str(last.path)]) == 0
    assert "cut short" in (last.path / "index.html").read_text()
    assert frame.run(["trace", str(out)]) == 0
    capsys.readouterr()


def test_a_damaged_row_is_named_and_the_rest_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counters = place / "b" / "rows" / ROWS[0] / "counters.json"
    whole = counters.read_text()
    try:
        counters.write_text("[]")
        assert frame.run(["report", str(place / "b"), "-o", str(place / "damaged")]) == 0
    finally:
        counters.write_text(whole)
    assert capsys.readouterr().err.startswith(f"fremap: {counters} is damaged: ")


def test_steps_that_are_damaged_or_cut_short(tmp_path: Path) -> None:
    assert read_steps(tmp_path) == []
    lines = ["time_s,what,step", "1.0,begins,a, b", "nonsense", "2.0,begins,c", "x,ends,c", "3.0,ends,a, b", "4.0,en"]
    (tmp_path / STEPS).write_text("\n".join(lines))
    assert read_steps(tmp_path) == [Step("a, b", 1.0, 3.0), Step("c", 2.0, None)]
