"""The real kernel's tracepoints of a mount, in the same run and on the same clock as its samples."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.cli import frame
from emu.lab import tracefs as tracefs_room
from emu.lab.errors import LabError
from emu.lab.record import read_samples
from emu.lab.tracefs import KERNEL_TRACE, KernelTrace, hidden_mount, tracefs
from emu.report.runs import load_run, totals
from emu.report.trace.from_kernel import read_kernel_events
from fsbackend.mount import TemporaryMount, control_path, temporary_mount

NR_WRITES = 24


@pytest.fixture
def mounted() -> Iterator[TemporaryMount]:
    with temporary_mount("disk") as mount:
        yield mount


@pytest.fixture
def traceable() -> None:
    try:
        with tracefs():
            pass
    except LabError as error:
        pytest.skip(str(error))


def has_instance(pid: int) -> bool:
    with tracefs() as root:
        return (root / "instances" / f"fremap-{pid}").exists()


@pytest.mark.fuse
@pytest.mark.usefixtures("traceable")
def test_the_kernels_events_lie_among_the_samples(
    mounted: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    source = tmp_path / "source"
    source.write_bytes(os.urandom(NR_WRITES << 17))
    copy = f"sleep 0.15; dd if={source} of={mounted.path}/file bs=128k status=none; sleep 0.15"
    arguments = ["record", str(mounted.path), "-o", str(out), "--interval", "0.05", "--kernel"]
    assert frame.run([*arguments, "--", "sh", "-c", copy]) == 0
    assert "kernel events" in capsys.readouterr().err
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["kernel"], manifest["kernel_events_lost"]) == ("traced", 0)
    events = list(read_kernel_events(out / KERNEL_TRACE))
    writes = [event for event in events if event.name == "fuse_request_send" and "FUSE_WRITE)" in event.text]
    assert len(writes) == NR_WRITES
    assert {event.comm for event in writes} == {"dd"}
    samples = read_samples(out)
    # Before the first write nothing was dirty, after the last everything: it is one clock.
    before = [one.dirtied for one in samples if one.time_s * 1e9 < writes[0].at_ns]
    after = [one.dirtied for one in samples if one.time_s * 1e9 > writes[-1].at_ns + 100_000_000]
    assert before
    assert after
    assert (set(before), set(after)) == ({0}, {NR_WRITES << 17})
    assert not has_instance(os.getpid())
    assert frame.run(["trace", str(out)]) == 0
    assert frame.run(["trace", str(out), "--ftrace"]) == 0
    assert "(FUSE_WRITE)" in (out / "trace.txt").read_text()
    assert "|dirty|" in (out / "trace.txt").read_text()
    assert frame.run(["report", str(out)]) == 0
    assert "kernel: fuse_request_send" in (out / "index.html").read_text()
    assert totals(load_run(out))["kernel: fuse_request_send"] >= NR_WRITES


@pytest.mark.fuse
@pytest.mark.usefixtures("traceable")
def test_nothing_is_left_after_ctrl_c_and_the_next_one_sweeps_after_a_kill(
    mounted: TemporaryMount, tmp_path: Path
) -> None:
    device = control_path(mounted.path, "stats").stat().st_dev
    for number, leaves in ((signal.SIGINT, False), (signal.SIGKILL, True)):
        out = tmp_path / number.name
        command = [sys.executable, "-m", "emu.cli", "record", str(mounted.path), "-o", str(out), "--kernel"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
            deadline_s = time.monotonic() + 30
            while time.monotonic() < deadline_s and not _has_samples(out):
                time.sleep(0.02)
            child.send_signal(number)
        assert has_instance(child.pid) == leaves
        assert frame.run(["trace", str(out)]) == 0
    with KernelTrace(tmp_path / "trace", [f"{os.major(device)}:{os.minor(device)}"]):
        assert has_instance(os.getpid())
        assert not has_instance(child.pid)
        with tracefs() as root:
            assert "[mono]" in (root / "instances" / f"fremap-{os.getpid()}" / "trace_clock").read_text()
    assert not has_instance(os.getpid())


def _has_samples(out: Path) -> bool:
    path = out / "samples.csv"
    return path.exists() and len(path.read_text().splitlines()) > 2


@pytest.mark.fuse
def test_without_tracefs_the_rest_is_recorded(
    mounted: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fstype: str) -> int:
        raise PermissionError(1, "Operation not permitted", fstype)

    monkeypatch.setattr(tracefs_room, "_PLACES", ("/no/such/place",))
    monkeypatch.setattr(tracefs_room, "hidden_mount", refuse)
    out = tmp_path / "run"
    assert frame.run(["record", str(mounted.path), "-o", str(out), "--kernel", "--seconds", "0.1"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("fremap: tracefs is not mounted and cannot be (Operation not permitted): mount -t tracefs")
    assert error.count("\n") == 2
    assert "not mounted" in json.loads((out / "manifest.json").read_text())["kernel"]
    assert read_samples(out)


@pytest.mark.usefixtures("traceable")
def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracefs_room, "_SYSTEMS", ("writeback", "no_such_system"))
    with pytest.raises(LabError, match="no_such_system"), KernelTrace(tmp_path / "trace", ["0:1"]):
        pytest.fail("there is no such system")
    assert not has_instance(os.getpid())


def test_a_hidden_mount_is_seen_by_nobody() -> None:
    try:
        fd = hidden_mount("tmpfs")
    except OSError as error:
        pytest.skip(str(error))
    try:
        table = Path("/proc/self/mountinfo").read_text()
        root = Path(f"/proc/self/fd/{fd}")
        (root / "file").write_text("x")
        assert [path.name for path in root.iterdir()] == ["file"]
        assert Path("/proc/self/mountinfo").read_text() == table
    finally:
        os.close(fd)
