"""The run directory: a manifest before and after, counters, and no silent overwriting."""

import json
from pathlib import Path

import pytest

from emu.cli import frame
from emu.lab.errors import LabError
from emu.lab.rundir import RunDirectory, write_records


def test_the_manifest_tells_a_run_that_was_cut_from_one_that_ended(tmp_path: Path) -> None:
    run = RunDirectory("work", tmp_path / "run", {"pages": 3, "on": Path("/x")}, 7)
    path = run.path / "manifest.json"
    before = json.loads(path.read_text())
    assert before["status"] == "running"
    assert before["seconds"] is None
    assert before["config"] == {"pages": 3, "on": "/x"}
    assert before["seed"] == 7
    assert {"python", "kernel", "fremap", "numpy", "numba"} <= set(before["versions"])
    assert before["machine"]["cores"] >= 1
    run.save_counters({"nr_dirty": 0})
    run.finish()
    after = json.loads(path.read_text())
    assert after["status"] == "done"
    assert after["seconds"] >= 0
    assert json.loads((run.path / "counters.json").read_text()) == {"nr_dirty": 0}
    assert sorted(p.name for p in run.path.iterdir()) == ["counters.json", "manifest.json"]


def test_runs_of_one_second_get_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {RunDirectory("work", None, {}, 0).path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.parent == Path("runs") for path in paths)


def test_a_run_is_not_overwritten_unless_asked_to(tmp_path: Path) -> None:
    RunDirectory("one", tmp_path, {}, 0)
    with pytest.raises(LabError, match="holds a run already"):
        RunDirectory("two", tmp_path, {}, 0)
    RunDirectory("one", tmp_path, {}, 5, overwrite=True)
    assert json.loads((tmp_path / "manifest.json").read_text())["seed"] == 5


@pytest.mark.parametrize("manifest", ['{"name": "record"}', "[]", "cut sho"])
def test_a_report_overwrites_no_run_of_another_kind(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(LabError, match="holds a run already: give another --report, or remove it"):
        RunDirectory("compare", tmp_path, {}, 0, overwrite=True, option="--report")
    assert (tmp_path / "manifest.json").read_text() == manifest


def test_a_place_where_nothing_can_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot make the run directory"):
        RunDirectory("work", tmp_path / "file" / "run", {}, 0)


def test_a_full_disk_is_named() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_records(Path("/dev/full"), {"version": 1})


def test_a_report_names_the_full_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory("work", tmp_path / "run", {}, 0)
    run.save_counters({"vmstat": {"nr_dirty": 1}})
    run.finish()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").symlink_to("/dev/full")
    monkeypatch.chdir(tmp_path)
    assert frame.run(["report", "run", "-o", "out"]) == 1
    assert capsys.readouterr().err == "fremap: out: No space left on device; make room there, or write elsewhere\n"


def test_two_runs_at_once_do_not_write_into_one_directory(tmp_path: Path) -> None:
    first = RunDirectory("compare", tmp_path / "run", {}, 0, overwrite=True, option="--report")
    first.save_counters({"nr_dirty": 1})
    with pytest.raises(LabError, match=r"another run writes into .*run now: wait for it, or give another --report"):
        RunDirectory("compare", tmp_path / "run", {}, 0, overwrite=True, option="--report")
    assert (first.path / "counters.json").exists()
    first.finish()
    second = RunDirectory("compare", tmp_path / "run", {}, 0, overwrite=True, option="--report")
    second.discard()
    with pytest.raises(LabError, match="holds a run already"):
        RunDirectory("compare", _finished(tmp_path / "other"), {}, 0)
    RunDirectory("compare", tmp_path / "other", {}, 0, overwrite=True).finish()


def _finished(path: Path) -> Path:
    RunDirectory("compare", path, {}, 0).finish()
    return path
