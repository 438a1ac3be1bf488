"""The filesystem's subcommands: mount, umount, status, sync, inject, power-cut."""

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from emu.units import format_size, parse_size
from fsbackend import mount as mounts
from fsbackend.throttle import DirtyParams

Mountpoint = Annotated[Path, typer.Argument(help="Where it is mounted.")]


def _params(preset: str, **knobs: float | str | None) -> DirtyParams:
    given: dict[str, float] = {
        name: parse_size(value) if isinstance(value, str) else value
        for name, value in knobs.items()
        if value is not None
    }
    try:
        return DirtyParams.preset(preset).with_(**given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def mount(
    store: Annotated[str, typer.Argument(help="Directory whose files are served (of no use with ramfs).")],
    mountpoint: Mountpoint,
    caps: Annotated[
        str, typer.Option(help="ramfs, disk or strict, then flags: disk,stable_writes or strict,max_ratio=5.")
    ] = "disk",
    override: Annotated[
        list[str] | None, typer.Option(help="GLOB=CAPS for files of their own, such as 'wal-*=ramfs'.")
    ] = None,
    foreground: Annotated[bool, typer.Option(help="Stay until it is unmounted.")] = False,
    max_ratio: Annotated[int | None, typer.Option(help="Most of the dirty limit it may use, percent.")] = None,
    min_ratio: Annotated[int, typer.Option(help="Part of the dirty limit kept for it, percent.")] = 0,
    kernel: Annotated[
        str, typer.Option(help="Whose dirty limits: 2.6.20 (10/40), 2.6.22 (5/10) or 3.6 (10/20).")
    ] = "3.6",
    background_ratio: Annotated[int | None, typer.Option(help="Writeback starts here, percent.")] = None,
    dirty_ratio: Annotated[int | None, typer.Option(help="Nobody dirties above this, percent.")] = None,
    background_bytes: Annotated[str | None, typer.Option(help="The same as a size, such as 16M.")] = None,
    dirty_bytes: Annotated[str | None, typer.Option(help="The same as a size, such as 32M.")] = None,
    expire: Annotated[float | None, typer.Option(help="Write back what is dirty so long, seconds.")] = None,
    interval: Annotated[float | None, typer.Option(help="The flusher looks so often, seconds.")] = None,
    allow_other: Annotated[bool, typer.Option(help="Let other users in.")] = False,
    kernel_max_ratio: Annotated[
        int | None, typer.Option(help="The real kernel's max_ratio for this mount (root); it is 1.")
    ] = None,
    kernel_strict_limit: Annotated[
        bool | None, typer.Option(help="The real kernel's strict_limit for this mount (root); it is on.")
    ] = None,
    power_cut: Annotated[
        bool, typer.Option(help="Keep pre-images of what is not durable, so that the power can be cut.")
    ] = False,
    direct: Annotated[bool, typer.Option(help="Write the store with O_DIRECT, past its page cache.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the injected faults.")] = 0,
    log: Annotated[Path | None, typer.Option(help="The daemon's log.")] = None,
) -> None:
    """Mount STORE at MOUNTPOINT; return when it serves.

    sync(2) and syncfs(2) never reach a FUSE filesystem: use `fremap sync`, or fsync of a file. Control files
    are in MOUNTPOINT/.bdi, which is not listed.
    """
    info = mounts.mount(
        store,
        mountpoint,
        caps,
        override or (),
        _params(
            kernel,
            background_ratio=background_ratio,
            dirty_ratio=dirty_ratio,
            background_bytes=background_bytes,
            dirty_bytes=dirty_bytes,
            expire_s=expire,
            periodic_s=interval,
        ),
        foreground=foreground,
        max_ratio=max_ratio,
        min_ratio=min_ratio,
        allow_other=allow_other,
        kernel_max_ratio=kernel_max_ratio,
        kernel_strict_limit=kernel_strict_limit,
        power_cut=power_cut,
        direct=direct,
        seed=seed,
        log_path="" if log is None else str(log.absolute()),
    )
    typer.echo(f"{info.store or 'RAM'} is mounted at {info.mountpoint} as {info.caps} (pid {info.pid})")
    if info.note:
        typer.echo(info.note, err=True)


def umount(
    mountpoint: Mountpoint,
    force: Annotated[bool, typer.Option(help="Unmount even if bytes cannot be written back.")] = False,
) -> None:
    """Write everything back and unmount."""
    mounts.umount(mountpoint, force=force)


def status(
    mountpoint: Annotated[Path | None, typer.Argument(help="One mount; without it all.")] = None,
    pauses: Annotated[bool, typer.Option(help="Show how long throttled writers were made to wait.")] = False,
) -> None:
    """Show mounts and what is dirty in them."""
    found = mounts.find_mounts()
    if mountpoint is not None:
        found = [item for item in found if item.mountpoint == str(mountpoint.resolve())]
        if not found:
            raise mounts.MountError(f"{mountpoint} is no mount of fremap; `fremap status` lists them")
    if not found:
        typer.echo("nothing is mounted")
        return
    if pauses:
        for item in found:
            if not item.stale:
                _show_pauses(item.mountpoint)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("mount point", "store", "caps", "pid", "dirty", "written now", "limit", "disk"):
        table.add_column(name, overflow="fold")
    for item in found:
        if item.stale:
            table.add_row(item.mountpoint, item.store, f"stale: fremap umount {item.mountpoint}")
            continue
        stats = mounts.read_stats(item.mountpoint)
        caps = mounts.control_path(item.mountpoint, "caps").read_text().strip()
        sizes = [
            format_size(stats[name] * 1024)
            for name in ("BdiReclaimable", "BdiWriteback", "BdiDirtyThresh", "BdiWriteBandwidth")
        ]
        table.add_row(item.mountpoint, item.store, caps, str(item.pid or "?"), *sizes[:3], f"{sizes[3]}/s")
    Console(soft_wrap=True).print(table)


def _show_pauses(mountpoint: str) -> None:
    """Print the histogram of throttle pauses, as long as they really were."""
    stats = mounts.read_stats(mountpoint)
    rows = {name.removeprefix("pauses_"): count for name, count in stats.items() if name.startswith("pauses_")}
    total = max(stats["nr_pauses"], 1)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{mountpoint}: throttle pauses", title_justify="left")
    for heading in ("up to", "pauses", "share", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, count in rows.items():
        table.add_row(
            name.replace("over_", "over "), str(count), f"{count / total:.0%}", "#" * round(count / total * 40)
        )
    Console(soft_wrap=True).print(table)
    seconds, longest_ms = stats["paused_ms"] / 1000, stats["longest_pause"]
    typer.echo(f"{stats['nr_pauses']} pauses, {seconds:.2f} s in all, the longest {longest_ms} ms")


def sync(mountpoint: Mountpoint) -> None:
    """Write back all of a mount and make it durable, which sync(2) cannot do for FUSE."""
    remains = mounts.sync(mountpoint)
    if remains:
        raise mounts.MountError(f"not everything could be written back: {remains}")


def inject(
    mountpoint: Mountpoint,
    rules: Annotated[
        list[str] | None,
        typer.Argument(help="Rules, one word each in quotes, or 'clear'. Without any: show those in force."),
    ] = None,
) -> None:
    """Make operations of a mount fail, wait, crawl, tear or lie.

    A rule: `OP[,OP] [path=GLOB] [nth=N|every=N|p=P] [times=K] ACTION`, such as
    `'store.write path=*.db nth=3 error=EIO'`, `'fsync p=0.1 delay=0.5'`, `'store.fsync lie'`,
    `'store.write bandwidth=10M'`, `'store.write nth=5 torn'`, `'store.fsync nth=2 cut=none'`. Operations of
    programs have plain names (create, write, fsync, rename ...), those on the store begin with `store.`
    """
    if rules:
        try:
            mounts.inject(mountpoint, rules)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    else:
        typer.echo(mounts.control_path(mountpoint, "inject").read_text(), nl=False)


def power_cut(
    mountpoint: Mountpoint,
    survive: Annotated[
        str, typer.Option(help="Which unsynced writes survive: none, all, or a seed that chooses.")
    ] = "none",
    at: Annotated[str, typer.Option(help="Not now but when this happens, such as 'store.fsync path=*.db nth=2'.")] = "",
    report: Annotated[bool, typer.Option(help="Do not cut; show what a cut would lose now.")] = False,
) -> None:
    """Cut the power of a mount made with --power-cut: only what was durable is left, and it serves on."""
    if report:
        for row in mounts.unsynced(mountpoint):
            typer.echo(
                f"{row['path']}: {row['dirty_pages']} pages in RAM, {row['unconfirmed_pages']} written and not "
                "confirmed"
            )
        return
    try:
        if at:
            mounts.unsynced(mountpoint)
            mounts.inject(mountpoint, [f"{at} cut={survive}"])
        else:
            mounts.power_cut(mountpoint, survive)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    for command in (mount, umount, status, sync, inject, power_cut):
        app.command(rich_help_panel="Filesystem")(command)
