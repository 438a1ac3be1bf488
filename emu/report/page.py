"""The comparison as one HTML file that needs no other: pictures inside, no script, no network."""

import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from emu.lab.rows import Row
from emu.report.run_facts import picture_of, unfinished
from emu.report.table import (
    ABSENT,
    format_number,
    format_share,
    share_of_ptes,
    summary_title,
    verdicts,
    visits_per_call,
)
from emu.units import format_size

_HEADINGS = (
    "pages lost",
    "of dirty",
    "most unaccounted",
    "mkclean calls",
    "visits a call",
    "own memory",
    "of PTE memory",
    "PTEs",
    "upper tables",
    "remap us/page",
    "fault us",
    "VMAs",
    "run s",
)


def _size(nbytes: int | None) -> str:
    return ABSENT if nbytes is None else format_size(nbytes)


def _line(row: Row) -> dict[str, Any]:
    state = "bad" if row.broken else "lost" if row.lost_pages else ""
    cells = (
        "failed" if row.lost_pages is None else format_number(row.lost_pages),
        format_number(row.dirty_pages),
        format_number(row.unaccounted_dirty_max),
        format_number(row.mkclean_calls),
        format_number(visits_per_call(row)),
        _size(row.rmap_bytes),
        format_share(share_of_ptes(row)),
        _size(row.pte_bytes),
        _size(row.pte_upper_bytes),
        format_number(row.remap_us_per_page),
        format_number(row.fault_us),
        format_number(row.nr_vmas),
        format_number(row.seconds),
    )
    return {"name": row.rmap, "cells": cells, "state": state}


def planned_rows(manifest: dict[str, Any], rows: Sequence[Row]) -> int:
    """Return how many rows a comparison was to have."""
    return int(manifest["config"].get("nr_rows") or len(rows))


def all_verdicts(rows: Sequence[Row], manifest: dict[str, Any]) -> list[tuple[bool, str]]:
    """Return what is to be said of a comparison; first what kept it from its end, if anything did."""
    return unfinished(manifest, f"{len(rows)} of {planned_rows(manifest, rows)} rows are here") + verdicts(rows)


def render_page(
    rows: Sequence[Row],
    pictures: Sequence[Path],
    manifest: dict[str, Any],
    courses: Sequence[Path] = (),
) -> str:
    """Return the HTML of a comparison; `manifest` is that of its run directory, `courses` are its courses of time."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emu.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )
    sections = [
        (f"{caps}, {fmt}", [_line(row) for row in group])
        for (caps, fmt), group in groupby(rows, key=lambda row: (row.caps, row.format))
    ]
    machine, installed = manifest["machine"], manifest["versions"]
    facts = {
        "when": manifest["started"],
        "computer": f"{machine['cpu']}, {machine['cores']} cores, {format_size(machine['ram_bytes'])}",
        "system": machine["system"],
        "versions": ", ".join(f"{name} {version}" for name, version in installed.items()),
    }
    return environment.get_template("compare.html.j2").render(
        title=summary_title(rows, manifest["config"].get("nr_pages")),
        ground=manifest["config"]["ground"],
        seed=manifest["seed"],
        verdicts=all_verdicts(rows, manifest),
        headings=_HEADINGS,
        sections=sections,
        pictures=[picture_of(path) for path in pictures],
        courses=[picture_of(path) for path in courses],
        command=shlex.join(["fremap", *manifest["command"][1:]]),
        facts=facts,
    )
