"""Recording a program's memory: valgrind's lackey beside its system calls, turned into a trace as they come.

Nothing of the text touches a disk: valgrind writes into a pipe, and what comes out is packed at once. Only the command
itself is traced, not the programs that it starts; its threads run one at a time, as valgrind does it.
"""

import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from emu.lab.errors import LabError
from emu.lab.memtrace.container import TraceWriter
from emu.lab.memtrace.layout import DEBUG_LINE, StartLayout
from emu.lab.memtrace.syscalls import SystemCalls
from emu.lab.memtrace.text import TextReader

INSTALL = "install it (Debian and Ubuntu: apt-get install valgrind; Fedora: dnf install valgrind)"
_PIECE = 1 << 20
_LOOK_S = 0.2
_LAYOUT_TIMEOUT_S = 120.0
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """How a recording went: the command's exit code (as a shell gives it), and what was written."""

    exit_code: int
    nr_accesses: int
    nr_calls: int
    nr_files: int
    has_layout: bool


def find_valgrind() -> str:
    """Return the path of valgrind, or raise a LabError that says how to install it."""
    found = shutil.which("valgrind")
    if found is None:
        raise LabError(f"valgrind is not installed: {INSTALL}")
    return found


def valgrind_version(valgrind: str) -> str:
    """Return what `valgrind --version` says."""
    done = subprocess.run([valgrind, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - found above
    return done.stdout.strip()


class _DebugLog(threading.Thread):
    """Reads valgrind's standard error: its debug log is looked at, the program's own words are passed on."""

    def __init__(self, pipe: IO[bytes], out: BinaryIO) -> None:
        super().__init__(daemon=True)
        self.layout = StartLayout()
        self.ready = threading.Event()
        self._pipe = pipe
        self._out = out

    def run(self) -> None:
        """Until the pipe ends."""
        try:
            self._follow()
        except (OSError, ValueError):
            pass  # closed from the other side: there is nobody to tell
        finally:
            self.ready.set()

    def _follow(self) -> None:
        with self._pipe as pipe:
            for line in pipe:
                if DEBUG_LINE.match(line):
                    self.layout.line(line)
                    if self.layout.complete:
                        self.ready.set()
                else:
                    self._out.write(line)
                    self._out.flush()


def record_memory(
    command: Sequence[str], path: Path, tell: Callable[[int], None], *, err: BinaryIO | None = None
) -> Recorded:
    """Run a command under lackey and write its trace to `path`; `tell` is called with accesses seen.

    Ctrl-C ends the command, and the trace is whole up to there.

    Raises
    ------
    LabError
        If valgrind or the command is missing, or nothing came out.

    """
    valgrind = find_valgrind()
    program = shutil.which(command[0])
    if program is None:
        raise LabError(f"cannot run {command[0]}: no such command")
    info: dict[str, object] = {
        "command": list(command), "program": os.path.realpath(program), "page_size": 4096,
        "recorder": valgrind_version(valgrind), "system": os.uname().release,
    }  # fmt: skip
    with path.open("wb") as file:
        try:
            return _record(valgrind, command, TraceWriter(file, info), os.path.realpath(program), tell, err)
        except LabError:
            path.unlink(missing_ok=True)
            raise


def _record(
    valgrind: str,
    command: Sequence[str],
    writer: TraceWriter,
    program: str,
    tell: Callable[[int], None],
    err: BinaryIO | None,
) -> Recorded:
    """Start the command and follow it; whatever happens, it does not outlive the recording."""
    read_fd, write_fd = os.pipe()
    options = [
        "-d", "--tool=lackey", "--trace-mem=yes", "--basic-counts=no", "--trace-syscalls=yes",
        "--child-silent-after-fork=yes", "--vgdb=no", f"--log-fd={write_fd}",
    ]  # fmt: skip
    try:
        child = subprocess.Popen(  # noqa: S603 - the user's own command
            [valgrind, *options, "--", *command], stderr=subprocess.PIPE, pass_fds=[write_fd]
        )
    except OSError as error:
        os.close(read_fd)
        raise LabError(f"cannot run {valgrind}: {error.strerror}") from error
    finally:
        os.close(write_fd)
    assert child.stderr is not None
    log = _DebugLog(child.stderr, err if err is not None else sys.stderr.buffer)
    log.start()
    try:
        return _follow(child, log, read_fd, writer, program, tell)
    except BaseException:
        child.kill()
        raise
    finally:
        os.close(read_fd)
        child.wait()
        log.join(_LOOK_S)


def _follow(
    child: "subprocess.Popen[bytes]",
    log: _DebugLog,
    read_fd: int,
    writer: TraceWriter,
    program: str,
    tell: Callable[[int], None],
) -> Recorded:
    """Write what comes until the program ends."""
    calls = SystemCalls(writer, str(Path.cwd()))
    reader = TextReader("valgrind's output", writer, calls.line)
    log.ready.wait(_LAYOUT_TIMEOUT_S)
    for call in log.layout.calls(calls, program):
        writer.call(call)
    interrupted = False
    seen = 0
    kill_at_s = float("inf")
    piece: bytes | None = None
    # Read on after Ctrl-C, too: valgrind cannot end while nobody takes what it writes.
    while piece != b"":
        try:
            piece = _read(child, read_fd)
            reader.feed(piece or b"")
            tell(writer.nr_accesses - seen)
            seen = writer.nr_accesses
            if time.monotonic() >= kill_at_s:
                child.kill()
        except KeyboardInterrupt:
            interrupted = True
            kill_at_s = time.monotonic() + _PATIENCE_S
            child.terminate()
    code = child.wait()
    reader.finish()
    if not writer.nr_accesses:
        raise LabError(f"valgrind traced nothing (exit code {code}); its own words are above")
    writer.finish(exit_code=code, interrupted=interrupted)
    return Recorded(
        code if code >= 0 else 128 - code, writer.nr_accesses, writer.nr_calls, len(writer.files), log.layout.complete
    )


def _read(child: "subprocess.Popen[bytes]", fd: int) -> bytes | None:
    """Return what valgrind wrote; b"" at the end, None if there is nothing yet.

    A process that the command left behind keeps the pipe open, so its end is when the command has ended, too.
    """
    ended = child.poll() is not None
    if select.select([fd], [], [], 0 if ended else _LOOK_S)[0]:
        return os.read(fd, _PIECE)
    return b"" if ended else None
