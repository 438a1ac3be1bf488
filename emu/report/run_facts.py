"""What pages say of runs in words: settings and facts, numbers with their units, changes from one run to the next."""

import base64
import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emu.report.runs import Run
from emu.report.table import ABSENT
from emu.units import format_size

_UNSET: tuple[object, ...] = (None, "", [], {})
_NAMES = {"interval_s": "interval, seconds", "record": "command", "mount": "mounted with", "store_is": "store on"}
_TIME_WORDS = ("seconds", "(s)", "_s", "_us", "us_per", "_ms", "_ns", "per byte", "bandwidth")
LATENCY = "latency_us: "


def number(value: float | None) -> str:
    """Return a number with thousands apart, whole ones whole; a dash for none."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def amount(name: str, value: float | None) -> str:
    """Return a value in the unit that its name ends or begins with."""
    if value is not None and name.endswith("(bytes)"):
        return format_size(value)
    if value is not None and name.startswith(LATENCY):
        return format_us(value)
    return number(value)


def format_us(us: float) -> str:
    """Return microseconds in the unit that people would name: 180 ms, 2.5 s, 37 us."""
    for unit, factor in (("us", 1), ("ms", 1000)):
        if us / factor < 999.5:  # what rounds to three digits
            return f"{us / factor:.3g} {unit}"
    return f"{us / 1_000_000:,.3g} s" if us < 999.5e6 else f"{us / 1_000_000:,.0f} s"


def change(before: float | None, after: float | None) -> str:
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


def is_time(name: str) -> bool:
    """Tell whether a number is another each time, on the same computer, too."""
    # What else this kernel was busy with decides how many events it had.
    return name.startswith("kernel: ") or any(word in name for word in _TIME_WORDS)


def titles(runs: Sequence[Run]) -> list[str]:
    """Return what to call each run: what ran, or the directories' names where there are several."""
    if len(runs) == 1:
        mountpoint = runs[0].manifest["config"].get("mountpoint")
        return [f"Recording of {mountpoint}" if mountpoint else runs[0].name]
    names = [run.path.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def facts_of(run: Run) -> dict[str, Any]:
    """Return where and how a run ran, by the names that a page shows."""
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
    share = _sampler_share(run.manifest)
    if share is not None:
        facts["sampler"] = f"{run.manifest['samples']} samples, {share:.2%} of a core"
    return facts


def _sampler_share(manifest: Mapping[str, Any]) -> float | None:
    """Return what part of a core the sampler took; None where none ran."""
    if "sampler_cpu_share" in manifest:
        return float(manifest["sampler_cpu_share"])
    if "sampler_cpu_s" in manifest and manifest["seconds"]:
        return float(manifest["sampler_cpu_s"] / manifest["seconds"])
    return None


def state_of(manifest: Mapping[str, Any]) -> str:
    """Return how a run ended, in words."""
    return "cut short" if manifest["status"] == "running" else str(manifest["status"])


def unfinished(manifest: Mapping[str, Any], what_is_here: str) -> list[tuple[bool, str]]:
    """Return, as a verdict, what kept an experiment from its end; none if it got there."""
    if manifest.get("status") in {None, "done", "broken"}:
        return []
    return [(False, f"{state_of(manifest)}: {what_is_here}")]


def heading(run: Run, title: str) -> dict[str, Any]:
    """Return what stands above a run's column."""
    manifest = run.manifest
    return {
        "title": title,
        "command": shlex.join(["fremap", *manifest["command"][1:]]),
        "started": manifest["started"],
        "status": state_of(manifest),
        "seconds": manifest["seconds"],
        "facts": facts_of(run),
    }


def picture_of(path: Path) -> dict[str, str]:
    """Return a picture as a page holds it."""
    return {"name": path.stem, "base64": base64.b64encode(path.read_bytes()).decode("ascii")}


def differing(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of facts that are not the same in all runs; a directory always differs."""
    names = dict.fromkeys(name for each in facts for name in each)
    return [name for name in names if name != "run" and len({str(each.get(name)) for each in facts}) > 1]
