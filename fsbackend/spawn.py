"""Start a daemon, and wait for its word or for its end."""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

from fsbackend.client import MountError
from fsbackend.options import MountOptions

READY_TIMEOUT_S = 30.0
EXIT_TIMEOUT_S = 60.0


def start_daemon(options: MountOptions) -> int:
    """Start the daemon and wait for its word."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    log_fd = os.open(options.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    logged_nbytes = os.fstat(log_fd).st_size
    actions = [
        (os.POSIX_SPAWN_DUP2, in_read, 0),
        (os.POSIX_SPAWN_DUP2, out_write, 1),
        (os.POSIX_SPAWN_DUP2, log_fd, 2),
    ]
    root = str(Path(__file__).resolve().parent.parent)
    environ = dict(os.environ)
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH", "")]))
    environ.pop("PYTHONWARNINGS", None)
    try:
        command = [sys.executable, "-m", "fsbackend.daemon"]
        pid = os.posix_spawn(sys.executable, command, environ, file_actions=actions, setsid=True)
    finally:
        os.close(in_read)
        os.close(out_write)
        os.close(log_fd)
    with os.fdopen(in_write, "wb") as pipe, contextlib.suppress(BrokenPipeError):
        pipe.write(options.to_json().encode())
    with os.fdopen(out_read, "rb") as pipe:
        answer = _read_line(pipe.fileno())
    if answer == b"serving\n":
        return pid
    if not answer:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_exit(pid, EXIT_TIMEOUT_S)
    if not Path(options.log_path).stat().st_size:
        Path(options.log_path).unlink()  # a refusal is said here, and nothing was logged
    words = answer.decode(errors="replace").split(" ", 2)
    if words[0] == "error":
        why = ": ".join([words[2].strip(), *_said_by_libfuse(options.log_path, logged_nbytes)])
        raise MountError(f"cannot mount {options.store or 'RAM'} at {options.mountpoint}: {why}")
    last = ""
    with contextlib.suppress(FileNotFoundError):
        last = Path(options.log_path).read_text(errors="replace").strip().rpartition("\n")[2]
    raise MountError(f"the daemon did not come up ({last}); its log: {options.log_path}")


def _said_by_libfuse(log_path: str, since_nbytes: int) -> list[str]:
    """Return what libfuse and fusermount wrote into the log since, which only they know."""
    try:
        with Path(log_path).open("rb") as log:
            log.seek(since_nbytes)
            lines = log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    said = [line.strip() for line in lines if line.startswith(("fuse", "mount"))]
    needs_root = any("not permitted" in line for line in said)
    return [*said, *(["mounting needs root or the right to mount (CAP_SYS_ADMIN)"] if needs_root else [])]


def _read_line(fd: int) -> bytes:
    answer, until_s = b"", time.monotonic() + READY_TIMEOUT_S
    while not answer.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(until_s - time.monotonic(), 0))
        more = os.read(fd, 4096) if ready else b""
        if not more:
            return b"" if not answer.endswith(b"\n") else answer
        answer += more
    return answer


def wait_exit(pid: int, timeout_s: float) -> bool:
    """Wait until a process, child or not, is gone; return whether it is."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        gone = bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)
    if gone:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return gone
