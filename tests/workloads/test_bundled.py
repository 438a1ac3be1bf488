"""The bundled workloads, run as a user runs them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emu.cli import frame
from emu.mm.rmap import STRATEGIES


def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    out = tmp_path / "out"
    code = frame.run(["run", *arguments, "--on", str(tmp_path), "--out", str(out), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    outcome: dict[str, Any] = json.loads(captured.out)
    assert json.loads((out / "counters.json").read_text())["outcome"] == outcome
    assert json.loads((out / "manifest.json").read_text())["status"] == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    return outcome


@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_late_store(tmp_path: Path, capsys: pytest.CaptureFixture[str], rmap: str) -> None:
    outcome = run(tmp_path, capsys, "late_store", "--pages", "100", "--rmap", rmap)
    assert outcome["nr_lost_pages"] == (10 if rmap == "none" else 0)


@pytest.mark.parametrize("bulk", [(), ("--bulk",)])
def test_shuffle_shows_every_page_where_it_should(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bulk: tuple[str, ...]
) -> None:
    outcome = run(tmp_path, capsys, "shuffle", "--pages", "300", "--writes", "0.5", *bulk)
    assert outcome["vmas"] == 1
    assert outcome["mkclean_calls"] == 150


@pytest.mark.parametrize("rmap", list(STRATEGIES))
@pytest.mark.parametrize("mlocked", [(), ("--mlocked",)])
def test_window_loses_updates_only_without_a_reverse_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rmap: str, mlocked: tuple[str, ...]
) -> None:
    options = ("--pool", "400", "--window", "40", "--accesses", "4000", "--checkpoint-every", "500")
    outcome = run(tmp_path, capsys, "window", *options, "--rmap", rmap, *mlocked)
    assert outcome["remaps"] > 100
    assert outcome["pages_updated"] > 10
    if rmap == "none":
        assert outcome["pages_with_lost_updates"] > 0
    else:
        assert outcome["pages_with_lost_updates"] == 0


def test_window_works_with_less_ram_than_the_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--pool", "4000", "--window", "100", "--accesses", "6000", "--skew", "1.01", "--ram", "8M")
    outcome = run(tmp_path, capsys, "window", *options)
    assert outcome["faults_with_io"] > 0
    assert outcome["pages_with_lost_updates"] == 0


@pytest.mark.fuse
def test_without_on_a_temporary_mount_comes_and_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = frame.run(["run", "shuffle", "--pages", "64", "--out", str(tmp_path / "out")])
    assert code == 0
    assert "remap us per page" in capsys.readouterr().out
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list(tmp_path.glob("fremap-*/mnt")) == []


def test_events_are_kept_if_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--seed", "3", "shuffle", "--pages", "32", "--on", str(tmp_path), "--out", str(tmp_path / "o")]
    assert frame.run([*arguments, "--events"]) == 0
    capsys.readouterr()
    events = np.load(tmp_path / "o" / "events.npy")
    assert len(events) >= 32
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["seed"] == 3


def test_an_error_in_a_workload_is_one_line_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def broken(lab, *, n: int = 0):\n    lab.boot()\n    return 1 // n\n")
    assert frame.run(["run", str(path), "--on", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"fremap: {path}:3: ZeroDivisionError: integer division or modulo by zero\n"
    assert "ZeroDivisionError" in json.loads((tmp_path / "out" / "manifest.json").read_text())["status"]


def test_a_files_own_parameters_are_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "echo.py"
    path.write_text(
        "from typing import Literal\n\n\n"
        'def echo(lab, *, count: int, kind: Literal["a", "b"] = "a", flag: bool = False):\n'
        '    """Echo what was given."""\n'
        '    return {"count": count, "kind": kind, "flag": flag, "page_size": lab.page_size}\n'
    )
    outcome = run_file(tmp_path, capsys, str(path), "--count", "3", "--kind", "b", "--flag", "--format", "i386")
    assert outcome == {"count": 3, "kind": "b", "flag": True, "page_size": 4096}
    assert frame.run(["run", str(path), "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("Echo what was given", "--count", "--kind", "--no-flag", "--rmap", "--seed", "Laboratory"):
        assert word in text
    assert frame.run(["run", str(path)]) == 2
    assert "--count" in capsys.readouterr().err


def run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = frame.run(["run", *arguments, "--on", str(tmp_path), "--out", str(tmp_path / "out"), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    outcome: dict[str, Any] = json.loads(captured.out)
    return outcome


def test_a_parameter_that_cannot_be_leaves_a_line_and_no_run_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert frame.run(["run", "shuffle", "--pages", "0", "--on", str(tmp_path), "--out", str(out)]) == 1
    assert "shuffle.dat needs at least one page, not 0" in capsys.readouterr().err
    assert not out.exists()


def test_an_error_of_the_system_names_the_line_of_the_workload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def mine(lab):\n    open('/no/such/file')\n", encoding="utf-8")
    assert frame.run(["run", "mine.py", "--on", str(tmp_path), "--out", "out"]) == 1
    assert "mine.py:2: /no/such/file: No such file" in capsys.readouterr().err
