"""The dirty trackers as a picture and as one HTML file: what a dirtied page costs, in time and in bytes."""

import base64
import io
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console

from emu.report.pictures import BLUE, GREEN, GREY, ORANGE
from emu.report.save import save_page
from emu.report.table import format_number
from emu.report.trackers_table import trackers_said, trackers_table, trackers_title
from emu.trackers.rows import EMULATED, OK, TrackerRow
from emu.units import format_size

_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#dddddd",
    "ytick.left": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_WIDTH = 100
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>fremap trackers</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 62rem;
    margin: 2rem auto; padding: 0 1rem; }}
  pre {{ font-size: .85rem; line-height: 1.35; overflow-x: auto; }}
  img {{ max-width: 100%; height: auto; }}
  li.bad {{ color: #a63f00; font-weight: 700; }}
  li.fact, .sub {{ color: #555; }}
  code {{ background: #f3f3f3; padding: .1em .3em; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>What does it cost to learn which pages were stored to?</h1>
<p class="sub"><code>{command}</code><br>{when}; {computer}; {system}; seed {seed}</p>
<p><img src="data:image/png;base64,{picture}" alt="microseconds and bytes a dirtied page"></p>
<ul>{said}</ul>
<pre>{table}</pre>
<p class="sub">Microseconds are of the host and of whatever else it did; bytes and VMAs are exact. The kernel's bytes
are page tables and VMAs that tracking added; own bytes are what the tracker reads or keeps to know the pages.</p>
</body>
</html>
"""


def draw_trackers(rows: Sequence[TrackerRow]) -> Figure:
    """Draw time and bytes of a dirtied page, a bar for each tracker and kind of memory."""
    shown = [row for row in rows if row.status == OK]
    figure = Figure(figsize=(11, 2.1 + 0.34 * len(shown)), dpi=120)
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(shown))
    left.set_title("microseconds a dirtied page")
    right.set_title("bytes a dirtied page (log scale)")
    left.set_yticks(places, [f"{row.tracker} · {row.memory}" for row in shown])
    left.set_ylim(len(shown) - 0.4, -0.6)
    begin = [0.0] * len(shown)
    for what, color in (("arm", GREEN), ("store", BLUE), ("collect", ORANGE)):
        widths = [getattr(row, f"{what}_us") or 0.0 for row in shown]
        left.barh(places, widths, left=begin, color=color, height=0.62, label=what)
        begin = [at + width for at, width in zip(begin, widths, strict=True)]
    for place, row in enumerate(shown):
        text = "emulated: no time" if row.clock == EMULATED else format_number(row.us)
        left.annotate(text, (begin[place], place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    left.set_xlim(0, max([1.0, *begin]) * 1.2)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    nbytes = [row.bytes_a_page for row in shown]
    low = min([value for value in nbytes if value] or [1.0]) / 3
    colors = [GREY if row.clock == EMULATED else BLUE for row in shown]
    right.barh(places, [max(value or low, low) - low for value in nbytes], left=low, color=colors, height=0.62)
    right.set_xscale("log")
    right.set_xlim(low, max([1.0, *(value or 0.0 for value in nbytes)]) * 4)
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:,.10g}"))
    right.xaxis.set_minor_formatter(NullFormatter())
    for place, value in enumerate(nbytes):
        text = "not known" if value is None else format_number(value)
        right.annotate(
            text, (max(value or low, low), place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    return figure


def write_trackers_page(
    rows: Sequence[TrackerRow], filesystem: str, manifest: dict[str, Any], directory: Path
) -> Path:
    """Write trackers.png and index.html into a directory; return the page."""
    picture = directory / "trackers.png"
    with mpl.rc_context(_STYLE):
        figure = draw_trackers(rows)
        figure.suptitle(trackers_title(rows), x=0.01, ha="left", fontsize=11, color=GREY)
        figure.savefig(picture)
    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False)
    console.print(trackers_table(rows, filesystem))
    assert isinstance(console.file, io.StringIO)
    classes = {True: "good", False: "bad", None: "fact"}
    facts = manifest["machine"]
    page = directory / "index.html"
    save_page(
        page,
        _PAGE.format(
            command=escape(shlex.join(["fremap", *manifest["command"][1:]])),
            when=escape(manifest["started"]),
            computer=escape(f"{facts['cpu']}, {facts['cores']} cores, {format_size(facts['ram_bytes'])}"),
            system=escape(facts["system"]),
            seed=manifest["seed"],
            picture=base64.b64encode(picture.read_bytes()).decode("ascii"),
            said="".join(f'<li class="{classes[good]}">{escape(line)}</li>' for good, line in trackers_said(rows)),
            table=escape(console.file.getvalue()),
        ),
    )
    return page
