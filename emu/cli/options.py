"""Options that several subcommands share, and how they are read."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from emu.units import parse_size


@contextmanager
def tables_apart_from(json_path: Path | None) -> Iterator[None]:
    """Meanwhile, what is printed goes to standard error if standard output is for JSON."""
    with redirect_stdout(sys.stderr if json_path is not None and str(json_path) == "-" else sys.stdout):
        yield


def read_place(value: str | Path) -> Path:
    """Read a path that must be given: an empty one, such as an unset variable, would mean the current directory."""
    if not str(value):
        raise typer.BadParameter("it is empty: give a path")
    return Path(value)


def read_new_file(value: str | Path) -> Path:
    """Read the path of a file to be written, and refuse now what would fail only after all the work is done."""
    if not str(value):
        raise typer.BadParameter("it is empty: give a file")
    path = Path(value)
    if str(path) == "-":
        return path
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a directory: give a file")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.parent} to write {path.name} into: make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise typer.BadParameter(f"{path} may not be written: give another")
    return path


JsonPath = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="PATH", help="Write the rows as JSON; - is standard output.", parser=read_new_file
    ),
]


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
