"""The main job on real files: what is lost, what is not, and that a broken row is seen."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emu.cli import experiments, frame
from emu.lab.compare import Combination, combinations, run_row
from emu.lab.errors import LabError
from emu.lab.ground import Ground, fuse_ground, plain_ground
from emu.lab.rows import Row
from emu.mm.rmap import STRATEGIES
from emu.mm.rmap.none import NoRmap

KEYS = [field.name for field in fields(Row) if field.name != "note"]


def open_plain(_caps: str) -> AbstractContextManager[Ground]:
    return plain_ground()


def open_fuse(caps: str) -> AbstractContextManager[Ground]:
    return fuse_ground(caps)


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let temporary mounts lie under tmp_path, and check that none of them is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list(tmp_path.glob("fremap-*/mnt")) == []


def check_disk_row(row: Row) -> None:
    assert row.error is None
    assert row.broken == ""
    assert row.dirty_pages == 26
    assert row.lost_pages == (26 if row.rmap == "none" else 0)
    assert row.unaccounted_dirty_max == row.lost_pages
    assert row.mkclean_calls
    assert row.nr_vmas is not None
    # Where ordinary VMAs are made, nearly every page of a random order has one of its own.
    assert row.nr_vmas > 200 if row.rmap.startswith("linear_vmas") else row.nr_vmas == 1
    assert row.fault_us
    assert row.remap_us_per_page


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("rmap", "format_name"),
    [*((rmap, "x86_64") for rmap in STRATEGIES), ("none", "i386"), ("dirty_index", "i386"), ("scan", "arm64_16k")],
)
def test_on_a_disk_only_none_loses_and_it_loses_exactly_the_dirty_pages(
    rmap: str, format_name: str, only_here: None
) -> None:
    del only_here
    check_disk_row(run_row(Combination(rmap, "disk", format_name), 256, open_fuse))


@pytest.mark.fuse
@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_on_ramfs_nothing_is_lost_and_mkclean_is_never_called(rmap: str) -> None:
    row = run_row(Combination(rmap, "ramfs", "x86_64"), 256, open_fuse)
    assert (row.error, row.broken, row.lost_pages, row.mkclean_calls) == (None, "", 0, 0)


@pytest.mark.fuse
def test_a_strict_mount_is_a_disk() -> None:
    check_disk_row(run_row(Combination("none", "strict", "x86_64"), 256, open_fuse))


@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_plain_files_give_the_same_answer(rmap: str) -> None:
    check_disk_row(run_row(Combination(rmap, "disk", "x86_64"), 256, open_plain))
    row = run_row(Combination(rmap, "ramfs", "x86_64"), 256, open_plain)
    assert (row.error, row.broken, row.lost_pages, row.mkclean_calls) == (None, "", 0, 0)


@pytest.mark.parametrize("share", [0.01, 1.0])
@pytest.mark.parametrize("pages", [2, 3, 700])
def test_any_size_and_share(pages: int, share: float) -> None:
    for rmap in experiments.DEFAULT_RMAPS:
        row = run_row(Combination(rmap, "disk", "x86_64"), pages, open_plain, share=share, seed=pages)
        assert row.broken == ""
        assert row.dirty_pages == max(1, round(pages * share))


def test_the_seed_decides_what_happens() -> None:
    def counts(seed: int) -> list[Any]:
        row = run_row(Combination("dirty_index", "disk", "x86_64"), 128, open_plain, seed=seed)
        return [row.mkclean_calls, row.mkclean_pte_visits, row.mkclean_node_visits, row.rmap_bytes, row.pte_bytes]

    assert counts(1) == counts(1)


@pytest.mark.parametrize(
    ("combination", "pages", "more", "says"),
    [
        (Combination("scan", "disk", "x86_64"), 1, {}, "at least 2 pages"),
        (Combination("scan", "disk", "x86_64"), 100, {"share": 0}, "share"),
        (Combination("scan", "disk", "x86_64"), 1024, {"ram": 4 << 20}, "too little"),
    ],
)
def test_what_cannot_run_is_a_row_with_its_error(
    combination: Combination, pages: int, more: dict[str, Any], says: str
) -> None:
    row = run_row(combination, pages, open_plain, **more)
    assert row.error is not None
    assert says in row.error
    assert row.lost_pages is None
    assert row.broken


@pytest.mark.parametrize(
    ("choice", "says"), [(("magic", "disk", "x86_64"), "scan"), (("scan", "x", "x86_64"), "ramfs")]
)
def test_unknown_choices_are_refused_before_anything_runs(choice: tuple[str, str, str], says: str) -> None:
    with pytest.raises(LabError, match=says):
        combinations([choice[0]], [choice[1]], [choice[2]])


@pytest.fixture
def on_plain_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "why_no_fuse", lambda: "a test says so")


def run_compare(tmp_path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "rows.json"
    arguments = ["compare", "--pages", "64", "--json", str(path), "--report", str(tmp_path / "report"), *more]
    return frame.run(arguments), json.loads(path.read_text())


def test_the_command_leaves_table_pictures_page_and_json(
    tmp_path: Path, on_plain_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    del on_plain_files
    code, records = run_compare(tmp_path)
    assert code == 0
    assert records["version"] == 1
    assert [list(run) for run in records["runs"]] == [KEYS] * 2 * len(experiments.DEFAULT_RMAPS)
    assert [run["lost_pages"] for run in records["runs"] if run["rmap"] == "none"] == [6, 0]
    left = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"index.html", "lost.png", "manifest.json", "counters.json"} <= left
    captured = capsys.readouterr()
    assert "nothing can be mounted here (a test says so)" in captured.err
    assert "dirty_index" in captured.out
    assert json.loads((tmp_path / "report" / "manifest.json").read_text())["status"] == "done"


def test_a_strategy_that_loses_without_right_to_makes_the_command_fail(
    tmp_path: Path, on_plain_files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del on_plain_files

    class Careless(NoRmap):
        name = "careless"

    monkeypatch.setitem(STRATEGIES, "careless", Careless)
    code, records = run_compare(tmp_path, "--rmap", "careless", "--rmap", "scan", "--caps", "disk")
    assert code == 1
    assert [run["lost_pages"] for run in records["runs"]] == [6, 0]
    assert "lost 6 pages instead of 0" in capsys.readouterr().out


def test_where_fuse_is_required_plain_files_do_not_do(
    on_plain_files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    del on_plain_files
    assert frame.run(["compare", "--require-fuse"]) == 1
    assert capsys.readouterr().err == "fremap: nothing can be mounted here: a test says so\n"


def test_a_page_that_holds_neither_generation_breaks_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*_arguments: object, **_more: object) -> list[np.ndarray[Any, Any]]:
        return [np.full(64, 255, np.uint8)]

    monkeypatch.setattr("emu.lab.late_store.read_by_ordinary_process", torn)
    row = run_row(Combination("scan", "disk", "x86_64"), 64, open_plain)
    assert row.error is not None
    assert "page" in row.error


