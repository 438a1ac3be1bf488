"""The files behind a replayed program's mappings.

Private and read-only mappings show the real files, opened for reading only. What the program shares and may write is
a copy in the laboratory's directory, so that nothing of the user's is ever written; and a file that is no more, or is
not the one that was recorded (another size), is stood in for by zeros.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from emu.lab.memtrace.container import Trace
from emu.lab.memtrace.words import Call, Op

_PAGE_MASK = 4095


def _lengths(trace: Trace) -> dict[str, int]:
    """Return how long each mapped file must be for all of its mappings, by path."""
    lengths: dict[str, int] = {}
    for file in trace.files:
        lengths[file.path] = max(lengths.get(file.path, 0), file.nbytes)
    for step in trace.steps():
        if isinstance(step, Call) and step.op == Op.MMAP and step.file >= 0:
            path = trace.files[step.file].path
            if not lengths[path]:
                lengths[path] = step.offset + (step.nbytes + _PAGE_MASK & ~_PAGE_MASK)
    return lengths


class MappedFiles:
    """Opens files of a trace by their path; `close` ends it and removes what was made.

    `stand_ins` names those that were not to be had.
    """

    def __init__(self, trace: Trace, directory: Path) -> None:
        self.stand_ins: list[str] = []
        self.copies: dict[str, Path] = {}
        # A directory of its own: the one given may be the user's.
        self._directory = Path(tempfile.mkdtemp(prefix="fremap-replay-", dir=directory))
        self._lengths = _lengths(trace)
        self._descriptors: dict[str, int] = {}
        self._made: list[Path] = []

    def descriptor(self, path: str) -> int:
        """Return a descriptor for reading: of the file itself, or of what stands in for it."""
        if path not in self._descriptors:
            fd = self._open_real(path)
            self._descriptors[path] = self._open_stand_in(path) if fd is None else fd
        return self._descriptors[path]

    def copy(self, path: str) -> Path:
        """Return the copy of a file that the program shares and may write."""
        if path not in self.copies:
            copy = self._new(path)
            real = self._open_real(path)
            if real is None:
                self._note(path)
            else:
                with os.fdopen(real, "rb") as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target)
            os.truncate(copy, max(self._lengths[path], copy.stat().st_size))
            self.copies[path] = copy
        return self.copies[path]

    def _open_real(self, path: str) -> int | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
        if not Path(f"/proc/self/fd/{fd}").is_file() or os.fstat(fd).st_size != self._lengths[path]:
            os.close(fd)
            return None
        return fd

    def _open_stand_in(self, path: str) -> int:
        self._note(path)
        made = self._new(path)
        os.truncate(made, self._lengths[path])
        return os.open(made, os.O_RDONLY | os.O_CLOEXEC)

    def _note(self, path: str) -> None:
        if path not in self.stand_ins:
            self.stand_ins.append(path)

    def _new(self, path: str) -> Path:
        name = "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in Path(path).name)
        made = self._directory / f"{len(self._made)}-{name[:64]}"
        made.write_bytes(b"")
        self._made.append(made)
        return made

    def close(self) -> None:
        """Close all and remove what was made."""
        for fd in self._descriptors.values():
            # What lies on a mount whose daemon was killed is closed all the same.
            with contextlib.suppress(OSError):
                os.close(fd)
        self._descriptors.clear()
        for path in self._made:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._directory.rmdir()
