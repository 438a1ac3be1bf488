"""A damaged run directory is one clear line; what is merely missing is named, and the rest is shown."""

import json
import shutil
from pathlib import Path

import pytest

from emu.cli import frame
from emu.lab.observe import FIELDS
from emu.lab.rundir import RunDirectory

SAMPLES = ",".join(FIELDS) + "\n" + "".join(",".join([str(time_s)] * len(FIELDS)) + "\n" for time_s in range(1, 9))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with events, and the samples of a mount in it."""
    out = tmp_path_factory.mktemp("runs") / "good"
    assert frame.run(["run", "shuffle", "--pages", "64", "--events", "--on", str(out.parent), "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b"[]"),
        ("manifest.json", b'{"version": 1, "name": "shuffle"}'),
        ("manifest.json", b"\xff\xfe\x00"),
        ("counters.json", b"[1]"),
        ("samples.csv", b"\x89PNG\xff\x00\n\x00\xfe,\n"),
        ("samples.csv", b"binary, but text\n1,2\n"),
        ("vmstat.csv", b"\xff\xfe\x00,\n1,2\n"),
        ("events.npy", b"overwritten"),
        ("events.npy", b""),
        ("events.npy", b"PK\x03\x04 overwritten"),
        ("windows.npz", b"overwritten"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    run: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_bytes(content)
    assert frame.run(["report", str(run)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"fremap: {run / name} is damaged: ")
    assert said.count("\n") == 1
    assert "pickle" not in said


@pytest.mark.parametrize("content", ["x", "[]", None])
def test_without_the_names_of_files_a_trace_has_their_numbers(
    run: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "events.json").unlink()
    if content is not None:
        (run / "events.json").write_text(content)
    assert frame.run(["trace", str(run)]) == 0
    assert f"{run / 'events.json'} is missing or damaged: files and disks have numbers" in capsys.readouterr().err
    assert (run / "trace.perfetto-trace").stat().st_size > 0


def test_counters_that_are_not_there_are_missed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "counters.json").write_text("{}")
    assert frame.run(["report", str(run)]) == 0
    assert f"fremap: {run / 'counters.json'} is missing or empty" in capsys.readouterr().err
    assert (run / "index.html").is_file()


def test_samples_that_are_not_there_are_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = RunDirectory("record", tmp_path / "record", {"mountpoint": "/mnt"}, 0)
    recorded.finish()
    assert frame.run(["report", str(recorded.path)]) == 0
    assert f"fremap: {recorded.path / 'samples.csv'} is missing" in capsys.readouterr().err
    (recorded.path / "samples.csv").write_text(SAMPLES)
    assert frame.run(["report", str(recorded.path)]) == 0
    assert capsys.readouterr().err == ""
    assert json.loads((recorded.path / "manifest.json").read_text())["status"] == "done"


def test_a_mount_that_died_before_the_first_sample_has_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = RunDirectory("record", tmp_path / "record", {"mountpoint": "/mnt"}, 0)
    recorded.finish("the mount went away: Transport endpoint is not connected")
    (recorded.path / "samples.csv").write_text(SAMPLES.splitlines()[0] + "\n")
    assert frame.run(["report", str(recorded.path)]) == 0
    assert capsys.readouterr().err.startswith(f"fremap: {recorded.path / 'samples.csv'} holds no samples: ")
    assert "the mount went away" in (recorded.path / "index.html").read_text()
