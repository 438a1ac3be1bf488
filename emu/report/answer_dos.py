"""The attacks and the guards as tables on the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from emu.lab.dos import DosRow, Guard
from emu.report.table import format_number
from emu.units import format_size


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.pad_edge = False
    table.padding = 0
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def attack_tables(rows: Sequence[DosRow]) -> list[Table]:
    """Return a table for each attack: what it costs others, in visits."""
    wide = _table(
        "wide: every process maps the whole file in random order",
        (
            "reverse map", "\npages", "pro-\ncesses", "mkclean\nvisits", "reclaim\nvisits", "its\nmemory",
            "attacker\npays",
        ),
    )
    alias = _table(
        "alias: one page at every address, stored through each",
        (
            "reverse map", "addres-\nses", "mkclean\nvisits", "removal\nvisits", "at\nworst", "reclaim\nvisits",
            "its\nmemory",
        ),
    )
    for table, attack in ((wide, "wide"), (alias, "alias")):
        last = None
        for row in (one for one in rows if one.attack == attack):
            if last not in {None, row.rmap}:
                table.add_section()
            name = row.rmap if row.rmap != last else ""
            last = row.rmap
            head = [name, f"{row.pages:,}"] + ([str(row.processes)] if attack == "wide" else [])
            if row.error is not None:
                table.add_row(*head, Text("-", "red"))
                continue
            memory = format_size(row.rmap_bytes or 0)
            if attack == "wide":
                numbers: tuple[float | None, ...] = (row.mkclean_visits, row.unmap_visits)
                tail = [memory, format_size(row.attacker_bytes or 0)]
            else:
                numbers = (row.mkclean_visits, row.remove_visits, row.remove_visits_max, row.unmap_visits)
                tail = [memory]
            table.add_row(*head, *map(format_number, numbers), *tail)
    return [wide, alias]


def guard_table(guards: Sequence[Guard]) -> Table:
    """Return what each guard did when it was tried."""
    table = _table("Guards, tried", ("guard", "attempt", "outcome"))
    table.columns[1].justify = "left"
    for guard in guards:
        table.add_row(guard.guard, guard.attempt, Text(guard.outcome, "" if guard.outcome == guard.expected else "red"))
    return table


def _worst(row: DosRow) -> tuple[int, int]:
    return row.mkclean_visits or 0, row.unmap_visits or 0


def dos_verdicts(rows: Sequence[DosRow], guards: Sequence[Guard]) -> list[tuple[bool, str]]:
    """Return the worst of each strategy in a sentence, what could not run, and whether the guards hold."""
    said = []
    for rmap in dict.fromkeys(row.rmap for row in rows):
        done = [row for row in rows if row.rmap == rmap and row.error is None]
        wide = max((row for row in done if row.attack == "wide"), key=_worst, default=None)
        alias = max((row for row in done if row.attack == "alias"), key=lambda row: row.pages, default=None)
        parts = []
        if wide is not None:
            where = f"{wide.processes} x {wide.pages:,} pages"
            parts.append(f"one mkclean {wide.mkclean_visits:,} visits, one reclaim {wide.unmap_visits:,} ({where})")
        if alias is not None and alias.writable_ptes:
            each = (alias.mkclean_visits or 0) / alias.writable_ptes
            removal = f"{alias.remove_visits:,} to remove one of {alias.pages:,} addresses"
            parts.append(f"alias: {each:.2g} visits a writable PTE, {removal}")
        said.append((True, f"{rmap}: {'; '.join(parts)}"))
    said += [
        (True, f"{row.rmap}, {row.attack}, {row.processes} x {row.pages:,} pages: {row.error}")
        for row in rows
        if row.error is not None
    ]
    said += [
        (False, f"guard {guard.guard}, {guard.attempt}: {guard.outcome} instead of {guard.expected}")
        for guard in guards
        if guard.outcome != guard.expected
    ]
    return said
