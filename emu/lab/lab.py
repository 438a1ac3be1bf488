"""Lab: what a workload is given. A place for files, a machine to boot, a seed, and somebody to tell."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from emu.errors import KernelBug
from emu.hw.pte import get_format
from emu.lab import procfs
from emu.lab.errors import LabError, WrongOption
from emu.lab.ground import Ground
from emu.lab.progress import NoProgress, Progress
from emu.lab.stamps import page_words
from emu.lab.steps import RecordedSteps
from emu.lab.vmstat_series import VmstatSeries
from emu.lab.window_map import Look, look_at, save_looks
from emu.machine import MIN_FRAMES, Machine
from emu.mapping import Mapping
from emu.mm.rmap import STRATEGIES
from emu.mm_types.events import EventLog
from emu.process import Process
from emu.units import MIB, format_size
from fsbackend.bdi import parse_caps

EVENTS = "events.npy"
_CHUNK_PAGES = 2048


@dataclass(frozen=True, slots=True)
class LabOptions:
    """What ``fremap run`` and ``fremap compare`` let the user choose.

    `ram` is in bytes; None leaves it to the workload. `caps` is for grounds without a mount of their own.
    """

    rmap: str = "dirty_index"
    format: str = "x86_64"
    ram: int | None = None
    caps: str = "disk"
    seed: int = 0
    events: bool = False

    def check(self, *more_rmaps: str) -> None:
        """Look at every choice before anything runs; `more_rmaps` are what a command takes besides strategies.

        Raises
        ------
        WrongOption
            For an unknown strategy, format or capability; one line that names the known ones.

        """
        if self.rmap not in STRATEGIES:
            known = ", ".join((*STRATEGIES, *more_rmaps))
            raise WrongOption(f"--rmap {self.rmap}: no such strategy; there are {known}")
        for option, value, read in (("format", self.format, get_format), ("caps", self.caps, parse_caps)):
            try:
                read(value)
            except ValueError as error:
                raise WrongOption(f"--{option} {value}: {error}") from error


class Lab:
    """The laboratory of one run.

    Fields: `directory` to make files in, `ground` to find them again, `options`, `seed`, `rng` (numpy's, from
    the seed), `page_size` of the machine's format, `progress` to report long steps to.

    Into `records`, the run's directory, go the counters over time while the machine runs, its steps, and its events.
    `looking_s` is how long the workload was stopped for looks at its mappings: no time of the experiment's.
    """

    def __init__(
        self, ground: Ground, options: LabOptions, progress: Progress | None = None, records: Path | None = None
    ) -> None:
        self.ground = ground
        self.options = options
        self.progress: Progress = progress or NoProgress()
        if records is not None:
            self.progress = RecordedSteps(self.progress, records, self._at_step)
        self.seed = options.seed
        self.rng = np.random.default_rng(options.seed)
        self.page_size = 1 << get_format(options.format).page_shift
        self._machine: Machine | None = None
        self._records = records
        self._recording = ExitStack()
        self._series: VmstatSeries | None = None
        self._looks: list[Look] = []
        self.looking_s = 0.0
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        self.stop_recording()
        # Ctrl-C and signals come in the middle of anything: such a kernel cannot write back any more, and its
        # complaint must not take the place of the interruption.
        interrupted = kind is not None and not issubclass(kind, Exception)
        if interrupted and self._machine is not None:
            with suppress(KernelBug):
                self._machine.power_off()
        try:
            self._cleanup.close()
        except KernelBug:
            if not interrupted:
                raise

    @property
    def directory(self) -> Path:
        """Where the workload's files lie."""
        return self.ground.directory

    @property
    def records(self) -> Path | None:
        """The run's directory, if it keeps one."""
        return self._records

    @property
    def has_booted(self) -> bool:
        """Whether the machine was booted: before that nothing can have happened that is worth a record."""
        return self._machine is not None

    @property
    def machine(self) -> Machine:
        """The machine, once it was booted."""
        if self._machine is None:
            raise LabError("the workload must boot its machine first: lab.boot(ram=...)")
        return self._machine

    def boot(self, ram: int = 64 * MIB, *, at_least: int = 0, **more: Any) -> Machine:
        """Boot the machine with `ram` bytes (the user's --ram wins) and the options of this run.

        Raises
        ------
        LabError
            If the user gave less than `at_least` bytes, or a machine runs already.

        """
        if self._machine is not None:
            raise LabError("one run, one machine: it is booted already")
        chosen = self.options.ram if self.options.ram is not None else max(ram, at_least)
        if chosen < at_least:
            raise WrongOption(f"--ram {format_size(chosen)} is too little here: give {format_size(at_least)}")
        events: bool | EventLog = self.options.events
        if self.options.events and self._records is not None:
            events = EventLog(self._records / EVENTS)
            self._recording.callback(events.close)
        least = MIN_FRAMES << get_format(self.options.format).page_shift
        if chosen < least:
            raise WrongOption(f"--ram {format_size(chosen)} is too little for any machine: give {format_size(least)}")
        self._machine = self._cleanup.enter_context(
            Machine(
                format=self.options.format,
                ram=chosen,
                rmap=self.options.rmap,
                seed=self.options.seed,
                plain_caps=self.options.caps,
                events=events,
                **more,
            )
        )
        if self._records is not None:
            self._series = self._recording.enter_context(VmstatSeries(self._machine.kernel, self._records))
        return self._machine

    def counters(self) -> dict[str, Any]:
        """Return what counters.json holds: the machine's counters, locks and the strategy's cost."""
        if self._machine is None:
            return {}
        kernel = self._machine.kernel
        return {
            "vmstat": procfs.vmstat(kernel),
            "meminfo": procfs.meminfo(kernel),
            "locks": kernel.locks.snapshot(),
            "rmap": asdict(kernel.rmap.cost),
        }

    def look(self, process: Process, mapping: Mapping, label: str) -> None:
        """Keep, in the records of the run, what each page of a mapping shows now; nothing where there are none."""
        if self._records is not None:
            began_s = time.perf_counter()
            self._looks.append(look_at(self.machine, process, mapping, label))
            save_looks(self._looks, self._records)
            self.looking_s += time.perf_counter() - began_s

    def _at_step(self) -> None:
        if self._series is not None:
            self._series.sample()

    def stop_recording(self) -> None:
        """End the records of a run: the last line of the counters, the events up to now."""
        self._recording.close()

    def sampler(self) -> dict[str, float]:
        """Return how many lines the counters over time have, and what CPU seconds they took."""
        series = self._series
        return {} if series is None else {"samples": series.nr_samples, "sampler_cpu_s": round(series.cpu_s, 5)}

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Name a file of this run; it is removed when the run ends."""
        path = self.directory / name
        if path.exists():
            raise LabError(f"{path} exists: the workload would overwrite it")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def stamped_file(self, name: str, nr_pages: int, generation: int = 0) -> Path:
        """Make a file of `nr_pages` pages that carry their stamps; it is removed when the run ends."""
        if nr_pages < 1:
            raise LabError(f"{name} needs at least one page, not {nr_pages}")
        nbytes, free_nbytes = nr_pages * self.page_size, shutil.disk_usage(self.directory).free
        if nbytes > free_nbytes:
            raise LabError(f"{name} takes {format_size(nbytes)}, and {format_size(free_nbytes)} are free there")
        path = self._cleanup.enter_context(self.new_file(name))
        with self.progress.step(f"writing {name}", nr_pages) as advance, path.open("wb") as file:
            for first in range(0, nr_pages, _CHUNK_PAGES):
                pgoffs = np.arange(first, min(first + _CHUNK_PAGES, nr_pages))
                file.write(page_words(self.seed, pgoffs, generation, self.page_size).data)
                advance(len(pgoffs))
        return path
