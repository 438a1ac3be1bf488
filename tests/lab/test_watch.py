"""fremap watch: what is shown of a mount that works, whose word it is, and what cannot be watched."""

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from emu.cli import frame
from emu.lab import kernel_view as kernel_view_room
from emu.lab.activity import Activity, Histogram, look, read_activities
from emu.lab.kernel_view import KernelView
from emu.lab.mount_events import Paused
from emu.lab.observe import FIELDS, Observer, Sample
from emu.report.live import Gone, MountView, mount_panel, show
from emu.report.request_pictures import draw_requests
from emu.report.runs import load_run, totals
from fsbackend.mount import TemporaryMount, temporary_mount
from fsbackend.throttle import DirtyParams

MIB = 1 << 20
PARAMS = DirtyParams(background_bytes=MIB, dirty_bytes=2 * MIB)
NOBODY = 65534


@pytest.fixture
def busy() -> Iterator[TemporaryMount]:
    """Give a mount on which a writer is held back by a slow store, until the test ends."""
    with temporary_mount("disk", params=PARAMS, inject=["store.write delay=0.02"]) as mount:
        stop = threading.Event()

        def write() -> None:
            with (mount.path / "wal").open("wb", buffering=0) as file:
                while not stop.is_set():
                    file.write(b"x" * (128 << 10))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield mount
        finally:
            stop.set()
            writer.join()


def sample(**values: float) -> Sample:
    return Sample.from_mapping(dict.fromkeys(FIELDS, 0) | values)


@pytest.mark.fuse
def test_a_look_tells_requests_throttled_writers_and_the_flushers_file(
    busy: TemporaryMount, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, object] = {}
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s and not (seen.get("throttled") and seen.get("flusher_file")):
        assert frame.run(["watch", str(busy.path), "--once", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        seen |= {name: told[name] for name in ("throttled", "flusher_file") if told[name]}
    assert seen["flusher_file"] == "wal"
    [one] = seen["throttled"]  # type: ignore[misc]
    assert Path(f"/proc/self/task/{one['tid']}").exists()  # type: ignore[has-type]
    assert one["comm"]  # type: ignore[has-type]
    writes = told["requests"]["write"]
    assert writes["count"] >= 1
    assert writes["p50_us"] <= writes["p90_us"] <= writes["p99_us"] <= writes["max_us"]
    assert told["rates"]["dirtied"] > 0
    if os.geteuid() == 0:
        assert told["kernel_bdi"]["strict_limit"] == 1
        assert told["kernel_bdi"]["BdiDirtyThresh"] > 0


def test_latencies_of_a_span_are_those_between_two_looks() -> None:
    def activity(time_s: float, count: int, buckets: dict[str, int]) -> Activity:
        latency = {"write": {"count": count, "sum_ns": count * 1000, "log2_ns": buckets}}
        told = {"flusher_file": "", "throttled": [], "latency": latency}
        return Activity.read(told, time_s)

    before, after = activity(1.0, 100, {"10": 100}), activity(3.0, 110, {"10": 100, "20": 10})
    figures = after.requests_since(before)["write"]
    assert (figures["count"], figures["per_s"], figures["mean_us"]) == (10, 5.0, 1.0)
    assert 524.2 <= figures["p50_us"] <= figures["max_us"] <= 1048.6
    assert not before.requests_since(before)
    assert Histogram().figures(0.0)["per_s"] == 0


PANEL = """\
╭─ /mnt  <-  /store ───────────────────────────────────────────────────────────────────────────────╮
│ dirty     ####################bwwww..........s....                                               │
│           32.0 MiB dirty, 8.0 MiB under writeback                                                │
│ limits    background (b) 32.0 MiB, setpoint (s) 56.0 MiB, limit 64.0 MiB                         │
│ rates     dirtied 20.0 MiB/s, written 10.0 MiB/s                                                 │
│ law       bandwidth 100.0 MiB/s, writers held to 50.0 MiB/s                                      │
│ flusher   writes db/wal                                                                          │
│ pauses    7 so far; writers slept 25% of the time                                                │
│           dd (77) slept 9 times, 212.0 ms in all, held back now for 120 ms                       │
│           cp (78) slept once, 12.5 ms in all                                                     │
│ sda       write 5.0 MiB/s in 40 IO/s, read 0 B/s in 0 IO/s, busy 50%, queue 1.5, 3 in flight     │
│ kernel    1.0 MiB dirty, 0 B under writeback in all; its word on this mount cannot be read       │
│           (debugfs: Permission denied)                                                           │
│                                                                                                  │
│  requests   a second   median     90 %     99 %   slowest                                        │
│  ────────────────────────────────────────────────────────                                        │
│  write            80    80 us   1.2 ms   2.0 ms     3.1 s                                        │
│                                                                                                  │
╰──────────────────────────────────────────────────────────────────────────────────────────────────╯
"""


def test_the_panel() -> None:
    before = sample(time_s=1.0)
    after = sample(
        time_s=2.0, dirty=32 * MIB, writeback=8 * MIB, own_limit=64 * MIB, limit=64 * MIB, background=32 * MIB,
        dirtied=20 * MIB, written=10 * MIB, bandwidth=100 * MIB, rate_limit=50 * MIB, pauses=7, paused_s=0.25,
        disk_written=5 * MIB, disk_writes=40, disk_busy_s=0.5, disk_queue_s=1.5, disk_in_flight=3, kernel_dirty=MIB,
    )  # fmt: skip
    told = {"flusher_file": "db/wal", "throttled": [{"tid": 0, "paused_ms": 120}], "latency": {}}
    activity = Activity.read(told, 2.0)
    [held] = activity.throttled
    assert held.comm == "?"
    named = Activity(2.0, "db/wal", (type(held)(77, "dd", 120),), {}, told)
    paused = (Paused(77, "dd", 9, 212.0), Paused(78, "cp", 1, 12.5))
    figures = {"count": 80.0, "per_s": 80.0, "p50_us": 80.2, "p90_us": 1234.0, "p99_us": 1999.0, "max_us": 3.1e6}
    view = MountView(
        "/mnt", "/store", "sda", before, after, named, {"write": figures}, paused, {}, "debugfs: Permission denied"
    )
    shown = io.StringIO()
    Console(width=100, file=shown).print(mount_panel(view))
    assert shown.getvalue() == PANEL


@pytest.mark.fuse
def test_a_recording_keeps_latencies_and_the_report_tells_them(
    busy: TemporaryMount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert frame.run(["record", str(busy.path), "-o", str(out), "--seconds", "1.3"]) == 0
    looks = list(read_activities(out))
    assert len(looks) == 3
    with (out / "activity.jsonl").open("a") as file:
        file.write('{"time_s": 1, "flusher')
    assert len(list(read_activities(out))) == 3
    found = totals(load_run(out))
    assert found["requests: write"] == looks[-1].requests_since(looks[0])["write"]["count"] > 0
    assert 0 < found["latency_us: write, median"] <= found["latency_us: write, 99 % within"]
    capsys.readouterr()


@pytest.mark.parametrize("interval", ["nan", "inf", "-inf", "0", "-1"])
def test_an_interval_that_is_none_is_refused(
    interval: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("watch", "record"):
        assert frame.run([command, str(tmp_path), "--interval", interval]) == 2
        error = capsys.readouterr().err
        assert error.startswith("fremap: Invalid value")
        assert error.count("\n") == 1
    assert frame.run(["record", str(tmp_path), "--seconds", interval.replace("0", "nan")]) == 2
    capsys.readouterr()


@pytest.mark.fuse
def test_a_mount_that_goes_away_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_mount("disk") as mount:
        killer = threading.Timer(0.3, os.kill, (mount.pid, 9))
        killer.start()
        assert frame.run(["watch", str(mount.path), "--json", "--interval", "0.05"]) == 1
        killer.join()
    assert f"fremap: {mount.path} went away: " in capsys.readouterr().err


@pytest.mark.fuse
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_users_mount_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_mount("disk") as mount:
        # Once as oneself: whatever is imported on the way may not be readable to somebody else.
        assert frame.run(["watch", str(mount.path), "--once"]) == 0
        mount.path.parent.chmod(0o755)
        capsys.readouterr()
        os.seteuid(NOBODY)
        try:
            codes = [frame.run(["watch", str(mount.path), "--once"]), frame.run(["record", str(mount.path)])]
        finally:
            os.seteuid(0)
    assert codes == [1, 1]
    assert capsys.readouterr().err == 2 * f"fremap: {mount.path} is another user's mount: only that user may do this\n"


@pytest.mark.fuse
def test_the_kernels_word_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fstype: str) -> int:
        raise PermissionError(1, "Operation not permitted", fstype)

    monkeypatch.setattr(kernel_view_room, "_DEBUGFS", "/no/such/place")
    monkeypatch.setattr(kernel_view_room, "hidden_mount", refuse)
    with temporary_mount("disk") as mount:
        view = KernelView(Observer(mount.path).device)
        assert view.read().get("max_ratio") is not None
        assert view.unreadable == "debugfs: Operation not permitted"
        assert look(str(mount.path)).flusher_file == ""


def test_the_picture_of_requests_ends_at_the_slowest() -> None:
    def activity(buckets: dict[str, dict[str, int]]) -> Activity:
        latency = {
            kind: {"count": sum(one.values()), "sum_ns": 0, "log2_ns": one} for kind, one in buckets.items()
        }
        return Activity.read({"flusher_file": "", "throttled": [], "latency": latency}, 1.0)

    before = activity({"write": {"10": 5}, "control": {"10": 1}})
    after = activity({"write": {"10": 5, "15": 3, "20": 1}, "control": {"10": 900}, "fsync": {"30": 1}})
    axes = draw_requests([before, after]).axes[0]
    lines = {str(line.get_label()).split(":")[0]: line.get_xydata().tolist() for line in axes.lines}  # type: ignore[union-attr]
    assert list(lines) == ["write", "fsync"]
    assert lines["write"] == [[16.384, 0.0], [32.768, 75.0], [524.288, 75.0], [1048.576, 100.0]]
    assert [text.get_text() for text in draw_requests([before, before]).axes[0].texts] == ["nobody asked for anything"]


def a_view(mountpoint: str, **more: float) -> MountView:
    """Return a view of a mount on which two writers were throttled."""
    before = sample(time_s=1.0)
    after = sample(time_s=2.0, dirty=MIB, own_limit=64 * MIB, limit=64 * MIB, background=32 * MIB, pauses=7, **more)
    activity = Activity.read({"flusher_file": "db/wal", "throttled": [], "latency": {}}, 2.0)
    figures = {"count": 8.0, "per_s": 8.0, "p50_us": 80.2, "p90_us": 1234.0, "p99_us": 1999.0, "max_us": 3.1e6}
    requests = dict.fromkeys(("write", "fsync", "read", "control"), figures)
    paused = (Paused(77, "dd", 9, 212.0), Paused(78, "cp", 1, 12.5))
    kernel_bdi = {"BdiReclaimable": MIB, "BdiWriteback": 0, "BdiDirtyThresh": 64 * MIB}
    return MountView(mountpoint, "/store", "sda", before, after, activity, requests, paused, kernel_bdi, "")


def lines_of(views: list[MountView | Gone], width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO())
    return ["".join(part.text for part in line) for line in console.render_lines(show(views, console))]


@pytest.mark.parametrize("width", [60, 80])
def test_two_mounts_fit_a_small_terminal_each_with_all_there_is(width: int) -> None:
    shown = lines_of([a_view("/a"), a_view("/b")], width, 24)
    assert len(shown) == 18
    assert all(len(line) <= width for line in shown)
    text = "\n".join(shown)
    for word in ("/a", "/b", "1.0 MiB dirty", "limit 64.0 MiB", "dirtied", "dd (77)"):
        assert word in text
    for label in ("dirty", "rates", "pauses", "sda", "kernel", "requests"):
        assert sum(line.startswith(f"│ {label} ") for line in shown) == 2, "labels are never cut"
    assert "4 writes failed" in "\n".join(lines_of([a_view("/a", errors=4)] * 2, width, 24))


def test_in_a_large_terminal_whole_panels_are_shown_and_one_that_went_away() -> None:
    shown = "\n".join(lines_of([a_view("/a"), Gone("/b", "unmounted")], 100, 40))
    assert "setpoint (s)" in shown
    assert "slept 9 times" in shown
    assert "went away: unmounted" in shown


def test_more_mounts_than_panels_fit_have_a_line_each() -> None:
    views: list[MountView | Gone] = [*(a_view(f"/mount{number}") for number in range(4)), Gone("/gone", "unmounted")]
    shown = lines_of(views, 80, 24)
    assert len(shown) <= 24
    [line] = [line for line in shown if "/mount3" in line]
    assert line.split() == ["/mount3", "1.0", "MiB", "2%", "0", "B/s", "0", "B/s", "0%"]
    assert sum("/gone" in line and "gone" in line.split() for line in shown) == 1


def test_in_a_narrow_terminal_latencies_keep_their_units() -> None:
    shown = "\n".join(lines_of([a_view("/a")], 60, 40))
    [line] = [line for line in shown.splitlines() if line.startswith("│  write")]
    assert line.split()[2:9] == ["8", "80", "us", "2.0", "ms", "3.1", "s"]
    assert "90 %" not in shown


@pytest.mark.fuse
def test_the_others_are_watched_on_when_one_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_mount("disk") as stays, temporary_mount("disk") as goes:
        os.kill(goes.pid, 9)
        stay, gone = str(stays.path), str(goes.path)
        # Both must be there when it begins: a mount that is dead already is refused.
        assert frame.run(["watch", stay, gone, "--once"]) == 1
        assert "has lost its daemon" in capsys.readouterr().err
    with temporary_mount("disk") as stays, temporary_mount("disk") as goes:
        killer = threading.Timer(0.6, os.kill, (goes.pid, 9))
        last = threading.Timer(1.8, os.kill, (stays.pid, 9))
        killer.start()
        last.start()
        assert frame.run(["watch", str(stays.path), str(goes.path), "--json", "--interval", "0.05"]) == 1
        killer.join()
        last.join()
        out, err = capsys.readouterr()
    seen = [json.loads(line)["mountpoint"] for line in out.splitlines()]
    assert seen.count(str(stays.path)) > seen.count(str(goes.path)) > 0
    assert err.splitlines() == [
        f"fremap: {goes.path} went away: its daemon died",
        f"fremap: {stays.path} went away: its daemon died",
    ]
