"""One run, or several side by side, as one HTML file that needs no other."""

import base64
import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from emu.report.run_pictures import save_run_pictures
from emu.report.runs import Run, totals
from emu.report.table import ABSENT
from emu.units import format_size

_UNSET: tuple[object, ...] = (None, "", [], {})
_NAMES = {"interval_s": "interval, seconds", "record": "command", "mount": "mounted with"}
_TIME_WORDS = ("seconds", "(s)", "_s", "_us", "us_per", "_ms", "_ns", "per byte", "bandwidth")
_LATENCY = "latency_us: "


def _number(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _amount(name: str, value: float | None) -> str:
    if value is not None and name.endswith("(bytes)"):
        return format_size(value)
    if value is not None and name.startswith(_LATENCY):
        return format_us(value)
    return _number(value)


def format_us(us: float) -> str:
    """Return microseconds in the unit that people would name: 180 ms, 2.5 s, 37 us."""
    for unit, factor in (("us", 1), ("ms", 1000)):
        if us / factor < 999.5:  # what rounds to three digits
            return f"{us / factor:.3g} {unit}"
    return f"{us / 1_000_000:,.3g} s" if us < 999.5e6 else f"{us / 1_000_000:,.0f} s"


def _change(before: float | None, after: float | None) -> str:
    """Return the difference in percent, or the new value where there was nothing before."""
    if before is None or after is None or before == after:
        return ABSENT
    return f"{(after - before) / before:+.1%}".replace("%", " %") if before else "from 0"


def _text(value: object) -> str:
    """Return a setting as people write it: JSON and lists become words."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items() if inner not in _UNSET)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _is_time(name: str) -> bool:
    # What else this kernel was busy with decides how many events it had.
    return name.startswith("kernel: ") or any(word in name for word in _TIME_WORDS)


def _titles(runs: Sequence[Run]) -> list[str]:
    """Return what to call each run: what ran, or the directories' names where there are several."""
    if len(runs) == 1:
        return [runs[0].name]
    names = [run.path.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def _facts(run: Run) -> dict[str, Any]:
    machine, versions = run.manifest["machine"], run.manifest["versions"]
    facts = {
        "run": run.path,
        "computer": f"{machine['cpu']}, {machine['cores']} cores, {format_size(machine['ram_bytes'])}",
        "system": machine["system"],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "seed": run.manifest["seed"],
    }
    facts |= {
        _NAMES.get(name, name.replace("_", " ")): shlex.join(value) if name == "record" else _text(value)
        for name, value in run.manifest["config"].items()
        if value not in _UNSET
    }
    if "sampler_cpu_share" in run.manifest:
        facts["sampler"] = f"{run.manifest['samples']} samples, {run.manifest['sampler_cpu_share']:.2%} of a core"
    return facts


def _heading(run: Run, title: str) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "title": title,
        "command": shlex.join(["fremap", *manifest["command"][1:]]),
        "started": manifest["started"],
        "status": "cut short" if manifest["status"] == "running" else manifest["status"],
        "seconds": manifest["seconds"],
        "facts": _facts(run),
    }


def _picture(path: Path) -> dict[str, str]:
    return {"name": path.stem, "base64": base64.b64encode(path.read_bytes()).decode("ascii")}


def _differing(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of facts that are not the same in all runs; a directory always differs."""
    names = dict.fromkeys(name for each in facts for name in each)
    return [name for name in names if name != "run" and len({str(each.get(name)) for each in facts}) > 1]


def write_run_page(runs: Sequence[Run], directory: Path) -> Path:
    """Draw the pictures of every run and write index.html into a directory; return the page."""
    rows = [
        [None if path is None else _picture(path) for path in row] for row in save_run_pictures(runs, directory)
    ]
    found = [totals(run) for run in runs]
    names = list(dict.fromkeys(name for each in found for name in each))
    numbers = []
    for name in names:
        values = [each.get(name) for each in found]
        cells = [_amount(name, value) for value in values]
        if len(values) == 2:
            cells.append(_change(*values))
        differs = len(runs) > 1 and len(set(values)) > 1
        shown = name.removesuffix(" (bytes)").replace(_LATENCY, "latency: ")
        numbers.append({"name": shown, "cells": cells, "differs": differs})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emu.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    times = [line for name, line in zip(names, numbers, strict=True) if _is_time(name)]
    tables = [
        ("Counts and amounts", [line for line in numbers if line not in times]),
        ("Times, and the real kernel's events, which depend on the computer and on what else it does", times),
    ]
    headings = [_heading(run, title) for run, title in zip(runs, _titles(runs), strict=True)]
    page = directory / "index.html"
    page.write_text(
        environment.get_template("run.html.j2").render(
            runs=headings,
            differing=_differing([heading["facts"] for heading in headings]),
            pictures=rows,
            tables=[(title, lines) for title, lines in tables if lines],
        ),
        encoding="utf-8",
    )
    return page
