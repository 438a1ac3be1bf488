"""Traces: Perfetto's own messages parse what is written, and the kernel's own print formats fit the ftrace text."""

import json
import mmap
import platform
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from emu.cli import frame
from emu.hw.mmu import AccessKind, kind_of
from emu.lab.errors import LabError
from emu.lab.tracefs import event_filter, tracefs
from emu.machine import Machine
from emu.mm_types.clock import VirtualClock
from emu.mm_types.events import EventKind, EventLog
from emu.mm_types.vmstat import VmStat
from emu.report.runs import load_run
from emu.report.trace.book import read_book, read_events
from emu.report.trace.from_events import trace_of_events
from emu.report.trace.from_kernel import REAL_KERNEL_PID, KernelEvent, read_kernel_events, trace_of_kernel
from emu.report.trace.from_samples import trace_of_vmstat, unit_of
from emu.report.trace.ftrace import FORMATS, kernel_lines
from emu.report.trace.model import Lane, Slice, Thread, nested, side_by_side
from fsbackend.throttle import DirtyParams

PAGE = 4096
NR_PAGES = 96


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run directory of a machine that faulted, was throttled, reclaimed, synced and lost its power."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "file").write_bytes(bytes(NR_PAGES * PAGE))
    log = EventLog(directory / "events.npy")
    params = DirtyParams(background_bytes=8 * PAGE, dirty_bytes=16 * PAGE, max_pause_s=0.05)
    clock = VirtualClock(5.0)
    machine = Machine(
        ram=64 * PAGE, clock=clock, params=params, events=log, io_depth=2, readahead=4, swap="1M", huge_pages=False
    )
    process = machine.spawn()
    mapping = process.mmap(str(directory / "file"), 0)
    process.remap_file_pages(mapping.vaddr, PAGE, 0, 7)
    store = kind_of(AccessKind.STORE, 8)
    for start in range(0, NR_PAGES, 16):
        process.run([mapping.vaddr + page * PAGE for page in range(start, start + 16)], store, start)
    process.fork().exit()
    process.msync(mapping.vaddr, NR_PAGES * PAGE)
    with pytest.raises(OSError, match="madvise"):
        process.madvise(mapping.vaddr, PAGE, 999)
    anonymous = process.mmap(-1, NR_PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in [*range(NR_PAGES), 0]:
        anonymous[page * PAGE] = 1
    process.store(mapping.vaddr, b"x")
    vmstat = machine.vmstat.snapshot()
    machine.power_off()
    log.close()
    manifest = {"version": 1, "name": "busy", "config": {}, "machine": {"cores": 1}, "status": "done"}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "counters.json").write_text(json.dumps({"vmstat": vmstat}))
    assert vmstat["nr_throttled"]
    assert vmstat["pswpout"]
    assert vmstat["pswpin"]
    assert vmstat["pgsteal_direct"] + vmstat["pgsteal_kswapd"]
    return directory


def parse_perfetto(path: Path) -> tuple[dict[int, Any], list[Any]]:
    """Return the track descriptors by uuid, and the packets with events, in order."""
    trace = pb.Trace()
    trace.ParseFromString(path.read_bytes())
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
    return tracks, [packet for packet in trace.packet if packet.HasField("track_event")]


def slices_of(packets: list[Any]) -> dict[int, list[tuple[str, int, int, int]]]:
    """Return (name, begin, end, depth) of each track's slices, as a trace processor builds its stacks."""
    stacks: dict[int, list[tuple[str, int]]] = defaultdict(list)
    found: dict[int, list[tuple[str, int, int, int]]] = defaultdict(list)
    for packet in packets:
        event = packet.track_event
        if event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
            stacks[event.track_uuid].append((event.name, packet.timestamp))
        elif event.type == pb.TrackEvent.TYPE_SLICE_END:
            name, begin = stacks[event.track_uuid].pop()
            assert begin <= packet.timestamp
            found[event.track_uuid].append((name, begin, packet.timestamp, len(stacks[event.track_uuid])))
    assert not any(stacks.values())
    return found


def test_perfettos_messages_hold_what_happened(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["trace", str(run), "--perfetto"]) == 0
    assert capsys.readouterr().out == f"{run}/trace.perfetto-trace\n"
    tracks, packets = parse_perfetto(run / "trace.perfetto-trace")
    times = [packet.timestamp for packet in packets]
    assert times == sorted(times)
    assert all(packet.track_event.track_uuid in tracks for packet in packets)
    assert all(track.parent_uuid in tracks for track in tracks.values() if not track.HasField("process"))
    names = {track.process.process_name for track in tracks.values() if track.HasField("process")}
    assert names == {"emulated machine", "kernel threads", "busy"}
    threads = {track.thread.thread_name for track in tracks.values() if track.HasField("thread")}
    assert threads >= {"busy", "kworker/flush"}
    events = np.load(run / "events.npy")
    kinds = events["kind"].tolist()
    slices = slices_of(packets)
    by_name = defaultdict(list)
    for uuid, own in slices.items():
        for name, begin, end, depth in own:
            by_name[name.split(":")[0]].append((uuid, begin, end, depth))
    assert len(by_name["page fault"]) == kinds.count(EventKind.FAULT)
    assert len(by_name["fdatasync"]) == kinds.count(EventKind.FSYNC)
    assert len(by_name["balance_dirty_pages"]) == kinds.count(EventKind.THROTTLE)
    assert len(by_name["wb_writeback"]) == kinds.count(EventKind.FLUSHER)
    assert sum(end - begin for _, begin, end, _ in by_name["balance_dirty_pages"]) == 1000 * int(
        events["arg"][events["kind"] == EventKind.THROTTLE].sum()
    )
    # The sync lies within the system call that asked for it.
    [(msync_track, begin, end, _)] = by_name["msync"]
    assert [b for u, b, e, depth in by_name["fdatasync"] if u == msync_track and begin <= b <= e <= end and depth]
    writes = [name for own in slices.values() for name, *_ in own if name.startswith("write ")]
    assert len(writes) == kinds.count(EventKind.WRITEBACK_START)


def test_counters_end_with_what_the_machine_counted(run: Path) -> None:
    assert frame.run(["trace", str(run), "-o", str(run / "other")]) == 0
    tracks, packets = parse_perfetto(run / "other")
    last = {}
    for packet in packets:
        if packet.track_event.type == pb.TrackEvent.TYPE_COUNTER:
            track = tracks[packet.track_event.track_uuid]
            last[track.name] = packet.track_event.counter_value
            assert track.counter.unit_name in {"pages", "pages/s"}
    vmstat = json.loads((run / "counters.json").read_text())["vmstat"]
    assert last["nr_dirty"] == vmstat["nr_dirty"] == 1
    assert last["nr_written"] == vmstat["nr_written"]
    assert last["nr_file_pages"] == vmstat["nr_file_pages"]
    assert last["nr_dirty_threshold"] == 16
    assert any(name.endswith(" dirty_ratelimit") for name in last)


LINE = re.compile(
    r" *(?P<comm>\S+)-(?P<tid>\d+) +\[(?P<cpu>\d{3})\] [.\w]{5} +(?P<at>\d+\.\d{6}): (?P<name>\w+): (?P<text>.*)"
)


def as_pattern(print_format: str) -> re.Pattern[str]:
    """Make a pattern of a tracepoint's print format: numbers as it wants them, words for the rest."""
    numbers = {"u": r"\d+", "d": r"-?\d+", "x": "[0-9a-f]+", "ps": "0x[0-9a-f]+", "p": "0x[0-9a-f]+", "s": r"\S.*?|"}

    def one(found: re.Match[str]) -> str:
        return f"(?:{numbers[found[1]]})"

    return re.compile(re.sub(r"%l*(ps|[udxsp])", one, re.escape(print_format).replace(r"\%", "%")))


def test_ftrace_text_has_the_kernels_names_and_fields(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["trace", str(run), "--ftrace", "-o", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# tracer: nop"
    body = [line for line in lines if not line.startswith("#")]
    assert f"# entries-in-buffer/entries-written: {len(body)}/{len(body)}   #P:1" in lines
    patterns = {name.split(":")[1]: as_pattern(text) for name, text in FORMATS.items()}
    seen, last_s = set(), 0.0
    for line in body:
        found = LINE.fullmatch(line)
        assert found, line
        assert float(found["at"]) >= last_s
        last_s = float(found["at"])
        if found["name"] != "tracing_mark_write":
            assert patterns[found["name"]].fullmatch(found["text"]), line
        else:
            assert re.fullmatch(r"[BEISFC]\|\d+(\|.*)?", found["text"]), line
        seen.add(found["name"])
    assert seen >= {
        "page_fault_user", "mm_filemap_add_to_page_cache", "mm_filemap_delete_from_page_cache", "balance_dirty_pages",
        "writeback_dirty_folio", "global_dirty_state", "bdi_dirty_ratelimit", "tlb_flush", "sys_enter", "sys_exit",
        "sched_switch", "writeback_start", "writeback_written", "mm_vmscan_write_folio",
    }  # fmt: skip
    events = read_events(run / "events.npy")
    assert sum(" page_fault_user: " in line for line in body) == (events["kind"] == EventKind.FAULT).sum()
    assert "NR 28 = -22" in "".join(body)
    turns = "".join(line for line in body if " writeback_written: " in line)
    flushed = sum(int(number) for number in re.findall(r"nr_pages=(\d+)", turns))
    by_kernel = events[(events["kind"] == EventKind.WRITEBACK_START) & (events["mm"] == 0)]
    assert 0 < flushed <= by_kernel["arg"].sum()


@pytest.mark.skipif(not platform.release().startswith("6.18."), reason="the formats are those of Linux 6.18")
def test_the_formats_are_those_of_this_kernel() -> None:
    try:
        with tracefs() as root:
            for name, ours in FORMATS.items():
                place = root / "events" / name.replace(":", "/") / "format"
                if not place.exists():
                    continue
                text = place.read_text()
                theirs = text.partition('print fmt: "')[2].partition('",')[0]
                assert theirs == ours, name
    except LabError as error:
        pytest.skip(str(error))


def test_the_kernels_words_become_requests_and_turns(tmp_path: Path) -> None:
    path = tmp_path / "kernel.trace"
    path.write_text(
        "# tracer: nop\n"
        "              dd-77    [001] ...1.   100.000001: fuse_request_send: connection 41 req 8 opcode 16 (FUSE_WRITE)"
        " len 56 \n"
        "   kworker/u8:1-9     [000] .....   100.000005: writeback_start: bdi 0:41: sb_dev 0:0 nr_pages=5 sync_mode=0"
        " kupdate=0 range_cyclic=1 background=1 reason=background cgroup_ino=1\n"
        "   kworker/u8:1-9     [000] .....   100.000105: writeback_written: bdi 0:41: sb_dev 0:0 nr_pages=5 sync_mode=0"
        " kupdate=0 range_cyclic=1 background=1 reason=background cgroup_ino=1\n"
        "CPU:1 [LOST 7 EVENTS]\n"
        "         python3-12    [001] .....   100.000251: fuse_request_end: connection 41 req 8 len 24 error -28\n"
        "  name with - 3-78    [001] .....   100.000300: global_dirty_state: dirty=5 writeback=1 bg_thresh=10 thresh=20"
        " limit=20 dirtied=9 written=3\n"
        "              dd-77    [001] ...1.   100.000400: fuse_request_send: connection 41 req 10 opcode 1"
        " (FUSE_LOOKUP) len 42 \n"
        "  torn-7 [00"
    )
    events = list(read_kernel_events(path))
    assert events[0] == KernelEvent(
        100_000_001_000, "dd", 77, 1, "fuse_request_send", "connection 41 req 8 opcode 16 (FUSE_WRITE) len 56", "...1."
    )
    assert [event.name for event in events].count("lost_events") == 1
    assert events[5].comm == "name with - 3"
    assert [event.flags for event in events[-2:]] == [".....", "...1."]
    assert [line.partition("] ")[2][:5] for _at, _number, line in kernel_lines(path)][-2:] == [".....", "...1."]
    trace = trace_of_kernel(events)
    write, lookup = Lane(REAL_KERNEL_PID, "requests: WRITE"), Lane(REAL_KERNEL_PID, "requests: LOOKUP")
    args = {"from": "dd 77", "bytes": 56, "reply bytes": 24, "errno": 28}
    assert Slice(write, 100_000_001_000, 100_000_251_000, "WRITE", args) in trace.slices  # type: ignore[arg-type]
    assert [one.args["failed"] for one in trace.slices if one.track == lookup] == ["no reply"]
    turn = next(one for one in trace.slices if one.name == "wb_writeback: background")
    assert (turn.end_ns - turn.begin_ns, turn.track) == (100_000, Thread(9, 9, "kworker/u8:1", "kworker/u8:1"))
    assert {(point.counter.name, point.value) for point in trace.points} >= {("nr_dirty", 5), ("dirty_threshold", 20)}


def test_slices_that_overlap_go_side_by_side_and_the_others_stack() -> None:
    lane = Lane(1, "I/O")
    one, two, three = (Slice(lane, begin, end, "w") for begin, end in ((0, 10), (5, 15), (10, 20)))
    assert side_by_side([three, one, two]) == [[one, three], [two]]
    outer, inner = Slice(lane, 0, 10, "outer"), Slice(lane, 4, 11, "inner")
    assert [(at, begins, each.name) for at, begins, each in nested([inner, outer])] == [
        (0, True, "outer"), (4, True, "inner"), (10, False, "inner"), (10, False, "outer"),
    ]  # fmt: skip
    twice = [Slice(lane, 10, 10, "a"), Slice(lane, 10, 10, "b")]
    depth, deepest = 0, 0
    for _, begins, _ in nested([outer, *twice]):
        depth += 1 if begins else -1
        deepest = max(deepest, depth)
    assert (depth, deepest) == (0, 2)


def test_events_are_kept_to_their_device() -> None:
    assert event_filter("\tfield:char name[32];\toffset:8;", ["0:41", "8:0"]) == 'name == "0:41" || name == "8:0"'
    assert event_filter("\tfield:dev_t connection;\toffset:8;", ["0:41"]) == "connection == 41"
    assert event_filter("\tfield:dev_t dev;\toffset:8;", ["8:1"]) == f"dev == {(8 << 20) + 1}"
    assert not event_filter("\tfield:unsigned long nr_dirty;", ["0:41"])


def test_two_runs_share_a_time_line_and_no_process(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    assert frame.run(["trace", str(run), str(run), "-o", str(out)]) == 0
    tracks, _ = parse_perfetto(out)
    pids = [track.process.pid for track in tracks.values() if track.HasField("process")]
    assert len(pids) == len(set(pids)) == 8
    assert min(pids) > 1 << 22


def test_a_machine_without_events_still_has_its_counters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert frame.run(["run", "shuffle", "--pages", "50", "--on", str(tmp_path), "--out", str(out)]) == 0
    assert frame.run(["trace", str(out)]) == 0
    tracks, packets = parse_perfetto(out / "trace.perfetto-trace")
    assert "pgfault" in {track.name for track in tracks.values()}
    assert packets
    assert frame.run(["trace", str(out), "--ftrace"]) == 0
    assert "|pgfault|" in (out / "trace.txt").read_text()
    capsys.readouterr()


def test_what_cannot_be_traced_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "manifest.json").write_text('{"version": 1, "name": "compare", "config": {}}')
    old = tmp_path / "old"
    old.mkdir()
    (old / "manifest.json").write_text('{"version": 1, "name": "old", "config": {}}')
    np.save(old / "events.npy", np.zeros(3, [("time_s", "<f8"), ("kind", "<u2")]))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text('{"version": 1, "name": "damaged", "config": {}}')
    (damaged / "events.npy").write_bytes(b"no array")
    for arguments, says in (
        ([str(bare)], "recorded nothing over time"),
        ([str(bare), "--ftrace"], "recorded nothing over time"),
        ([str(old)], "another version of fremap"),
        ([str(damaged)], "is damaged"),
        ([str(run), "--ftrace", "--perfetto"], "one format"),
        (["/no/such/run"], "no run directory"),
        ([str(run), "-o", "/no/such/place/file"], "no directory /no/such/place"),
    ):
        assert frame.run(["trace", *arguments]) == (2 if {"--perfetto", "-o"} & set(arguments) else 1), says
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_a_book_of_names_that_is_lost_leaves_numbers(run: Path, tmp_path: Path) -> None:
    book = read_book(tmp_path / "nothing.json", "busy")
    trace = trace_of_events(read_events(run / "events.npy"), book)
    assert any(one.name.startswith("write ") for one in trace.slices)
    assert load_run(run).name == "busy"


def test_counters_have_units() -> None:
    units = {name: unit_of(name) for name in VmStat().snapshot()}
    assert {name for name, unit in units.items() if unit == "KiB"} == {"pgpgin", "pgpgout"}
    assert {units[name] for name in ("nr_dirty", "nr_mapped", "pgsteal_kswapd", "pswpin")} == {"pages"}
    assert {units[name] for name in ("pgfault", "nr_tlb_remote_flush", "allocstall", "mkclean_calls")} == {"times"}
    assert (units["throttle_pause_us"], units["mkclean_pte_visits"]) == ("us", "visits")
    trace = trace_of_vmstat([{"clock_s": at, "pgfault": at} for at in (1.0, 2.0)], 1)
    assert {point.counter.unit for point in trace.points} == {"times"}
