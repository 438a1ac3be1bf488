"""fremap watch and fremap record: look at mounts while they work."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live

from emu.cli.record_memory import NO_MOUNT, RecordCommand, record_trace
from emu.lab.observe import Observer, Rates, Sample, as_record
from emu.lab.record import record as record_run
from emu.lab.rundir import RunDirectory
from emu.lab.tracefs import KERNEL_TRACE, KernelTrace
from emu.report.live import mount_panel

_PANEL = "Observation"
_FIRST_LOOK_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("watch", rich_help_panel=_PANEL)(watch)
    app.command(
        "record", cls=RecordCommand, rich_help_panel=_PANEL, context_settings={"ignore_unknown_options": True}
    )(record)


def check_interval(seconds: float) -> None:
    """Refuse what typer's bounds let pass: nan and infinity."""
    if not math.isfinite(seconds):
        raise typer.BadParameter(f"--interval {seconds} is no number of seconds")


def watch(
    mountpoints: Annotated[list[Path], typer.Argument(metavar="MOUNTPOINT...", help="Mounts of fremap.")],
    *,
    interval: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="How often to look.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a look, for programs.")] = False,
) -> None:
    """Watch dirty pages, limits, rates, pauses and the disk of mounts, live.

    Opens no file on the mounts but their own statistics, so it does not disturb what it shows. Ctrl-C ends it.
    """
    check_interval(interval)
    found = [Observer(path) for path in mountpoints]
    observers = list({observer.mountpoint: observer for observer in found}.values())
    try:
        _watch(observers, interval, once=once, as_json=as_json)
    except KeyboardInterrupt:
        return


def _watch(observers: list[Observer], interval: float, *, once: bool, as_json: bool) -> None:
    before = [observer.sample() for observer in observers]
    time.sleep(_FIRST_LOOK_S if once else min(interval, _FIRST_LOOK_S))
    console = Console(highlight=False)
    if once or as_json or not console.is_terminal:
        while True:
            before = _say(observers, before, console, as_json=as_json)
            if once:
                return
            time.sleep(interval)
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            after = [observer.sample() for observer in observers]
            live.update(_panels(observers, before, after), refresh=True)
            before = after
            time.sleep(interval)


def _say(observers: list[Observer], before: list[Sample], console: Console, *, as_json: bool) -> list[Sample]:
    after = [observer.sample() for observer in observers]
    if as_json:
        for observer, old, new in zip(observers, before, after, strict=True):
            rates = Rates.between(old, new)
            told = {
                "mountpoint": observer.mountpoint,
                "store": observer.store,
                "disk": observer.disk,
                **as_record(new),
                "setpoint": new.setpoint,
                "rates": {name: round(value, 3) for name, value in asdict(rates).items()},
            }
            typer.echo(json.dumps(told))
    else:
        console.print(_panels(observers, before, after))
    return after


def _panels(observers: list[Observer], before: list[Sample], after: list[Sample]) -> Group:
    shown = zip(observers, before, after, strict=True)
    return Group(*(mount_panel(o.mountpoint, o.store, o.disk, old, new) for o, old, new in shown))


def record(
    mountpoint: Annotated[
        Path, typer.Argument(metavar="[MOUNTPOINT]", help="A mount of fremap; without: the command's memory.")
    ],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="Record as long as this runs.")
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="The run directory, else runs/TIME-record; or the trace."),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="How often to look.")] = 0.1,
    seconds: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="End after this time.")] = None,
    kernel: Annotated[
        bool, typer.Option("--kernel", help="Take the real kernel's tracepoints of the mount, too (root).")
    ] = False,
) -> int:
    """Record a mount's samples into a run directory, while a command runs, or until Ctrl-C.

    The exit code is the command's. `fremap report DIR` makes pictures of it, `fremap trace DIR` a trace; with
    `--kernel` the events writeback and fuse of this mount, and of the disk under its store, are in it.

    Without MOUNTPOINT, as in `fremap record -o sort.ftr -- sort FILE`, the command runs under valgrind, and each of
    its accesses to memory is recorded, with its mmap calls: `fremap replay sort.ftr` takes it from there.
    """
    if mountpoint == NO_MOUNT and command:
        return record_trace(command, out)
    check_interval(interval)
    observer = Observer(mountpoint)
    config = {
        "mountpoint": observer.mountpoint,
        "store": observer.store,
        "disk": observer.disk,
        "interval_s": interval,
        "record": list(command or ()),
        "mount": (Path(observer.mountpoint) / ".bdi" / "options").read_text(encoding="utf-8").strip(),
    }
    run = RunDirectory("record", out, config, seed=0)
    devices = [device for device in (observer.device, observer.disk_device) if device]
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    code = record_run(
        observer,
        run,
        interval_s=interval,
        duration_s=seconds,
        command=command or (),
        kernel=KernelTrace(run.path / KERNEL_TRACE, devices) if kernel else None,
        warn=lambda line: console.print(f"fremap: {line}"),
    )
    told = run.manifest
    line = f"{told['samples']} samples in {run.path}; the sampler took {told['sampler_cpu_share']:.2%} of a core"
    if "kernel_events" in told:
        lost = f", {told['kernel_events_lost']:,} lost" if told["kernel_events_lost"] else ""
        line += f"; {told['kernel_events']:,} kernel events{lost}, {told['kernel_cpu_share']:.2%}"
    console.print(line, style="dim")
    return code
