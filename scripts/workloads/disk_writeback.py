"""The same writer under several dirty limits on ext4, xfs and btrfs: fremap's writeback beside the real kernel's."""

import tempfile
from dataclasses import asdict
from pathlib import Path

from emu.lab.disk_writeback import Cell, Measured, run_cell
from emu.lab.errors import LabError
from emu.lab.lab import Lab
from emu.lab.loopdisk import FILESYSTEMS, why_no_loop_disk
from emu.report.disk_page import write_disk_page
from emu.units import MIB, parse_size


def _limits(text: str) -> list[int]:
    try:
        limits = [parse_size(word) for word in text.split(",")]
    except ValueError as error:
        raise LabError(f"--limits {text}: {error}") from error
    if min(limits) < MIB:
        raise LabError(f"--limits {text}: a limit below 1M lets nothing be written")
    return limits


def disk_writeback(
    lab: Lab,
    *,
    filesystems: str = ",".join(FILESYSTEMS),
    limits: str = "8M,32M",
    megabytes: int = 256,
    log_every_ms: float = 20,
) -> dict[str, object]:
    """Write a large file and, beside it, sync a small log, on disks of their own; watch what is dirty meanwhile.

    Each disk is a loop device with a fresh filesystem, in --on or the usual place for temporary files; this needs
    root. On each, for each limit: once through a mount of fremap with that dirty limit, whose store lies on the disk,
    and once straight on the disk, where the real kernel is held to the same limit for that filesystem alone. A disk
    that cannot be made here is left out, and the reason told.

    The run directory gets a page with pictures, and a directory of samples for each cell that `fremap report` reads.
    """
    if megabytes < 1 or log_every_ms <= 0:
        raise LabError("there must be at least one megabyte, and a time between two syncs of the log")
    names = filesystems.split(",")
    missing = {name: reason for name in names if (reason := why_no_loop_disk(name)) is not None}
    if len(missing) == len(names):
        raise LabError("; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    cells = [
        Cell(name, via, limit, megabytes * MIB, log_every_ms)
        for name in names
        if name not in missing
        for limit in _limits(limits)
        for via in ("fremap", "kernel")
    ]
    found: list[Measured] = []
    # Not in the laboratory's own mount: a disk on a disk that fremap serves would be measured twice.
    place = lab.directory if lab.ground.kind == "given" else None
    with (
        lab.progress.step("writing to disks", len(cells)) as advance,
        tempfile.TemporaryDirectory(prefix="fremap-disks-") as scratch,
    ):
        records = lab.records or Path(scratch)
        for cell in cells:
            found.append(run_cell(cell, records / cell.name, place))
            advance(1)
        write_disk_page(found, records)
    return {"rows": [asdict(one.row) for one in found], "left out": missing}
