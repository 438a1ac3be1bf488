"""A mount's events in a recording: throttle pauses, writebacks with their pages, fsyncs, power cuts; who is behind."""

import json
import os
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from emu.cli import frame
from emu.lab import mount_events as mount_events_room
from emu.lab.activity import read_control
from emu.lab.mount_events import EventCursor, MountEvent, paused_writers, read_mount_events
from emu.lab.observe import Observer
from emu.report.event_pictures import drawings_of
from emu.report.runs import load_run
from emu.report.trace.from_mount_events import trace_of_mount_events
from emu.report.trace.ftrace import slice_lines
from emu.report.trace.perfetto import write_perfetto
from fsbackend.client import power_cut
from fsbackend.eventlog import MAX_EVENTS, EventLog
from fsbackend.mount import temporary_mount
from fsbackend.throttle import DirtyParams

MIB = 1 << 20
WRITER = """
import os, sys
fd = os.open(sys.argv[1] + "/wal", os.O_WRONLY | os.O_CREAT)
for _ in range(48):
    os.write(fd, b"x" * (128 << 10))
os.fsync(fd)
"""


@pytest.mark.fuse
def test_a_recording_keeps_them_and_trace_and_report_show_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    params = DirtyParams(background_bytes=MIB, dirty_bytes=2 * MIB)
    with temporary_mount("disk", params=params, inject=["store.write delay=0.02"]) as mount:
        command = ["record", str(mount.path), "-o", str(run), "--", "/usr/bin/env", "python3", str(script)]
        assert frame.run([*command, str(mount.path)]) == 0
        pauses = mount.stats()["nr_pauses"]
    events = list(read_mount_events(run))
    by_kind = {kind: [event for event in events if event.kind == kind] for kind in ("throttle", "writeback", "fsync")}
    assert len(by_kind["throttle"]) == pauses == load_run(run).samples[-1].pauses > 0
    assert {event.told["comm"] for event in by_kind["throttle"]} == {"python3"}
    assert sum(event.told["nr_pages"] for event in by_kind["writeback"]) == 48 * 32
    covered = sorted(tuple(each) for event in by_kind["writeback"] for each in event.told["ranges"])
    assert sum(nbytes for _offset, nbytes in covered) == 48 * (128 << 10)
    assert [offset for offset, _nbytes in covered] == [0, *(offset + nbytes for offset, nbytes in covered[:-1])]
    assert [event.told["path"] for event in by_kind["fsync"]] == ["wal"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["mount_events"], manifest["mount_events_lost"]) == (len(events), 0)

    assert frame.run(["trace", str(run)]) == 0
    trace = Trace()
    trace.ParseFromString((run / "trace.perfetto-trace").read_bytes())
    marks = [packet.track_event for packet in trace.packet]
    begins = [mark.name for mark in marks if mark.type == TrackEvent.TYPE_SLICE_BEGIN]
    assert begins.count("balance_dirty_pages: pause") == pauses
    assert sum(name.endswith("pages: wal") for name in begins) == len(by_kind["writeback"])
    assert "fsync wal" in begins
    assert frame.run(["trace", str(run), "--ftrace", "-o", str(tmp_path / "text")]) == 0
    assert (tmp_path / "text").read_text().count("balance_dirty_pages: pause") == 2 * pauses
    assert frame.run(["report", str(run)]) == 0
    assert (run / "each_pause.png").stat().st_size > 0
    assert (run / "writeback.png").stat().st_size > 0


@pytest.mark.fuse
def test_a_power_cut_is_an_event_and_watchers_do_not_take_from_one_another() -> None:
    with temporary_mount("disk", power_cut=True) as mount:
        first, second = EventCursor(str(mount.path)), EventCursor(str(mount.path))
        (mount.path / "file").write_bytes(b"x" * 4096)
        power_cut(mount.path, "all")
        for cursor in (first, second):
            [event] = [MountEvent.read(line) for line in cursor.read() if b"power_cut" in line]
            assert event.told["survive"] == "all"
            assert cursor.read() == []
            assert cursor.nr_lost == 0


@pytest.mark.fuse
def test_a_daemon_without_events_is_recorded_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(path: str) -> bytes:
        if path.endswith("/events/now"):
            raise FileNotFoundError(2, os.strerror(2), path)
        return read_control(path)

    monkeypatch.setattr(mount_events_room, "read_control", refuse)
    with temporary_mount("disk") as mount:
        assert frame.run(["record", str(mount.path), "-o", str(tmp_path / "run"), "--seconds", "0.1"]) == 0
        assert Observer(mount.path).sample().time_s > 0
    assert list(read_mount_events(tmp_path / "run")) == []
    assert load_run(tmp_path / "run").samples


def test_what_the_ring_had_dropped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog()

    def control(path: str) -> bytes:
        name = path.rpartition("/")[2]
        return f"{log.number}\n".encode() if name == "now" else log.since(int(name)).encode()

    monkeypatch.setattr(mount_events_room, "read_control", control)
    cursor = EventCursor("/mnt")
    for at in range(MAX_EVENTS + 7):
        log.add("fsync", at, at + 0.5, path="file")
    events = [MountEvent.read(line) for line in cursor.read()]
    assert (events[0].kind, events[0].told["count"], cursor.nr_lost) == ("lost", 7, 7)
    assert len(events) == MAX_EVENTS + 1 == cursor.nr_events + 1


def test_writers_are_told_with_their_pauses_and_pictures_need_events(tmp_path: Path) -> None:
    log = EventLog()
    for tid, seconds in ((1 << 30, 0.1), (1 << 30, 0.2), (1 << 29, 0.05)):
        log.add_pause(tid, 5.0, 5.0 + seconds)
    lines = log.since(0).encode().splitlines()
    assert [(one.tid, one.pauses, one.paused_ms) for one in paused_writers(lines)] == [
        (1 << 30, 2, 300.0),
        (1 << 29, 1, 50.0),
    ]
    assert drawings_of([], 0.0) == {}
    for number in range(7):
        log.add_writeback(b"file%d" % number, 5.0, 6.0, [(0, 4096), (8192, 4096)], 2, 0)
    (tmp_path / "mount_events.jsonl").write_text(log.since(0) + '{"kind": "thr')
    events = list(read_mount_events(tmp_path))
    assert len(events) == 10
    drawn = drawings_of(events, 4.0)
    assert list(drawn) == ["each_pause", "writeback"]
    labels = [text.get_text() for text in drawn["writeback"].axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["file0", "file1", "file2", "file3", "others"]
    bars = [bar for lines in drawn["writeback"].axes[0].collections for bar in lines.get_segments()]  # type: ignore[attr-defined]
    assert len(bars) == 14


def test_damaged_lines_are_left_out_and_any_name_can_be_shown(tmp_path: Path) -> None:
    log = EventLog()
    for name in (b"_under", b"a$b$c", b"\xff", b"two\nlines", b"x" * 200):
        log.add_writeback(name, 5.0, 6.0, [(0, 4096)], 1, 0)
    whole = [json.loads(line) for line in log.since(0).splitlines()]
    first = whole[0]
    damaged: list[object] = [
        [], 7, {}, {**first, "ranges": [[1]]}, {**first, "ranges": [["a", "b"]]}, {**first, "ranges": 5},
        {name: value for name, value in first.items() if name != "path"}, {**first, "begin_s": "soon"},
        {"kind": "throttle", "begin_s": 1, "seconds": 1}, {"kind": "power_cut", "begin_s": 1, "seconds": 1},
    ]  # fmt: skip
    (tmp_path / "mount_events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*damaged, *whole]))
    events = list(read_mount_events(tmp_path))
    assert [event.told["path"] for event in events[:4]] == ["_under", "a$b$c", "\ufffd", "two?lines"]
    assert len(events) == 5
    figure = drawings_of(events, 4.0)["writeback"]
    figure.savefig(tmp_path / "picture.png")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels[:2] == ["./_under", r"a\$b\$c"]
    assert len(labels) == 5
    assert max(map(len, labels)) <= 30
    write_perfetto(trace_of_mount_events(events, 1), tmp_path / "trace")
    lines = [line for _at, _number, line in slice_lines(trace_of_mount_events(events, 1))]
    assert all(line.count("\n") == 1 for line in lines)
