"""Texts that people read, kept as files: a change is seen as a change. FREMAP_SNAPSHOTS=write renews them."""

import os
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType

PLACE = Path(__file__).with_name("snapshots")


def printed(what: RenderableType, width: int = 80) -> str:
    """Return what a terminal of this width shows, without colours and without spaces at ends of lines."""
    stream = StringIO()
    Console(file=stream, width=width, force_terminal=False).print(what)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def check_snapshot(name: str, text: str) -> None:
    """Compare with tests/snapshots/NAME.txt."""
    path = PLACE / f"{name}.txt"
    if os.environ.get("FREMAP_SNAPSHOTS") == "write":
        PLACE.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    assert text == known, f"{name} is shown differently than before; if rightly so: FREMAP_SNAPSHOTS=write pytest ..."
