"""Runs that are killed: what they had is there, and report, trace and vmstat show it."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from emu.cli import frame
from emu.lab.vmstat_series import read_vmstat_series
from fsbackend.mount import temporary_mount

WORKLOAD = """\
from emu.lab.lab import Lab


def forever(lab: Lab) -> None:
    '''Store into pages until somebody ends it.'''
    process = lab.boot().spawn()
    mapping = process.mmap(lab.stamped_file("forever.dat", 64), 0)
    page = 0
    while True:
        process.remap_file_pages(mapping.vaddr + page * 4096, 4096, 0, 63 - page)
        mapping[page * 4096] = 1
        mapping.flush()
        page = (page + 1) % 64
"""


def test_a_run_that_is_killed_keeps_its_events_and_counters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, out = tmp_path / "forever.py", tmp_path / "out"
    script.write_text(WORKLOAD)
    command = [sys.executable, "-m", "emu.cli", "run", str(script)]
    command += ["--on", str(tmp_path), "--out", str(out), "--events"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            deadline_s = time.monotonic() + 60
            while time.monotonic() < deadline_s and _nr_events(out) < 100:
                time.sleep(0.05)
        finally:
            child.kill()
    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    assert not (out / "counters.json").exists()
    events = np.load(out / "events.npy")
    assert len(events) >= 100
    series = read_vmstat_series(out)
    assert series[-1]["nr_remap"] > 0
    assert frame.run(["report", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert "cut short" in page
    assert "vmstat: nr_remap" in page
    assert frame.run(["trace", str(out), "--ftrace"]) == 0
    assert "forever-1001" in (out / "trace.txt").read_text()
    assert frame.run(["trace", str(out)]) == 0
    capsys.readouterr()
    assert frame.run(["vmstat", str(out)]) == 0
    assert f"nr_remap {int(series[-1]['nr_remap'])}\n" in capsys.readouterr().out


def _nr_events(out: Path) -> int:
    try:
        return len(np.load(out / "events.npy"))
    except (OSError, ValueError, EOFError):
        # Not there yet, or just being made.
        return 0


@pytest.mark.fuse
def test_the_sampler_takes_less_than_a_hundredth_of_a_core_under_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = []
    with temporary_mount("disk") as mount:
        stop = threading.Event()

        def write() -> None:
            command = ["dd", "if=/dev/zero", f"of={mount.path}/file", "bs=64k", "count=400", "status=none"]
            while not stop.is_set():
                subprocess.run(command, check=True)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(4):
                out = tmp_path / str(number)
                command = [sys.executable, "-m", "emu.cli", "record", str(mount.path), "-o", str(out), "--seconds", "1"]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
                manifest = json.loads((out / "manifest.json").read_text())
                assert manifest["samples"] >= 8
                shares.append(manifest["sampler_cpu_share"])
                if shares[-1] < 0.01:
                    break
        finally:
            stop.set()
            writer.join()
    assert min(shares) < 0.01, shares
    capsys.readouterr()
