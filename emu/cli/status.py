"""fremap status: which mounts there are, and what is dirty in them. A mount point is never cut."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from emu.cli.options import read_place
from emu.units import format_size
from fsbackend import mount as mounts
from fsbackend import state

_KIB = 1024
_AMOUNTS = {
    "dirty": "BdiReclaimable",
    "writeback": "BdiWriteback",
    "limit": "BdiDirtyThresh",
    "bandwidth": "BdiWriteBandwidth",
}


def status(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(metavar="[MOUNTPOINT]", help="One mount; without it all.", parser=read_place),
    ] = None,
    *,
    pauses: Annotated[
        bool, typer.Option("--pauses", help="Show how long throttled writers were made to wait.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, for programs; amounts in bytes.")] = False,
) -> None:
    """Show mounts and what is dirty in them."""
    state.sweep()
    found, detached = mounts.find_mounts(), state.find_detached()
    if mountpoint is not None:
        names = _names_of(mountpoint)
        found = [item for item in found if item.mountpoint in names]
        detached = [item for item in detached if item.mountpoint in names]
        if not found and not detached:
            raise mounts.MountError(f"{mountpoint} is no mount of fremap; `fremap status` lists them")
    told = [_tell(item) for item in found]
    if as_json:
        left = [asdict(item) | {"stale": False, "detached": True} for item in detached]
        typer.echo(json.dumps(told + left, indent=1))
        return
    if not found and not detached:
        typer.echo("nothing is mounted")
    for item in told:
        if pauses and not item["stale"]:
            _show_pauses(item["mountpoint"])
        elif not pauses:
            _show(item)
    for one in detached:
        typer.echo(f"{one.mountpoint}\n  detached, files are open in it; store {one.store or 'ram'}, pid {one.pid}")
        typer.echo(f"  it ends when the last file is closed; now, after writing back: kill {one.pid}")


def _names_of(mountpoint: Path) -> set[str]:
    """Return the paths that it may be listed by. Not resolve(): that would ask a daemon that may be gone."""
    names: set[str] = set()
    while str(mountpoint) not in names:
        whole = mountpoint.parent.resolve() / mountpoint.name
        names |= {str(mountpoint), str(mountpoint.absolute()), str(whole)}
        with contextlib.suppress(OSError):
            mountpoint = whole.parent / whole.readlink()
    return names


def _tell(item: mounts.FoundMount) -> dict[str, Any]:
    """Return what is known of a mount; amounts in bytes, bandwidth in bytes a second."""
    told: dict[str, Any] = {
        "mountpoint": item.mountpoint,
        "store": item.store,
        "pid": item.pid,
        "log": item.log,
        "stale": item.stale,
        "detached": False,
    }
    if item.stale:
        return told
    try:
        stats = mounts.read_stats(item.mountpoint)
        told["caps"] = mounts.control_path(item.mountpoint, "caps").read_text().strip()
    except OSError as error:
        return told | {"unreadable": error.strerror or str(error)}
    return told | {name: stats[key] * _KIB for name, key in _AMOUNTS.items()}


def _show(item: dict[str, Any]) -> None:
    typer.echo(item["mountpoint"])
    if item["stale"]:
        typer.echo(f"  stale, its daemon is gone; clean it up: fremap umount {item['mountpoint']}")
    elif "unreadable" in item:
        typer.echo(f"  cannot be looked at: {item['unreadable']}")
    else:
        sizes = {name: format_size(item[name]) for name in _AMOUNTS}
        typer.echo(f"  store {item['store']}, {item['caps']}, pid {item['pid'] or '?'}")
        typer.echo(
            f"  dirty {sizes['dirty']}, being written {sizes['writeback']}, limit {sizes['limit']}, "
            f"disk {sizes['bandwidth']}/s"
        )


def _show_pauses(mountpoint: str) -> None:
    """Print the histogram of throttle pauses, as long as they really were."""
    stats = mounts.read_stats(mountpoint)
    rows = {name.removeprefix("pauses_"): count for name, count in stats.items() if name.startswith("pauses_")}
    total = max(stats["nr_pauses"], 1)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("up to", "pauses", "share", ""):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name, count in rows.items():
        table.add_row(
            name.replace("over_", "over "), str(count), f"{count / total:.0%}", "#" * round(count / total * 40)
        )
    typer.echo(f"{mountpoint}: throttle pauses")
    Console(soft_wrap=True).print(table)
    seconds = stats["paused_ms"] / 1000
    longest_ms = stats.get("longest_pause_us", stats["longest_pause"] * 1000) / 1000
    typer.echo(f"{stats['nr_pauses']} pauses, {seconds:.2f} s in all, the longest {longest_ms:g} ms")
