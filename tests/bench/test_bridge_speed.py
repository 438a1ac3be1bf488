"""numpy on emulated memory beside numpy on its own, in millions of elements a second; ratios count.

``pytest tests/bench/test_bridge_speed.py --benchmark-only -s`` prints a line for each operation.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from emu.bridge import MappedArray
from emu.machine import Machine

pytestmark = pytest.mark.bench

ROWS, COLUMNS = 512, 512
ROUNDS = 7
INDEX = np.random.default_rng(7).permutation(ROWS * COLUMNS)[:50_000]

OPERATIONS: dict[str, tuple[int, Callable[[Any], object]]] = {
    "copy all": (ROWS * COLUMNS, np.array),
    "sum by rows": (ROWS * COLUMNS, lambda a: a.sum(axis=1)),
    "add in place": (ROWS * COLUMNS, lambda a: a.__iadd__(1)),
    "a block of 64 x 64": (64 * 64, lambda a: np.array(a[100:164, 200:264])),
    "every second column": (ROWS * COLUMNS // 2, lambda a: np.array(a[:, ::2])),
    "load 50,000 at random": (len(INDEX), lambda a: a.reshape(-1)[INDEX]),
    "store 50,000 at random": (len(INDEX), lambda a: a.reshape(-1).__setitem__(INDEX, 2.0)),
    "load 300 one by one": (300, lambda a: [a[at, at] for at in range(300)]),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MappedArray, np.ndarray[Any, Any]]]:
    path = tmp_path_factory.mktemp("bridge") / "numbers"
    plain = np.random.default_rng(3).random((ROWS, COLUMNS))
    path.write_bytes(plain.tobytes())
    # Room for all of it, and no page is dirty enough to be written back: only the accesses are measured.
    with Machine(ram="64M") as machine, machine.spawn().mmap(path, 0) as mapping:
        mapped = MappedArray(mapping, "f8", (ROWS, COLUMNS))
        mapped += 0
        yield mapped, plain


def fastest(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - began_s)
    return min(times)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(
    benchmark: BenchmarkFixture, pair: tuple[MappedArray, np.ndarray[Any, Any]], name: str
) -> None:
    mapped, plain = pair
    count, do = OPERATIONS[name]
    ours, theirs = fastest(lambda: do(mapped)), fastest(lambda: do(plain))
    benchmark.pedantic(lambda: do(mapped), rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(million_a_second=count / ours / 1e6, numpy=count / theirs / 1e6, times=ours / theirs)
    speeds = f"{count / ours / 1e6:8.3g} M/s, numpy {count / theirs / 1e6:8.3g} M/s, {ours / theirs:5.1f} times"
    print(f"\n  {name:24} {speeds}")  # noqa: T201 - a benchmark's figures
