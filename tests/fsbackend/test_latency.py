"""Histograms of latencies: what percentiles they give, and what a real mount tells of its requests."""

import json
import threading
import time

import pytest

from fsbackend.latency import THROTTLED_WRITE, Latencies, percentile
from fsbackend.mount import control_path, temporary_mount
from fsbackend.throttle import DirtyParams

MIB = 1 << 20


def test_percentiles_are_within_the_bucket_that_holds_them() -> None:
    latencies = Latencies()
    for duration_ns in [1000] * 98 + [1_000_000, 50_000_000]:
        latencies.add("read", duration_ns)
    told = latencies.snapshot()["read"]
    assert (told["count"], told["sum_ns"]) == (100, 98 * 1000 + 51_000_000)
    buckets = {int(number): count for number, count in told["log2_ns"].items()}  # type: ignore[attr-defined]
    assert 512 <= percentile(buckets, 0.5) < 1024
    assert 524_288 <= percentile(buckets, 0.99) <= 1_048_576
    assert 33_554_432 <= percentile(buckets, 1.0) <= 67_108_864
    assert percentile({}, 0.5) == 0.0


def test_nothing_is_lost_between_threads_and_nothing_is_too_long() -> None:
    latencies = Latencies()

    def work() -> None:
        for _ in range(2000):
            latencies.add("write", 1 << 60)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert latencies.snapshot()["write"]["count"] == 8000


@pytest.mark.fuse
def test_a_mount_tells_of_its_requests_and_its_throttled_writers() -> None:
    params = DirtyParams(background_bytes=MIB, dirty_bytes=2 * MIB)
    with temporary_mount("disk", params=params, inject=["store.write delay=0.05"]) as mount:
        writer = threading.Thread(target=(mount.path / "file").write_bytes, args=(b"x" * (8 * MIB),))
        writer.start()
        seen: list[dict[str, object]] = []
        files = set()
        while writer.is_alive():
            told = json.loads(control_path(mount.path, "activity").read_text())
            seen += told["throttled"]
            files.add(told["flusher_file"])
            time.sleep(0.005)
        writer.join()
        told = json.loads(control_path(mount.path, "activity").read_text())
    assert files <= {"", "file"}
    assert "file" in files
    assert {row["tid"] for row in seen} == {writer.native_id}
    assert not told["throttled"]
    assert told["latency"]["write"]["count"] == 8 * MIB // (128 << 10)
    # Looks of this test are no requests of the writer.
    assert told["latency"]["control"]["count"] >= len(seen)
    assert "read" not in told["latency"]
    throttled = told["latency"][THROTTLED_WRITE]
    assert 0 < throttled["count"] <= told["latency"]["write"]["count"]
    assert throttled["sum_ns"] > 1_000_000
