"""The filesystem's subcommands: mount, umount, status, sync, inject, power-cut."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from emu.cli.dirty_options import check_overrides, check_ratios, read_params
from emu.cli.options import read_new_file, read_place
from emu.cli.status import status
from emu.lab.errors import Terminated
from fsbackend import mount as mounts

Mountpoint = Annotated[
    Path, typer.Argument(metavar="MOUNTPOINT", help="Where it is mounted.", parser=read_place)
]


def mount(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="Directory whose files are served.", parser=read_place)
    ],
    mountpoint: Mountpoint,
    caps: Annotated[
        str, typer.Option(help="ramfs, disk or strict, then flags: disk,stable_writes or strict,max_ratio=5.")
    ] = "disk",
    override: Annotated[
        list[str] | None, typer.Option(help="GLOB=CAPS for files of their own, such as 'wal-*=ramfs'.")
    ] = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay until it is unmounted.")] = False,
    max_ratio: Annotated[
        int | None,
        typer.Option(min=0, max=100, metavar="PERCENT", help="Most of the dirty limit it may use; else the caps' own."),
    ] = None,
    min_ratio: Annotated[
        int, typer.Option(min=0, max=100, metavar="PERCENT", help="Part of the dirty limit kept for it.")
    ] = 0,
    kernel: Annotated[
        str, typer.Option(help="The Linux whose dirty limits hold: 2.6.20 (10/40), 2.6.22 (5/10) or 3.6 (10/20).")
    ] = "3.6",
    background_ratio: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="Writeback starts here; else the kernel's.")
    ] = None,
    dirty_ratio: Annotated[
        int | None, typer.Option(metavar="PERCENT", help="Nobody dirties above this; else the kernel's.")
    ] = None,
    background_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The first as a size, such as 16M.")
    ] = None,
    dirty_bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="The second as a size, such as 32M.")] = None,
    expire: Annotated[float | None, typer.Option(metavar="SECONDS", help="Write back what is dirty so long.")] = None,
    interval: Annotated[float | None, typer.Option(metavar="SECONDS", help="The flusher looks so often (5).")] = None,
    allow_other: Annotated[bool, typer.Option("--allow-other", help="Let other users in.")] = False,
    kernel_max_ratio: Annotated[
        int | None,
        typer.Option(min=0, max=100, metavar="PERCENT", help="The real kernel's max_ratio for it (root); it is 1."),
    ] = None,
    kernel_strict_limit: Annotated[
        int | None,
        typer.Option(min=0, max=1, metavar="0|1", help="The real kernel's strict_limit (root); it is 1."),
    ] = None,
    power_cut: Annotated[
        bool, typer.Option("--power-cut", help="Keep pre-images of what is not durable, so that the power can be cut.")
    ] = False,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="As --power-cut, and names not synced are undone.")
    ] = False,
    xattrs: Annotated[
        bool, typer.Option("--xattrs", help="Extended attributes; the kernel then asks before every write.")
    ] = False,
    direct: Annotated[bool, typer.Option("--direct", help="Write the store with O_DIRECT.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the injected faults.")] = 0,
    log: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The daemon's log.", parser=read_new_file)
    ] = None,
) -> None:
    """Mount STORE at MOUNTPOINT; return when it serves.

    --caps disk: written pages are accounted, written back by a flusher, and whoever writes too fast is throttled.
    --caps strict: the same, within a small share of the dirty limit from the start. --caps ramfs: no accounting
    and no writeback; what is written stays in RAM and is gone after umount.

    sync(2) and syncfs(2) never reach a FUSE filesystem: use `fremap sync`, or fsync of a file. Control files
    are in MOUNTPOINT/.bdi, which is not listed.
    """
    check_ratios(caps, max_ratio, min_ratio)
    check_overrides(override or ())
    info = mounts.mount(
        store,
        mountpoint,
        caps,
        override or (),
        read_params(
            kernel,
            background_ratio=background_ratio,
            dirty_ratio=dirty_ratio,
            background_bytes=background_bytes,
            dirty_bytes=dirty_bytes,
            expire_s=expire,
            interval_s=interval,
        ),
        foreground=foreground,
        max_ratio=max_ratio,
        min_ratio=min_ratio,
        allow_other=allow_other,
        kernel_max_ratio=kernel_max_ratio,
        kernel_strict_limit=None if kernel_strict_limit is None else bool(kernel_strict_limit),
        power_cut=power_cut,
        metadata=metadata,
        xattrs=xattrs,
        direct=direct,
        seed=seed,
        log_path="" if log is None else str(log.absolute()),
    )
    typer.echo(f"{info.store or 'RAM'} is mounted at {info.mountpoint} as {info.caps} (pid {info.pid})")
    if info.note:
        typer.echo(info.note, err=True)


def umount(
    mountpoint: Mountpoint,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Unmount even if files are open or cannot be written back; given again, end the daemon, too.",
        ),
    ] = False,
) -> None:
    """Write everything back and unmount."""
    try:
        left = mounts.umount(mountpoint, force=force)
    except Terminated as ended:
        raise Terminated(ended.number, mounts.whereabouts(mountpoint)) from None
    except KeyboardInterrupt:
        raise Terminated(signal.SIGINT, mounts.whereabouts(mountpoint)) from None
    typer.echo(f"{mountpoint} is {left or 'unmounted'}")


def sync(mountpoint: Mountpoint) -> None:
    """Write back all of a mount and make it durable, which sync(2) cannot do for FUSE."""
    remains = mounts.sync(mountpoint)
    if remains:
        raise mounts.MountError(f"not everything could be written back: {remains}")
    typer.echo(f"all of {mountpoint} is written back and durable")


def inject(
    mountpoint: Mountpoint,
    rules: Annotated[
        list[str] | None,
        typer.Argument(help="Rules, each in quotes; 'clear' drops those before it. Without any: show those in force."),
    ] = None,
) -> None:
    """Make operations of a mount fail, wait, crawl, tear, lie or persist in any order.

    A rule: `OP[,OP] [path=GLOB] [nth=N|every=N|p=P] [times=K] ACTION`, such as
    `'store.write path=*.db nth=3 error=EIO'`, `'fsync p=0.1 delay=0.5'`, `'store.fsync lie'`,
    `'store.write bandwidth=10M'`, `'store.write nth=5 torn'`, `'store.write reorder'`,
    `'store.fsync nth=2 cut=none'`. Operations of programs have plain names (create, write, fsync, rename ...), those
    on the store begin with `store.`
    """
    if rules:
        try:
            mounts.inject(mountpoint, rules)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        in_force = len(mounts.control_path(mountpoint, "inject").read_text().splitlines())
        typer.echo(f"{in_force or 'no'} rule{'' if in_force == 1 else 's'} in force on {mountpoint}")
    else:
        mounts.check_mount(mountpoint)
        typer.echo(mounts.control_path(mountpoint, "inject").read_text() or "no rules in force\n", nl=False)


def power_cut(
    mountpoint: Mountpoint,
    survive: Annotated[
        str, typer.Option(help="Which unsynced writes survive: none, all, or a seed that chooses.")
    ] = "none",
    at: Annotated[
        str | None, typer.Option(help="Not now but when this happens, such as 'store.fsync path=*.db nth=2'.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Do not cut; show what a cut would lose now.")] = False,
) -> None:
    """Cut the power of a mount made with --power-cut: only what was durable is left, and it serves on."""
    if report:
        rows = mounts.unsynced(mountpoint)
        if not rows:
            typer.echo("a cut would lose nothing now")
        for row in rows:
            if "name" in row:
                typer.echo(f"{row['path']}: {row['name']}, and not confirmed")
                continue
            typer.echo(
                f"{row['path']}: {row['dirty_pages']} pages in RAM, {row['unconfirmed_pages']} written and not "
                "confirmed"
            )
        return
    # An unset variable must not cut now what was to be cut later, or with nothing surviving.
    for option, given in (("--at", at), ("--survive", survive)):
        if given is not None and not given.strip():
            raise typer.BadParameter(f"{option} is empty: give a value, or leave it out")
    try:
        if at is not None:
            mounts.unsynced(mountpoint)
            mounts.inject(mountpoint, [f"{at} cut={survive}"])
            typer.echo(f"the power of {mountpoint} will be cut at: {at}")
        else:
            mounts.power_cut(mountpoint, survive)
            survivors = {"none": "nothing", "all": "everything"}.get(survive, f"what seed {survive} chose")
            typer.echo(f"the power of {mountpoint} was cut; of what was not synced, {survivors} survived")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    for command in (mount, umount, status, sync, inject, power_cut):
        app.command(rich_help_panel="Filesystem")(command)
