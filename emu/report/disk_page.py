"""The disk experiment as one HTML file that needs no other."""

import base64
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl

from emu.lab.disk_writeback import Measured
from emu.report.disk_pictures import TOLERANCE, disk_pictures
from emu.report.save import save_page
from emu.report.style import STYLE
from emu.report.table import ABSENT

HEADINGS = {
    "disk": "disk",
    "by": "by",
    "limit_mib": "limit, MiB",
    "most_mib": "most dirty, MiB",
    "mib_s": "MiB/s",
    "paused_s": "paused, s",
    "write_ms": "longest write, ms",
    "fsyncs": "fsyncs",
    "p50_ms": "median, ms",
    "p99_ms": "99 % within, ms",
    "disk_per_byte": "disk bytes a byte",
}
"""Columns of the table, by the field of a row."""


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return a row's fields as people read them, in the order of HEADINGS."""
    values = [row[name] for name in HEADINGS]
    return [ABSENT if value is None else value if isinstance(value, str) else f"{value:,g}" for value in values]


def write_disk_page(found: Sequence[Measured], directory: Path) -> Path:
    """Draw the pictures and write index.html into a directory; return the page."""
    pictures = []
    with mpl.rc_context(STYLE):
        for name, draw in disk_pictures(found).items():
            path = directory / f"{name}.png"
            draw().savefig(path)
            pictures.append({"name": name, "base64": base64.b64encode(path.read_bytes()).decode("ascii")})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emu.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = directory / "index.html"
    save_page(
        page,
        environment.get_template("disk.html.j2").render(
            headings=list(HEADINGS.values()),
            rows=[(one.most_dirty > one.cell.limit * TOLERANCE, cells_of(asdict(one.row))) for one in found],
            pictures=pictures,
        ),
    )
    return page
