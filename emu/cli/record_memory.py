"""fremap record without a mount: `fremap record -- COMMAND` writes a trace of the command's memory.

One command serves both; which is meant shows in what stands before `--`: a MOUNTPOINT, or none.
"""

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from emu.cli.progress import RichProgress
from emu.cli.show import say
from emu.units import format_size

EXIT_NO_PROGRAM = 126
EXIT_NOT_FOUND = 127
NO_MOUNT = Path("--")
"""Stands for the mountpoint where none was given: no mount can be named so."""


class RecordCommand(TyperCommand):
    """Puts NO_MOUNT before `--` where no mountpoint stands there."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look at what comes before `--` with the command's own parser, whatever options it has."""
        if "--" in args:
            border = args.index("--")
            given, _, _ = self.make_parser(ctx).parse_args(args[:border])
            if not given.get("mountpoint") and args[border + 1 :]:
                args = [*args[:border], "--", str(NO_MOUNT), *args[border + 1 :]]
        return super().parse_args(ctx, args)


def why_not_runnable(program: str) -> int:
    """Return 0 if a program can be run; else say why not, and return the exit code of a shell: 127 or 126."""
    if shutil.which(program) is not None:
        return 0
    found = "/" in program and Path(program).exists()
    sys.stderr.write(f"fremap: cannot run {program}: {'no program' if found else 'there is no such program'}\n")
    return EXIT_NO_PROGRAM if found else EXIT_NOT_FOUND


def record_trace(command: Sequence[str], out: Path | None) -> int:
    """Trace a command's memory into a file; return the command's exit code."""
    # Here, not at the top: numpy takes a while to load, and watching a mount needs none of it.
    from emu.lab.memtrace.valgrind import record_memory  # noqa: PLC0415 - see above

    name = Path(command[0]).name
    path = out if out is not None else Path(f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}.ftr")
    sys.stdout.flush()
    with RichProgress().step(f"tracing {name}") as advance:
        done = record_memory(command, path, advance)
    cut = "" if done.has_layout else "; its first mappings are not known, they are mapped where touched"
    say(
        f"{done.nr_accesses:,} accesses and {done.nr_calls:,} calls in {path}, {format_size(path.stat().st_size)}{cut}"
        f"; fremap replay {path}",
        dim=True,
    )
    return done.exit_code
