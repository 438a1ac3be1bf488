"""Options that several subcommands share, and how they are read."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from emu.units import parse_size

JsonPath = Annotated[
    Path | None, typer.Option("--json", metavar="PATH", help="Write the rows as JSON; - is standard output.")
]


@contextmanager
def tables_apart_from(json_path: Path | None) -> Iterator[None]:
    """Meanwhile, what is printed goes to standard error if standard output is for JSON."""
    with redirect_stdout(sys.stderr if json_path is not None and str(json_path) == "-" else sys.stdout):
        yield


def read_place(value: str | Path) -> Path:
    """Read a path that must be given: an empty one, such as an unset variable, would mean the current directory."""
    if not str(value):
        raise typer.BadParameter("it is empty: give a directory")
    return Path(value)


def read_size(text: str) -> int:
    """Read a size such as 64M; typer shows the reason if it is none."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def read_share(value: str | float) -> float:
    """Read a share as 0.1 or 10%; typer sends the default through here, too."""
    text = str(value)
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise typer.BadParameter(f"{text!r} is no share: give a number above 0 and up to 1, or a percentage")
    return share
