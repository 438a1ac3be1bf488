"""The first steps of the fremap command: an interrupt is one line from the start, while it still imports, too."""

import sys
from collections.abc import Sequence

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave the process with its exit code."""
    try:
        from emu.cli import frame  # noqa: PLC0415 - takes a second or two, in which Ctrl-C is likely

        frame.main(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("fremap: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
