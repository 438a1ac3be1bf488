"""The first steps of the fremap command: an interrupt is one line from the start, while it still imports, too.

It opens whatever of standard input, output and error the caller had closed: else the next file that is opened, a
store's or a mount's, would have that number, and what is meant for the terminal would go into it.
"""

import os
import sys
from collections.abc import Sequence

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave the process with its exit code."""
    _open_closed()
    try:
        from emu.cli import frame  # noqa: PLC0415 - takes a second or two, in which Ctrl-C is likely

        frame.main(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("fremap: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)


def _open_closed() -> None:
    """Give /dev/null to whichever of the descriptors 0 to 2 is closed, as a daemon does."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
            if number == 1:
                sys.stdout = os.fdopen(number, "w", closefd=False)
            elif number == 2:
                sys.stderr = os.fdopen(number, "w", closefd=False)
