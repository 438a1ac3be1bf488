"""What fremap replay does: open the trace, look through it, replay it, price the reverse maps, keep and show it all."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from emu.cli.progress import RichProgress
from emu.cli.show import say
from emu.errors import KernelBug, Signal
from emu.hw.pte import get_format
from emu.lab.errors import LabError, Terminated, WrongOption
from emu.lab.ground import Ground, fuse_ground, given_ground, plain_ground, why_no_fuse
from emu.lab.lab import Lab, LabOptions
from emu.lab.memtrace.container import Trace
from emu.lab.memtrace.opening import bundled_traces, convert, find_trace, open_trace
from emu.lab.replay.faithful import replay
from emu.lab.replay.result import Replay, StrategyRow
from emu.lab.replay.rewired import price
from emu.lab.replay.survey import Survey, survey
from emu.lab.rundir import RunDirectory
from emu.machine import MIN_FRAMES
from emu.mm.rmap import STRATEGIES
from emu.report.replay_tables import (
    facts_table,
    faults_table,
    headline,
    plural,
    remarks,
    strategies_table,
    windows_table,
)
from emu.units import format_size


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What the user asked for; `rmaps` empty: the replay alone."""

    trace: str
    format: str
    ram: int | None
    swap: str | None
    anonymous: bool
    on: Path | None
    caps: str
    seed: int
    out: Path | None
    events: bool
    as_json: bool
    rmaps: tuple[str, ...]
    writebacks: int

    def options(self, rmap: str = "dirty_index", *, events: bool = False) -> LabOptions:
        """Return the laboratory's options for one replay."""
        return LabOptions(
            rmap=rmap, format=self.format, ram=self.ram, caps=self.caps, seed=self.seed, events=events
        )

    @property
    def strategies(self) -> list[str]:
        """The reverse maps to price, each once."""
        wanted = STRATEGIES if "all" in self.rmaps else self.rmaps
        return list(dict.fromkeys(wanted))


def list_traces() -> int:
    """Name the traces that come with fremap."""
    for name, path in bundled_traces().items():
        typer.echo(f"{name:<10} {format_size(path.stat().st_size)}")
    typer.echo("Replay one: fremap replay NAME. Make your own: fremap record -o FILE -- COMMAND")
    return 0


def convert_trace(name: str, target: Path) -> int:
    """Write a trace in another form."""
    progress = RichProgress()
    with open_trace(find_trace(name), progress) as trace:
        form = convert(trace, target, progress)
        cut = "" if trace.complete else "; the trace is cut short, this is what it has"
        say(f"{target}: {plural(trace.nr_accesses, 'access')}, {plural(trace.nr_calls, 'call')}, {form}{cut}", dim=True)
    return 0


class _Grounds:
    """Opens a place for files, a new one for each replay; looks only once whether anything can be mounted."""

    def __init__(self, on: Path | None, caps: str) -> None:
        self._on = on
        self._caps = caps
        self._reason = why_no_fuse() if on is None else None
        if self._reason is not None:
            say(f"fremap: nothing can be mounted here ({self._reason}); going on with plain files")

    def open(self) -> AbstractContextManager[Ground]:
        if self._on is not None:
            return given_ground(self._on)
        return fuse_ground(self._caps) if self._reason is None else plain_ground()


def _check(request: ReplayRequest, trace: Trace) -> None:
    """Refuse what cannot run before anything does."""
    for rmap in request.strategies or ["dirty_index"]:
        request.options(rmap).check("all")
    page_size = 1 << get_format(request.format).page_shift
    if request.ram is not None and request.ram < MIN_FRAMES * page_size:
        least = format_size(MIN_FRAMES * page_size)
        raise WrongOption(f"--ram {format_size(request.ram)} is too little for {request.format}: give at least {least}")
    recorded = int(trace.info.get("page_size", 4096))
    if page_size > recorded and trace.nr_calls and not request.anonymous:
        raise LabError(
            f"the trace maps pages of {format_size(recorded)}, {request.format} has pages of {format_size(page_size)}: "
            "choose another --format, or --anonymous"
        )


def replay_trace(request: ReplayRequest) -> int:
    """Replay a trace; return the exit code: 1 if a file does not hold what was stored and must."""
    progress = RichProgress()
    path = find_trace(request.trace)
    request.options().check()
    with open_trace(path, progress) as trace:
        _check(request, trace)
        if not trace.nr_accesses:
            raise LabError(f"{path} holds no accesses")
        with progress.step("looking through the trace", trace.nr_accesses) as advance:
            seen = survey(trace, get_format(request.format).page_shift, advance)
        config = {name: value for name, value in asdict(request).items() if name not in {"out", "as_json"}}
        run = RunDirectory("replay", request.out, config | {"trace": str(path)}, request.seed)
        status = "failed"
        try:
            outcome = _replay(request, trace, seen, run, progress)
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Terminated:
            status = "terminated"
            raise
        except (LabError, KernelBug, OSError, Signal) as error:
            status = str(error)
            raise
        finally:
            run.finish(status)
    _show(outcome, as_json=request.as_json)
    say(f"records: {run.path}", dim=True)
    return 1 if outcome.broken else 0


def _replay(
    request: ReplayRequest, trace: Trace, seen: Survey, run: RunDirectory, progress: RichProgress
) -> Replay:
    grounds = _Grounds(request.on, request.caps)
    records = run.path if request.events else None
    with grounds.open() as ground, Lab(ground, request.options(events=True), progress, records) as lab:
        with progress.step("replaying", trace.nr_accesses) as advance:
            outcome = replay(lab, trace, seen, anonymous=request.anonymous, swap=request.swap, advance=advance)
        counters = lab.counters()
    counters["replay"] = asdict(outcome)
    # What follows may take long or be interrupted; this much is there then.
    run.save_counters(counters)
    for row in _priced(request, trace, seen, grounds, progress):
        outcome.strategies.append(row)
        run.save_counters(counters | {"replay": asdict(outcome)})
    return outcome


def _priced(
    request: ReplayRequest, trace: Trace, seen: Survey, grounds: _Grounds, progress: RichProgress
) -> Iterator[StrategyRow]:
    """Yield a row for each reverse map; what goes wrong with one becomes its row's error."""
    for rmap in request.strategies:
        try:
            with (
                grounds.open() as ground,
                Lab(ground, request.options(rmap), progress) as lab,
                progress.step(f"as a guest, {rmap}", trace.nr_accesses) as advance,
            ):
                yield price(
                    lab, trace, seen, anonymous=request.anonymous, writebacks=request.writebacks, advance=advance
                )
        except (LabError, OSError, Signal, KernelBug, MemoryError) as error:
            yield StrategyRow(rmap, error=str(error) or type(error).__name__)


def _show(outcome: Replay, *, as_json: bool) -> None:
    if as_json:
        content: dict[str, Any] = asdict(outcome)
        typer.echo(json.dumps(content, indent=1))
        return
    console = Console(highlight=False)
    console.print(headline(outcome), soft_wrap=True, markup=False)
    console.print()
    console.print(facts_table(outcome))
    for table in (faults_table(outcome.fault_rows), windows_table(outcome)):
        console.print()
        console.print(table)
    if outcome.strategies:
        console.print()
        console.print(strategies_table(outcome.strategies))
    for good, sentence in remarks(outcome):
        mark = "[green]ok[/]" if good else "[bold red]!![/]"
        console.print(mark, end=" ")
        console.print(sentence, soft_wrap=True, markup=False)
