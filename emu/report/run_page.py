"""One run, or several side by side, as one HTML file that needs no other."""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from emu.report.run_facts import LATENCY, amount, change, differing, heading, is_time, picture_of, titles
from emu.report.run_pictures import save_run_pictures
from emu.report.runs import Run, totals
from emu.report.save import save_page


def write_run_page(runs: Sequence[Run], directory: Path) -> Path:
    """Draw the pictures of every run and write index.html into a directory; return the page."""
    rows = [
        [None if path is None else picture_of(path) for path in row] for row in save_run_pictures(runs, directory)
    ]
    found = [totals(run) for run in runs]
    names = list(dict.fromkeys(name for each in found for name in each))
    numbers = []
    for name in names:
        values = [each.get(name) for each in found]
        cells = [amount(name, value) for value in values]
        if len(values) == 2:
            cells.append(change(*values))
        differs = len(runs) > 1 and len(set(values)) > 1
        shown = name.removesuffix(" (bytes)").replace(LATENCY, "latency: ")
        numbers.append({"name": shown, "cells": cells, "differs": differs})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emu.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    times = [line for name, line in zip(names, numbers, strict=True) if is_time(name)]
    tables = [
        ("Counts and amounts", [line for line in numbers if line not in times]),
        ("Times, and the real kernel's events, which depend on the computer and on what else it does", times),
    ]
    headings = [heading(run, title) for run, title in zip(runs, titles(runs), strict=True)]
    page = directory / "index.html"
    save_page(
        page,
        environment.get_template("run.html.j2").render(
            runs=headings,
            differing=differing([one["facts"] for one in headings]),
            pictures=rows,
            tables=[(title, lines) for title, lines in tables if lines],
        ),
    )
    return page
