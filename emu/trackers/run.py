"""All rows of the host: each tracker on each kind of memory, in a process of its own."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from emu.lab.progress import Progress
from emu.trackers.measure import TRACKERS, MeasureOrder
from emu.trackers.rows import FAILED, TrackerRow

_TIMEOUT_S, _TIMEOUT_A_STORE_S = 60.0, 2e-3
"""A row that takes longer, with so much for each of its stores, hangs: it is killed, and the next one goes on."""

Todo = tuple[str, str]


class _WorkerDiedError(Exception):
    """The process that measures ended before its row was there."""


def run_trackers(
    todo: Sequence[Todo], order: MeasureOrder, progress: Progress, timeout_s: float | None = None
) -> list[TrackerRow]:
    """Measure pairs of a tracker and a kind of memory; a process that dies costs its row alone."""
    rows: list[TrackerRow] = []
    if timeout_s is None:
        timeout_s = _TIMEOUT_S + _TIMEOUT_A_STORE_S * order.dirty * (2 * order.rounds + 1)
    with progress.step("trackers", len(todo)) as advance:
        while len(rows) < len(todo):
            left = todo[len(rows) :]
            try:
                for row in _rows_of_worker(left, order, timeout_s):
                    rows.append(row)
                    advance(1)
            except _WorkerDiedError as died:
                name, memory = todo[len(rows)]
                row = TrackerRow(name, memory, order.pages, order.dirty, TRACKERS[name].title)
                row.status, row.reason = FAILED, str(died)
                rows.append(row)
                advance(1)
    return rows


def _rows_of_worker(todo: Sequence[Todo], order: MeasureOrder, timeout_s: float) -> Iterator[TrackerRow]:
    command = [sys.executable, "-m", "emu.trackers.worker", json.dumps(asdict(order) | {"todo": list(todo)})]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as worker:  # noqa: S603 - our own
        pending = bytearray()
        try:
            for _ in todo:
                line = _read_line(worker, time.monotonic() + timeout_s, pending)
                yield TrackerRow.from_json(json.loads(line))
        finally:
            worker.kill()


def _read_line(worker: "subprocess.Popen[bytes]", until_s: float, pending: bytearray) -> bytes:
    """Read a whole line; what came behind it stays in `pending`. _WorkerDiedError if there is none by then."""
    assert worker.stdout is not None
    while (end := pending.find(b"\n")) < 0:
        ready, _, _ = select.select([worker.stdout], [], [], max(until_s - time.monotonic(), 0))
        if not ready:
            raise _WorkerDiedError("it did not come to an end and was killed")
        part = os.read(worker.stdout.fileno(), 1 << 16)
        if not part:
            code = worker.wait()
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise _WorkerDiedError(f"its process died: {how}")
        pending += part
    line = bytes(pending[:end])
    del pending[: end + 1]
    return line
