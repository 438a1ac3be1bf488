"""How fast a real program's trace is replayed, beside the bare machine on the same accesses.

``pytest tests/bench/test_replay_speed.py --benchmark-only -s`` prints a line a figure. Ratios count, not times.
"""

import time
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from emu.lab.ground import plain_ground
from emu.lab.lab import Lab, LabOptions
from emu.lab.memtrace.opening import convert, find_trace, open_trace
from emu.lab.memtrace.words import Call, vaddrs_of
from emu.lab.progress import NoProgress
from emu.lab.replay.expand import expand
from emu.lab.replay.faithful import replay
from emu.lab.replay.survey import survey

pytestmark = pytest.mark.bench

MILLION = 1e6


def test_replay_beside_the_bare_machine(benchmark: BenchmarkFixture) -> None:
    with open_trace(find_trace("sqlite3"), NoProgress()) as trace:
        began_s = time.perf_counter()
        seen = survey(trace, 12, lambda _count: None)
        survey_s = time.perf_counter() - began_s
        replay_s, bare_s = [], []

        def both() -> None:
            with plain_ground() as ground, Lab(ground, LabOptions(events=True)) as lab:
                outcome = replay(lab, trace, seen, advance=lambda _count: None)
                replay_s.append(outcome.seconds)
            words = np.concatenate([step for step in trace.steps() if not isinstance(step, Call)])
            batch = expand(vaddrs_of(words), words, 12, 0)
            with plain_ground() as ground, Lab(ground, LabOptions()) as lab:
                process = lab.boot(ram=256 << 20, huge_pages=False).spawn()
                runs = np.split(seen.pages, np.flatnonzero(np.diff(seen.pages) != 1) + 1)
                for run in runs:
                    process.sys_mmap(int(run[0]) << 12, len(run) << 12, 7, 0x32, -1, 0)
                process.run(batch.vaddrs, batch.kinds, batch.values)
                began_s = time.perf_counter()
                process.run(batch.vaddrs, batch.kinds, batch.values)
                bare_s.append(time.perf_counter() - began_s)

        benchmark.pedantic(both, rounds=3)  # type: ignore[no-untyped-call]
        accesses = trace.nr_accesses / MILLION
        rate, bare = accesses / min(replay_s), accesses / min(bare_s)
        print(  # noqa: T201 - what a benchmark is for
            f"\n  replay {rate:.1f} M/s, bare Process.run {bare:.1f} M/s, ratio {rate / bare:.2f}, "
            f"survey {accesses / survey_s:.1f} M/s"
        )
        assert rate / bare > 0.03


def test_reading_text(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = tmp_path / "gzip.txt"
    with open_trace(find_trace("gzip"), NoProgress()) as trace:
        convert(trace, path, NoProgress())

    def read() -> int:
        with open_trace(path, NoProgress()) as trace:
            return trace.nr_accesses

    count = benchmark.pedantic(read, rounds=3)  # type: ignore[no-untyped-call]
    began_s = time.perf_counter()
    lines = path.read_text().count("\n")
    plain_s = time.perf_counter() - began_s
    assert benchmark.stats is not None
    spent_s = benchmark.stats.stats.min
    print(f"\n  {count / spent_s / MILLION:.1f} M lines/s, str.count of the {lines:,} {lines / plain_s / MILLION:.0f}")  # noqa: T201
