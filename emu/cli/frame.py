"""The frame of the fremap command: subcommands, version, and errors as one line with an exit code.

Exit codes: 0 done; 1 it could not be done, or an expectation broke; 2 wrong usage; 70 a bug in fremap;
130 interrupted by Ctrl-C, 129 and 143 by SIGHUP and SIGTERM, which clean up as it does.
"""

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, TextIO

import typer

from emu.cli.examples import epilog_of
from emu.errors import KernelBug, Signal
from emu.lab.errors import LabError, Terminated, WrongOption
from fsbackend.mount import MountError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_INTERRUPTED = 130

_SUBCOMMANDS = (
    "emu.cli.compare",
    "emu.cli.dos",
    "emu.cli.trackers",
    "emu.cli.run",
    "emu.cli.replay",
    "emu.cli.watch",
    "emu.cli.vmstat",
    "emu.cli.trace",
    "emu.cli.report",
    "emu.cli.mount",
    "emu.cli.tables",
)

# typer carries a copy of click since 0.2x and used the package before; either way this is its base of errors.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="fremap",
    help="""A laboratory for nonlinear file mappings and dirty writeback.

    An emulated machine maps files of a FUSE filesystem through real page tables, nonlinearly if asked to, and
    every store goes TLB, page walk, page fault, page cache, real file.

    Start with `fremap compare`: it stores into a nonlinear mapping, writes back, stores again, calls
    msync, cuts the power, and reads the disk. Which reverse maps lose writes, and what does each cost?
    """,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fremap {metadata.version('fremap')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def register_all() -> None:
    """Add the subcommands that this installation has."""
    for name in _SUBCOMMANDS:
        if find_spec(name):
            import_module(name).register(app)
    for command in app.registered_commands:
        if command.callback is not None:
            command.epilog = epilog_of(command.name or command.callback.__name__.replace("_", "-"))
    for group in app.registered_groups:
        group.epilog = epilog_of(str(group.name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Not where the caller had it ignored, as nohup does.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)
    for stream in (sys.stdout, sys.stderr):
        _take_any_path(stream)
    # It warns that a home may not be written, or that its first start takes long: nothing to be done about.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.exit(run(given or ["--help"]))


def _take_any_path(stream: TextIO) -> None:
    """Let a stream print every path: its bytes as they are if it takes UTF-8, else what it cannot say as escapes."""
    if isinstance(stream, TextIOWrapper):
        is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
        stream.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code. Errors become one line on standard error."""
    if not app.registered_commands and not app.registered_groups:
        register_all()
    try:
        result = typer.main.get_command(app).main(
            list(arguments), prog_name="fremap", standalone_mode=False
        )
        sys.stdout.flush()
    except Terminated as error:
        sys.stderr.write(f"fremap: ended by {signal.Signals(error.number).name}; {error.left}\n")
        return 128 + error.number
    except BrokenPipeError:
        # The reader has what it wanted, as head(1) does; Python would complain while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as error:
        # So rich leaves when the reader has: head(1) has what it wanted.
        if isinstance(error.__context__, BrokenPipeError):
            return 0
        raise
    except Exception as error:  # noqa: BLE001 - the last place that can turn an error into a line
        return _report(error)
    if result == EXIT_INTERRUPTED:  # what typer makes of KeyboardInterrupt
        sys.stderr.write("fremap: interrupted; cleaned up\n")
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    """Write one line for `error` and return the exit code. FREMAP_TRACEBACK=1 shows where it came from."""
    line, code = _in_words(error)
    if code == EXIT_FAILED:
        line += _if_nowhere()
    if os.environ.get("FREMAP_TRACEBACK"):
        sys.excepthook(type(error), error, error.__traceback__)
    elif code == EXIT_BUG:
        line += " (FREMAP_TRACEBACK=1 shows where)"
    sys.stderr.write(f"fremap: {line}\n")
    return code


def _in_words(error: Exception) -> tuple[str, int]:
    """Return what is said of `error`, and the exit code."""
    code = EXIT_FAILED
    if isinstance(error, _CommandLineError):
        # An Exit code of its own (2 for usage), and the words that typer found.
        line = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "fremap"
        line = f"{line} (see {where} --help)"
        code = getattr(error, "exit_code", 2)
    elif isinstance(error, typer.Abort):
        line, code = "interrupted; cleaned up", EXIT_INTERRUPTED
    elif isinstance(error, OSError) and error.strerror:
        line = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            line += "; make room there, or write elsewhere"
    elif isinstance(error, WrongOption):
        # In typer's words, as those above.
        line, code = f"Invalid value: {error}", EXIT_USAGE
    elif isinstance(error, (LabError, MountError, Signal, OSError)):
        line = str(error)
    elif isinstance(error, KernelBug):
        line, code = f"the emulated kernel broke an invariant: {error}", EXIT_BUG
    else:
        line, code = f"a bug in fremap: {type(error).__name__}: {error}", EXIT_BUG
    return line, code


def _if_nowhere() -> str:
    """Return what explains most failures where the current directory is gone."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "; the current directory was removed: go to another one (cd)"
    return ""
