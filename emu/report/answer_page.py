"""The whole answer as one HTML file that needs no other."""

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from emu.lab.answer_rows import Answer
from emu.report.answer_table import answer_verdicts, lost_words
from emu.report.run_facts import unfinished
from emu.report.table import format_number
from emu.units import format_size

Line = tuple[list[str], str | None]

_COST_NOTE = """Random order. Lost: pages that an ordinary process did not find after a power cut, or (*) late stores of
the sample that left their page clean in memory. Visits are PTEs and nodes looked at; walks of the tree of VMAs are not
counted. Microseconds are CPU time. Marked e: measured on a sample (extrapolated)."""
_MEMORY_NOTE = """Bytes beyond the page table, at the peak. Linear: in a mapping that is nonlinear already."""
_WAIT_NOTE = """Simulated with simpy from the counted visits; see emu/lab/contention.py for what is assumed."""


def _costs(answer: Answer) -> tuple[str, str, list[str], list[Line]]:
    headings = [
        "reverse map", "pages", "present", "lost", "sample", "remap visits", "remap us", "bulk remap us",
        "fault visits", "fault us", "write fault visits", "write fault us", "mkclean visits",
        "of them PTEs", "worst", "mkclean us",
        "unmap visits", "worst", "others' PTEs", "unmap us", "VMAs", "own memory", "mmap_sem r/w a remap",
        "i_mmap_lock a remap",
    ]  # fmt: skip
    lines: list[Line] = []
    for row in answer.costs:
        head = [row.rmap, f"{row.pages:,}"]
        if row.error is not None:
            lines.append((head, row.error))
            continue
        semaphore = row.locks.get("remap", {}).get("mmap_sem", {})
        file_lock = row.locks.get("remap", {}).get("i_mmap_lock", {})
        numbers = (
            row.remap_visits, row.remap_us, row.bulk_remap_us, row.fault_visits, row.fault_us, row.write_fault_visits,
            row.write_fault_us, row.mkclean_visits, row.mkclean_pte_visits, row.mkclean_visits_max, row.mkclean_us,
            row.unmap_visits, row.unmap_visits_max, row.unmap_others, row.unmap_us, row.nr_vmas,
        )  # fmt: skip
        lines.append((
            [
                *head,
                format_number(row.present_pages),
                lost_words(row),
                f"{row.nr_mkcleans:,}{' e' if row.extrapolated else ''}",
                *(format_number(value) for value in numbers),
                format_size(row.rmap_bytes or 0),
                f"{semaphore.get('nr_read', 0):g}/{semaphore.get('nr_write', 0):g}",
                f"{file_lock.get('nr_write', 0):g}",
            ],
            None,
        ))
    return "Costs", _COST_NOTE, headings, lines


def _memory(answer: Answer) -> tuple[str, str, list[str], list[Line]]:
    headings = [
        "reverse map", "pages", "order", "dirty", "present", "own memory", "B a page", "of a PTE", "B a dirty page",
        "VMAs",
    ]  # fmt: skip
    lines: list[Line] = []
    for row in answer.memory:
        head = [row.rmap, f"{row.pages:,}", row.order, f"{row.dirty_share:.0%}"]
        if row.error is not None:
            lines.append((head, row.error))
            continue
        numbers = [row.bytes_per_page, row.pte_ratio, row.bytes_per_dirty_page, row.nr_vmas]
        own = format_size(row.rmap_bytes or 0)
        lines.append(([*head, format_number(row.present_pages), own, *map(format_number, numbers)], None))
    return "Memory", _MEMORY_NOTE, headings, lines


def _waits(answer: Answer) -> tuple[str, str, list[str], list[Line]]:
    headings = [
        "reverse map", "lock of a remap", "ns a visit", "threads", "fault waits us", "p99", "remap waits us", "p99",
        "flusher waits us", "operations/s", "cleans/s",
    ]  # fmt: skip
    lines: list[Line] = []
    for row in answer.waits:
        numbers = (
            row.visit_ns, row.threads, row.fault_wait_us, row.fault_wait_p99_us, row.remap_wait_us,
            row.remap_wait_p99_us, row.flusher_wait_us, row.ops_per_s, row.cleans_per_s,
        )  # fmt: skip
        lines.append(([row.rmap, row.lock, *map(format_number, numbers)], None))
    return "Waits for locks", _WAIT_NOTE, headings, lines


def render_answer(answer: Answer, pictures: Sequence[Path], manifest: dict[str, Any]) -> str:
    """Return the HTML; `manifest` is that of its run directory."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emu.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    machine, installed = manifest["machine"], manifest["versions"]
    facts = {
        "when": manifest["started"],
        "where": manifest["config"]["ground"],
        "prices, ns": ", ".join(f"{name} {value:g}" for name, value in manifest["config"]["prices"].items()),
        "computer": f"{machine['cpu']}, {machine['cores']} cores, {format_size(machine['ram_bytes'])}",
        "system": machine["system"],
        "versions": ", ".join(f"{name} {version}" for name, version in installed.items()),
    }
    return environment.get_template("answer.html.j2").render(
        verdicts=unfinished(manifest, "the cells that were done are here") + answer_verdicts(answer),
        pictures=[
            {"name": path.stem, "base64": base64.b64encode(path.read_bytes()).decode()} for path in pictures
        ],
        tables=[_costs(answer), _memory(answer), _waits(answer)],
        command=shlex.join(["fremap", *manifest["command"][1:]]),
        facts=facts,
    )
