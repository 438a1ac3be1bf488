"""Row records: each row of a comparison is a run of its own, in DIR/rows/NAME, which report and trace read.

    manifest.json   the row's choices; how it ended, and what the sampler took
    counters.json   the machine's counters, and the row itself as `outcome`
    vmstat.csv      the counters over time, ten lines a second and one at each step
    steps.csv       when each step began and ended
    windows.npz     what each page of the mapping showed before and after msync
    events.npy      if they were asked for

Making the directory and looking at the mapping are no part of the row's seconds; the sampler's thread is, and takes
what the manifest says.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emu.lab.rows import Row
from emu.lab.rundir import RunDirectory

ROWS = "rows"
WORKLOAD = "late_store"
_NUMBER = "row"
_STRANGE = re.compile(r"[^\w.=-]+")


@dataclass(slots=True)
class RowRecord:
    """One row's directory while it runs; `row`, `counters` and `sampler` are put in when they are known."""

    path: Path
    row: Row | None = None
    counters: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, float] = field(default_factory=dict)


class RowRecords:
    """Makes the directories of a comparison's rows; those of an earlier one in the same place are removed."""

    def __init__(self, parent: Path, seed: int, *, events: bool = False, several_sizes: bool = False) -> None:
        self._parent = parent
        self._several_sizes = several_sizes
        self._seed = seed
        self.events = events
        self._count = 0
        for old in row_directories(parent):
            shutil.rmtree(old)

    @contextmanager
    def open(self, config: dict[str, Any], name: str) -> Iterator[RowRecord]:
        """Make the directory of a row; its manifest tells how it ended when this ends."""
        stem = _STRANGE.sub("+", f"{name}-{config['pages']}" if self._several_sizes else name)
        path, number = self._parent / ROWS / stem, 2
        while path.exists():
            path, number = self._parent / ROWS / f"{stem}-{number}", number + 1
        self._count += 1
        config |= {"events": self.events, _NUMBER: self._count}
        directory = RunDirectory(WORKLOAD, path, config, self._seed)
        record = RowRecord(path)
        with directory.ending():
            yield record
            if record.row is not None:
                directory.save_counters(record.counters | {"outcome": asdict(record.row)})
            error = None if record.row is None else record.row.error
            directory.finish(error or "done", **record.sampler)


def row_directories(parent: Path) -> list[Path]:
    """Return the directories of a comparison's rows, in the order in which they ran."""
    found = {path.parent: _number_in(path) for path in (parent / ROWS).glob("*/manifest.json")}
    return sorted((path for path, number in found.items() if number), key=found.__getitem__)


def _number_in(manifest: Path) -> int:
    """Return which row of its comparison a manifest tells of, from 1 on; 0 if it is none, or damaged."""
    try:
        return int(json.loads(manifest.read_text(encoding="utf-8"))["config"][_NUMBER])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
