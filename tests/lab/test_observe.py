"""Watching, recording and reporting a real mount."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.cli import frame
from emu.lab.errors import LabError
from emu.lab.observe import FIELDS, Observer, Rates, Sample
from emu.lab.record import read_samples
from emu.lab.rundir import RunDirectory
from emu.report.live import gauge
from emu.report.runs import load_run, totals
from emu.report.timeline import DRAWINGS
from fsbackend.mount import TemporaryMount, temporary_mount
from fsbackend.throttle import DirtyParams

MIB = 1 << 20


@pytest.fixture
def mounted() -> Iterator[TemporaryMount]:
    with temporary_mount("disk", params=DirtyParams(background_bytes=4 * MIB, dirty_bytes=8 * MIB)) as mount:
        yield mount


def sample(**values: float) -> Sample:
    return Sample.from_mapping(dict.fromkeys(FIELDS, 0) | values)


def test_rates_are_differences_over_time() -> None:
    before = sample(time_s=1.0, dirtied=100, paused_s=0.5)
    rates = Rates.between(before, sample(time_s=3.0, dirtied=300, paused_s=1.5, disk_busy_s=9.0))
    assert (rates.dirtied, rates.paused, rates.disk_busy) == (100.0, 0.5, 1.0)
    assert Rates.between(before, before).dirtied == 0.0


def test_the_setpoint_is_the_laws() -> None:
    one = sample(limit=80, background=40, own_limit=80)
    assert one.setpoint == 70
    half = sample(limit=80, background=40, own_limit=40)
    assert half.setpoint == 35


def test_the_gauge_is_full_at_the_limit_and_empty_at_nothing() -> None:
    def filled(dirty: int, writeback: int) -> int:
        spans = gauge(dirty, writeback, 50, 80, 100).spans
        return sum(span.end - span.start for span in spans if "grey" not in str(span.style))

    assert [filled(0, 0), filled(50, 0), filled(50, 25), filled(100, 0), filled(300, 0)] == [0, 20, 30, 40, 40]
    assert "no limit" in gauge(0, 0, 0, 0, 0).plain


@pytest.mark.fuse
def test_once_json_tells_what_the_mount_says(mounted: TemporaryMount, capsys: pytest.CaptureFixture[str]) -> None:
    (mounted.path / "file").write_bytes(bytes(MIB))
    assert frame.run(["watch", str(mounted.path), "--once", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dirty"] == MIB
    assert told["own_limit"] == told["limit"] == 8 * MIB
    assert told["setpoint"] == 7 * MIB
    more = {"mountpoint", "store", "disk", "setpoint", "rates", "requests", "flusher_file", "throttled"}
    more |= {"paused_writers"}
    assert set(FIELDS) | more | {"kernel_bdi", "kernel_bdi_unreadable"} == set(told)


def test_samples_of_an_older_fremap_are_read(tmp_path: Path) -> None:
    (tmp_path / "samples.csv").write_text("time_s,dirty,dirtied\n1.5,4096,8192\n2.5,40")
    [one] = read_samples(tmp_path)
    assert (one.time_s, one.dirty, one.dirtied, one.disk_writes) == (1.5, 4096, 8192, 0)


@pytest.mark.fuse
def test_watching_writes_nothing_back(mounted: TemporaryMount, capsys: pytest.CaptureFixture[str]) -> None:
    # The real kernel writes a file's mapped dirty pages back when any descriptor of it closes.
    (mounted.path / "file").write_bytes(bytes(MIB))
    observer = Observer(mounted.path)
    before = observer.sample()
    for _ in range(3):
        assert frame.run(["watch", str(mounted.path), "--once"]) == 0
    after = observer.sample()
    assert (after.dirty, after.written) == (before.dirty, before.written) == (MIB, 0)
    assert "setpoint" in capsys.readouterr().out


@pytest.mark.fuse
def test_a_recording_lasts_as_long_as_its_command_and_has_its_exit_code(
    mounted: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    program = f"dd if=/dev/zero of={mounted.path}/file bs=64k count=400 status=none; sleep 0.3; exit 7"
    code = frame.run(
        ["record", str(mounted.path), "-o", str(out), "--interval", "0.05", "--", "sh", "-c", program]
    )
    assert code == 7
    assert "samples in" in capsys.readouterr().err
    samples = read_samples(out)
    assert samples[-1].dirtied - samples[0].dirtied == 400 * 64 * 1024
    assert max(one.dirty + one.writeback for one in samples) <= 8 * MIB
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["exit_code"] == 7
    assert manifest["samples"] == len(samples)
    # Numbers in the report are those of the records.
    found = totals(load_run(out))
    assert found["dirtied (bytes)"] == 400 * 64 * 1024
    assert frame.run(["report", str(out)]) == 0
    page = (out / "index.html").read_text()
    pictures = {path.stem for path in out.glob("*.png")}
    assert page.count("data:image/png;base64,") == len(pictures)
    assert {*DRAWINGS, "requests", "writeback"} <= pictures
    assert "25.0 MiB" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)


@pytest.mark.fuse
def test_a_command_that_cannot_run_is_one_line(
    mounted: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert frame.run(["record", str(mounted.path), "-o", str(out), "--", "/no/such/program"]) == 127
    assert capsys.readouterr().err == "fremap: cannot run /no/such/program: there is no such program\n"
    assert frame.run(["record", str(mounted.path), "-o", str(out), "--", str(Path(__file__))]) == 126
    assert capsys.readouterr().err == f"fremap: cannot run {__file__}: no program\n"
    assert not out.exists()


@pytest.mark.fuse
def test_a_recording_that_is_killed_can_be_reported(
    mounted: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "emu.cli", "record", str(mounted.path), "-o", str(out), "--interval", "0.02"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            if (out / "samples.csv").exists() and len((out / "samples.csv").read_text().splitlines()) > 4:
                break
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    with (out / "samples.csv").open("a") as file:
        file.write("12.5,77")
    assert frame.run(["report", str(out), "-o", str(tmp_path / "page")]) == 0
    assert "cut short" in (tmp_path / "page" / "index.html").read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.fuse
def test_a_mount_that_goes_away_ends_the_recording(
    mounted: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    killer = ["sh", "-c", f"sleep 0.2; kill -9 {mounted.pid}; sleep 1"]
    code = frame.run(["record", str(mounted.path), "-o", str(out), "--interval", "0.05", "--", *killer])
    status = json.loads((out / "manifest.json").read_text())["status"]
    assert "went away" in status
    assert (code, capsys.readouterr().err) == (1, f"fremap: {status}\n")
    assert len(read_samples(out)) >= 2


@pytest.mark.fuse
def test_two_recordings_stand_side_by_side(
    mounted: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        arguments = ["record", str(mounted.path), "-o", str(tmp_path / name), "--seconds", "0.3"]
        assert frame.run([*arguments, "--interval", "0.05"]) == 0
    assert frame.run(["report", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "both")]) == 0
    page = (tmp_path / "both" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * (len(DRAWINGS) + 1)
    assert "<th>a</th><th>b</th><th>change</th>" in page
    assert "change" in page
    capsys.readouterr()


def test_what_cannot_be_watched_or_reported_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in (
        (["watch", str(tmp_path), "--once"], "is no mount of fremap"),
        (["record", str(tmp_path)], "is no mount of fremap"),
        (["report", str(tmp_path)], "is no run directory"),
    ):
        assert frame.run(arguments) == 1
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_a_run_of_another_version_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    run = RunDirectory("work", tmp_path / "run", {}, 0)
    path = run.path / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(LabError, match="version 99"):
        load_run(run.path)
    path.write_text("{")
    with pytest.raises(LabError, match="damaged"):
        load_run(run.path)


def test_a_workloads_run_is_reported_with_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert frame.run(["run", "shuffle", "--pages", "50", "--on", str(tmp_path), "--out", str(out)]) == 0
    assert frame.run(["report", str(out)]) == 0
    capsys.readouterr()
    page = (out / "index.html").read_text()
    assert "outcome: pages" in page
    assert "vmstat: pgfault" in page
