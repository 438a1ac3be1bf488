"""The ring of a mount's events: numbers, what came after one, what is dropped, what is told of scattered pages."""

import json
import os
from pathlib import Path

from fsbackend.eventlog import MAX_EVENTS, MAX_RANGES, EventLog


def told(log: EventLog, number: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.since(number).splitlines()]


def test_each_watcher_asks_for_what_came_after_the_last_it_saw() -> None:
    log = EventLog()
    assert log.since(0) == ""
    log.add("fsync", 1.0, 1.25, path="a")
    log.add("fsync", 2.0, 2.5, path="b")
    first = {"number": 1, "kind": "fsync", "begin_s": 1.0, "seconds": 0.25, "path": "a"}
    second = {"number": 2, "kind": "fsync", "begin_s": 2.0, "seconds": 0.5, "path": "b"}
    assert told(log, 0) == [first, second]
    assert told(log, 1) == [second]
    assert log.since(2) == log.since(99) == ""


def test_the_oldest_are_dropped_and_the_numbers_tell() -> None:
    log = EventLog()
    for at in range(MAX_EVENTS + 3):
        log.add("fsync", at, at)
    numbers = [event["number"] for event in told(log, 0)]
    assert numbers == list(range(4, MAX_EVENTS + 4))
    assert [event["number"] for event in told(log, MAX_EVENTS)] == numbers[-3:]


def test_of_scattered_pages_some_are_told_from_the_first_to_near_the_last() -> None:
    log = EventLog()
    for count in (1, MAX_RANGES, 10 * MAX_RANGES + 1):
        ranges = [(8192 * at, 4096) for at in range(count)]
        log.add_writeback(b"db", 0.0, 1.0, ranges, count, 0)
        event = told(log, log.number - 1)[0]
        assert event["nr_ranges"] == event["nr_pages"] == count
        kept = [tuple(each) for each in event["ranges"]]  # type: ignore[attr-defined]
        assert len(kept) == min(count, MAX_RANGES) or MAX_RANGES * 0.8 < len(kept) < MAX_RANGES
        assert set(kept) <= set(ranges)
        assert kept[0] == ranges[0]
        assert kept[-1][0] >= 0.9 * ranges[-1][0]


def test_names_that_are_no_text_and_pages_beyond_the_end() -> None:
    log = EventLog()
    log.add_writeback(b"\xff", 0.0, 1.0, [], 0, 5)
    event = told(log, 0)[0]
    assert str(event["path"]).encode("utf-8", "surrogateescape") == b"\xff"
    assert (event["ranges"], event["errno"]) == ([], 5)


def test_a_writer_has_its_name_also_when_it_is_gone() -> None:
    log = EventLog()
    log.add_pause(os.getpid(), 0.0, 0.1)
    log.add_pause(1 << 30, 0.0, 0.1)
    own = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert [event["comm"] for event in told(log, 0)] == [own, "?"]
