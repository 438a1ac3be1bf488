"""What a workload returned, shown: a table for people, JSON for programs."""

import json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from emu.cli.show import print_whole


def show_outcome(outcome: dict[str, Any], *, as_json: bool, title: str) -> None:
    """Print what a workload returned: a table for people, JSON for programs."""
    if as_json:
        typer.echo(json.dumps(outcome, indent=1, default=str))
        return
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column()
    table.add_column(justify="right")
    console, rows = Console(highlight=False, markup=False), []
    for name, value in outcome.items():
        if _is_rows(value):
            rows.append(_rows_table(name, value))
        elif value or not isinstance(value, (dict, list)):
            table.add_row(name.replace("_", " "), _shown(value))
    if table.row_count:
        print_whole(console, table)
    for one in rows:
        print_whole(console, one)


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _rows_table(name: str, rows: list[dict[str, Any]]) -> Table:
    """Return a list of dicts as a table, a column a key."""
    title = name.replace("_", " ")
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for key, value in rows[0].items():
        is_text = isinstance(value, str)
        heading = key.replace("_", " ")
        longest = max(map(len, heading.split()), default=0)  # a heading may take two lines, but keeps its words
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=is_text, min_width=longest)
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
