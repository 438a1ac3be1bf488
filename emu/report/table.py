"""The comparison as a table on the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from emu.lab.rows import Row
from emu.units import format_size

ABSENT = "-"


def visits_per_call(row: Row) -> float | None:
    """Return how many PTEs and nodes one mkclean looked at, or None where none ran."""
    if not row.mkclean_calls or row.mkclean_pte_visits is None or row.mkclean_node_visits is None:
        return None
    return (row.mkclean_pte_visits + row.mkclean_node_visits) / row.mkclean_calls


def share_of_ptes(row: Row) -> float | None:
    """Return the strategy's own memory as a share of the page tables' leaves, or None."""
    if row.rmap_bytes is None or not row.pte_bytes:
        return None
    return row.rmap_bytes / row.pte_bytes


def format_number(value: float | None) -> str:
    """Write a number with three figures and thousands apart."""
    if value is None:
        return ABSENT
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_share(value: float | None) -> str:
    """Write a share in percent, or as a multiple from ten times on."""
    if value is None:
        return ABSENT
    if value >= 10:
        return f"{value:.3g} x"
    return f"{100 * value:.3g} %"


def summary_title(rows: Sequence[Row], nr_pages: int | None = None) -> str:
    """Return what was run, in one line; of no rows `nr_pages` tells it."""
    if not rows:
        return "late_store" if nr_pages is None else f"late_store: {nr_pages:,} pages"
    dirty = next((row.dirty_pages for row in rows if row.dirty_pages is not None), None)
    stored = "" if dirty is None else f", {dirty:,} of them stored twice"
    return f"late_store: {rows[0].pages:,} pages{stored}"


def _outcome(row: Row) -> Text:
    if row.lost_pages is None:
        return Text("failed", "bold red")
    if row.broken:
        return Text(f"{row.lost_pages:,} !", "bold white on red")
    if row.lost_pages:
        return Text(f"{row.lost_pages:,}", "bold red")
    return Text("0", "green")


def compare_table(rows: Sequence[Row]) -> Table:
    """Return a rich table of the rows, a section for each backing and format; it fits 80 columns.

    How many VMAs there are is shown if it is ever not one, and then the run's seconds make room for it.
    """
    table = Table(title=summary_title(rows), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.pad_edge = False
    table.padding = 0
    table.add_column("reverse map", no_wrap=True)
    many_vmas = any((row.nr_vmas or 1) != 1 for row in rows)
    for heading in (
        "pages\nlost",
        "visits\n/mkclean",
        "own\nmemory",
        "of PTE\nmemory",
        "remap\nus/page",
        "fault\nus",
        "\nVMAs" if many_vmas else "run\ns",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    section = None
    for row in rows:
        if section != (row.caps, row.format):
            if section is not None:
                table.add_section()
            table.add_row(Text(f"{row.caps}, {row.format}", "bold"))
        section = (row.caps, row.format)
        seconds = ABSENT if row.seconds is None else f"{row.seconds:.1f}"
        table.add_row(
            f" {row.rmap}",
            _outcome(row),
            format_number(visits_per_call(row)),
            ABSENT if row.rmap_bytes is None else format_size(row.rmap_bytes),
            format_share(share_of_ptes(row)),
            format_number(row.remap_us_per_page),
            format_number(row.fault_us),
            format_number(row.nr_vmas) if many_vmas else seconds,
        )
    return table


def _pages(count: int | None) -> str:
    return "1 page" if count == 1 else f"{count or 0:,} pages"


def verdicts(rows: Sequence[Row]) -> list[tuple[bool, str]]:
    """Return for each thing worth saying whether it is as it must be, and a sentence."""
    said = [(False, f"{row.rmap} on {row.caps}, {row.format}: {row.broken}") for row in rows if row.broken]
    said += [(True, f"{row.rmap} on {row.caps} ends, as it must: {row.error}") for row in rows if row.beyond_vma_limit]
    said += [(True, f"{row.rmap} on {row.caps}: {row.note}") for row in rows if row.note]
    stand = [row for row in rows if row.error is None and not row.broken]
    losing = [row for row in stand if row.lost_pages]
    said += [
        (
            True,
            f"{row.rmap} on {row.caps}, {row.format}: msync returned success and lost {_pages(row.lost_pages)}",
        )
        for row in losing
    ]
    whole = len(stand) - len(losing)
    if whole:
        rows_hold = "row holds" if whole == 1 else "rows hold"
        said.append((True, f"{whole} {rows_hold} every byte that msync promised"))
    return said
