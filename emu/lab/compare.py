"""compare: late_store under every combination of strategy, capabilities and format, judged row by row."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from emu.errors import KernelBug, Signal
from emu.lab.errors import LabError
from emu.lab.ground import Ground
from emu.lab.host_lab import host_format
from emu.lab.host_late_store import HOST_RMAP, host_row
from emu.lab.lab import Lab, LabOptions
from emu.lab.late_store import LateStore, late_store
from emu.lab.progress import NoProgress, Progress
from emu.lab.row_records import RowRecord, RowRecords
from emu.lab.rows import Row

OpenGround = Callable[[str], AbstractContextManager[Ground]]
"""Makes a ground for given capabilities."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One row to run."""

    rmap: str
    caps: str
    format: str


def combinations(rmaps: Sequence[str], capses: Sequence[str], formats: Sequence[str]) -> list[Combination]:
    """Return the rows to run, formats outermost. Each is checked before the first one runs.

    The kernel underneath has one format, the first that fits its pages: it has a row for each of `capses`.

    Raises
    ------
    LabError
        For an unknown strategy, format or capability; one line that names the known ones.

    """
    emulated = [rmap for rmap in rmaps if rmap != HOST_RMAP]
    rows = [Combination(rmap, caps, fmt) for fmt, caps, rmap in product(formats, capses, emulated)]
    for row in rows:
        LabOptions(rmap=row.rmap, caps=row.caps, format=row.format).check("all", HOST_RMAP)
    if HOST_RMAP in rmaps:
        host = [Combination(HOST_RMAP, caps, host_format()) for caps in capses]
        for row in host:
            LabOptions(caps=row.caps, format=row.format).check()
        # Beside the emulated rows of the same capabilities and format, where there are any.
        rows = sorted(rows + host, key=lambda row: _first_with(rows + host, row))
    return rows


def _first_with(rows: Sequence[Combination], row: Combination) -> int:
    return next(number for number, one in enumerate(rows) if (one.caps, one.format) == (row.caps, row.format))


def run_row(
    combination: Combination,
    nr_pages: int,
    open_ground: OpenGround,
    *,
    share: float = 0.1,
    seed: int = 0,
    ram: int | None = None,
    progress: Progress | None = None,
    records: RowRecords | None = None,
) -> Row:
    """Run late_store for one combination. What goes wrong becomes the row's error, so that the others run.

    With `records` the row leaves a run directory of its own.
    """
    options = LabOptions(format=combination.format, caps=combination.caps, seed=seed, ram=ram)
    if combination.rmap != HOST_RMAP:
        options = replace(options, rmap=combination.rmap, events=records is not None and records.events)
    run = _OneRow(combination, nr_pages, share, options)
    if records is None:
        return run.run(open_ground, progress, None)
    config = asdict(combination) | {"pages": nr_pages, "share": share, "ram": ram}
    with records.open(config, run.name) as record:
        record.row = run.run(open_ground, progress, record)
        return record.row


@dataclass(frozen=True, slots=True)
class _OneRow:
    """late_store for one combination."""

    combination: Combination
    nr_pages: int
    share: float
    options: LabOptions

    @property
    def name(self) -> str:
        """What tells it from the others of a comparison."""
        return "-".join(asdict(self.combination).values())

    def run(self, open_ground: OpenGround, progress: Progress | None, record: RowRecord | None) -> Row:
        """Run it; what a lab records goes into the record's directory."""
        began_s = time.perf_counter()
        names = asdict(self.combination) | {"pages": self.nr_pages}
        directory = None if record is None else record.path
        try:
            with open_ground(self.combination.caps) as ground, Lab(ground, self.options, progress, directory) as lab:
                if self.combination.rmap == HOST_RMAP:
                    return host_row(lab, self.nr_pages, self.share)
                result = self._late_store(lab, record)
        except OSError as error:
            words = error.strerror or str(error)
            return Row(**names, error=f"{error.filename}: {words}" if error.filename else words)
        except (LabError, ValueError, Signal, KernelBug, MemoryError) as error:
            return Row(**names, error=str(error) or type(error).__name__)
        seconds = time.perf_counter() - began_s - lab.looking_s
        return Row(**names, **_fields(result), seconds=round(seconds, 3))

    def _late_store(self, lab: Lab, record: RowRecord | None) -> LateStore:
        """Run the experiment; leave in the record what the machine counted, unless it was interrupted in the middle."""
        try:
            result = late_store(lab, self.nr_pages, self.share)
        except Exception:
            _take_counters(lab, record)
            raise
        _take_counters(lab, record)
        return result


def _take_counters(lab: Lab, record: RowRecord | None) -> None:
    lab.stop_recording()
    if record is not None:
        record.counters, record.sampler = lab.counters(), lab.sampler()


def _fields(result: LateStore) -> dict[str, Any]:
    memory = result.memory
    return {
        "dirty_pages": result.nr_dirty_pages,
        "lost_pages": result.nr_lost_pages,
        "unaccounted_dirty_max": result.unaccounted_dirty_max,
        "mkclean_calls": result.mkclean_calls,
        "mkclean_pte_visits": result.mkclean_pte_visits,
        "mkclean_node_visits": result.mkclean_node_visits,
        "rmap_bytes": memory.rmap_bytes,
        "rmap_bytes_per_mapped_page": round(memory.rmap_bytes_per_mapped_page, 4),
        "pte_bytes": memory.pte_bytes,
        "pte_upper_bytes": memory.pte_upper_bytes,
        "remap_us_per_page": round(result.remap_us_per_page, 3),
        "fault_us": None if result.fault_us is None else round(result.fault_us, 3),
        "nr_vmas": memory.nr_vmas,
    }


def run_all(
    rows: Iterable[Combination],
    nr_pages: int,
    open_ground: OpenGround,
    *,
    share: float = 0.1,
    seed: int = 0,
    ram: int | None = None,
    progress: Progress | None = None,
    records: RowRecords | None = None,
    keep: Callable[[Sequence[Row]], None] = lambda _rows: None,
) -> list[Row]:
    """Run every row, one after the other; after each, `keep` is given those that are done."""
    todo = list(rows)
    shown = progress or NoProgress()
    done: list[Row] = []
    for number, row in enumerate(todo, 1):
        label = f"[{number}/{len(todo)}] {row.rmap} on {row.caps}, {row.format}"
        labelled = _Labelled(shown, label)
        done.append(
            run_row(row, nr_pages, open_ground, share=share, seed=seed, ram=ram, progress=labelled, records=records)
        )
        keep(done)
    return done


class _Labelled:
    """Puts the row's name before the title of each of its steps."""

    def __init__(self, inner: Progress, label: str) -> None:
        self._inner = inner
        self._label = label

    def step(self, title: str, total: int = 0) -> AbstractContextManager[Callable[[int], None]]:
        """Open a step of the row."""
        return self._inner.step(f"{self._label}: {title}", total)
