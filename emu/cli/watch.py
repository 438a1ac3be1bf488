"""fremap watch and fremap record: look at mounts while they work."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.live import Live

from emu.cli.options import read_place
from emu.cli.record_memory import NO_MOUNT, RecordCommand, record_trace, why_not_runnable
from emu.cli.show import say
from emu.lab.activity import Activity, look
from emu.lab.errors import LabError
from emu.lab.kernel_view import KernelView
from emu.lab.mount_config import config_of_mount
from emu.lab.mount_events import EventCursor, paused_writers
from emu.lab.observe import Observer, Sample, why_gone
from emu.lab.record import record as record_run
from emu.lab.rundir import RunDirectory
from emu.lab.tracefs import KERNEL_TRACE, KernelTrace
from emu.report.live import Gone, MountView, panel, show

_PANEL = "Observation"
_FIRST_LOOK_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("watch", rich_help_panel=_PANEL)(watch)
    app.command(
        "record", cls=RecordCommand, rich_help_panel=_PANEL, context_settings={"ignore_unknown_options": True}
    )(record)


def check_seconds(option: str, seconds: float) -> None:
    """Refuse what typer's bounds let pass: nan and infinity."""
    if not math.isfinite(seconds):
        raise typer.BadParameter(f"{option} {seconds} is no number of seconds")


def watch(
    mountpoints: Annotated[
        list[Path], typer.Argument(metavar="MOUNTPOINT...", help="Mounts of fremap.", parser=read_place)
    ],
    *,
    interval: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="How often to look.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a look, for programs.")] = False,
) -> None:
    """Watch mounts, live: dirty pages and limits, rates, throttled writers, requests with their latencies, disks.

    Beside the mount's own word stands the real kernel's: its statistics of the mount, and the system's dirty memory.
    Opens no file on the mounts but their own statistics, so it does not disturb what it shows. Ctrl-C ends it; a mount
    that goes away is told, and ends it when it was the last.
    """
    check_seconds("--interval", interval)
    found = [Observer(path) for path in mountpoints]
    observers = list({observer.mountpoint: observer for observer in found}.values())
    try:
        _watch(observers, interval, once=once, as_json=as_json)
    except KeyboardInterrupt:
        return


@dataclass(slots=True)
class _Watched:
    """A mount that is watched, and what was seen of it last."""

    observer: Observer
    kernel: KernelView
    cursor: EventCursor
    sample: Sample
    activity: Activity

    @classmethod
    def begin(cls, observer: Observer) -> Self:
        """Look for the first time."""
        place = observer.mountpoint
        return cls(observer, KernelView(observer.device), EventCursor(place), observer.sample(), look(place))

    def again(self) -> MountView:
        """Look again; LabError if the mount is gone."""
        try:
            sample, activity = self.observer.sample(), look(self.observer.mountpoint)
            paused = paused_writers(self.cursor.read())
        except OSError as error:
            raise LabError(f"{self.observer.mountpoint} went away: {why_gone(error)}") from None
        view = MountView(
            self.observer.mountpoint,
            self.observer.store,
            self.observer.disk,
            self.sample,
            sample,
            activity,
            activity.requests_since(self.activity),
            tuple(paused),
            self.kernel.read(),
            self.kernel.unreadable,
        )
        self.sample, self.activity = sample, activity
        return view


class _Watcher:
    """Looks at several mounts again and again; one that goes away is told once, and the others go on."""

    def __init__(self, observers: list[Observer], warn: Callable[[str], None]) -> None:
        self._watched = [_Watched.begin(observer) for observer in observers]
        self._warn = warn
        self._gone: list[Gone] = []

    def look(self) -> list[MountView | Gone]:
        """Return what there is to show; LabError when the last mount is gone."""
        views: list[MountView | Gone] = []
        for one in list(self._watched):
            try:
                views.append(one.again())
            except LabError as error:
                self._watched.remove(one)
                if not self._watched:
                    raise
                self._warn(str(error))
                self._gone.append(Gone(one.observer.mountpoint, str(error).rpartition(": ")[2]))
        return [*views, *self._gone]


def _watch(observers: list[Observer], interval: float, *, once: bool, as_json: bool) -> None:
    console = Console(highlight=False, markup=False)
    live = console.is_terminal and not once and not as_json
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    watcher = _Watcher(observers, (lambda _line: None) if live else lambda line: errors.print(f"fremap: {line}"))
    time.sleep(_FIRST_LOOK_S if once else min(interval, _FIRST_LOOK_S))
    if live:
        _watch_live(watcher, console, interval)
        return
    while True:
        views = watcher.look()
        for view in views:
            if as_json and isinstance(view, MountView):
                typer.echo(json.dumps(view.as_json()))
            elif not as_json:
                console.print(panel(view, console.width))
        if once:
            return
        time.sleep(interval)


def _watch_live(watcher: _Watcher, console: Console, interval: float) -> None:
    """Redraw in the terminal's other screen, which may be resized; what was seen last stays when it is over."""
    last: list[MountView | Gone] = []
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                last = watcher.look()
                live.update(show(last, console), refresh=True)
                time.sleep(interval)
    finally:
        for view in last:
            console.print(panel(view, console.width))


def record(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT", help="A mount of fremap; without: the command's memory.", parser=read_place
        ),
    ] = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="Record as long as this runs.")
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The run directory, else runs/TIME-record; without MOUNTPOINT the trace, else TIME-COMMAND.ftr.",
            parser=read_place,
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="How often to look.")] = 0.1,
    seconds: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="End after this time.")] = None,
    kernel: Annotated[
        bool, typer.Option("--kernel", help="A switch: take this kernel's tracepoints of the mount, too (root).")
    ] = False,
) -> int:
    """Record a mount's samples into a run directory, while a command runs, or until Ctrl-C.

    The exit code is the command's. `fremap report DIR` makes pictures of it, `fremap trace DIR` a trace; with
    `--kernel` the events writeback and fuse of this mount, and of the disk under its store, are in it.

    Without MOUNTPOINT, as in `fremap record -o sort.ftr -- sort FILE`, the command runs under valgrind, and each of
    its accesses to memory is recorded, with its mmap calls: `fremap replay sort.ftr` takes it from there.
    """
    if mountpoint is None:
        raise typer.BadParameter("give a MOUNTPOINT, or -- COMMAND")
    if command and (code := why_not_runnable(command[0])):
        return code
    if mountpoint == NO_MOUNT and command:
        return record_trace(command, out)
    check_seconds("--interval", interval)
    check_seconds("--seconds", seconds or 0.0)
    observer = Observer(mountpoint)
    config = {**config_of_mount(observer), "interval_s": interval, "record": list(command or ())}
    run = RunDirectory("record", out, config, seed=config["mount"].get("seed", 0))
    devices = [device for device in (observer.device, observer.disk_device) if device]
    code = record_run(
        observer,
        run,
        interval_s=interval,
        duration_s=seconds,
        command=command or (),
        kernel=KernelTrace(run.path / KERNEL_TRACE, devices) if kernel else None,
        warn=lambda line: say(f"fremap: {line}"),
    )
    told = run.manifest
    line = f"{told['samples']} samples in {run.path}; the sampler took {told['sampler_cpu_share']:.2%} of a core"
    if "kernel_events" in told:
        lost = f", {told['kernel_events_lost']:,} lost" if told["kernel_events_lost"] else ""
        line += f"; {told['kernel_events']:,} kernel events{lost}, {told['kernel_cpu_share']:.2%}"
    say(line, dim=True)
    return code
