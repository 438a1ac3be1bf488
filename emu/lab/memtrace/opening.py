"""Traces in any form: fremap's own file, lackey's text, either compressed by xz or gzip; and one made into another."""

import contextlib
import gzip
import io
import lzma
import mmap
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from emu.lab.errors import LabError
from emu.lab.memtrace.container import MAGIC, Trace, TraceWriter
from emu.lab.memtrace.syscalls import SystemCalls
from emu.lab.memtrace.text import TextReader, write_text
from emu.lab.memtrace.words import Call
from emu.lab.progress import Progress

_XZ, _GZIP = b"\xfd7zXZ\x00", b"\x1f\x8b"
_PIECE = 1 << 20
_COMPRESSED = {".xz": "xz", ".gz": "gzip"}
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 3, "pb": 3}]
"""Words of 8 bytes: positions within a word matter more than what stands before."""


def bundled_traces() -> dict[str, Path]:
    """Return the traces that come with fremap, by name."""
    places = [
        Path(__file__).resolve().parents[3] / "scripts" / "workloads" / "traces",
        Path(sys.prefix) / "share" / "fremap" / "workloads" / "traces",
    ]
    return {path.name.removesuffix(".ftr.xz"): path for place in places for path in sorted(place.glob("*.ftr.xz"))}


def find_trace(text: str) -> Path:
    """Turn a path, or the name of a bundled trace, into the file; LabError that names the bundled ones."""
    path = Path(text)
    if path.is_file():
        return path
    bundled = bundled_traces()
    if text in bundled:
        return bundled[text]
    known = f"; with fremap come {', '.join(bundled)}" if bundled else ""
    what = "no trace but a directory or device" if text and path.exists() else "no such trace"
    raise LabError(f"{text or repr(text)}: {what}{known}")


@contextmanager
def open_trace(path: Path, progress: Progress) -> Iterator[Trace]:
    """Open a trace in whatever form it is; text and what is compressed are unpacked into a temporary file first.

    Raises
    ------
    LabError
        If it is no trace; a malformed line is named. What ends early is good up to there, and `complete` is False.

    """
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error
    if head == MAGIC:
        yield Trace.open(path)
        return
    with tempfile.TemporaryFile(prefix="fremap-trace-") as unpacked:
        whole = _unpack(path, head, unpacked, progress)
        unpacked.flush()
        if not unpacked.tell():
            raise LabError(f"{path} is no trace: it is empty")
        raw = np.frombuffer(mmap.mmap(unpacked.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        trace = Trace(raw, str(path))
        trace.complete = trace.complete and whole
        yield trace


class _Unpacker:
    """Takes the bytes of a trace in any form and writes them in fremap's."""

    def __init__(self, path: Path, out: IO[bytes]) -> None:
        self._path = path
        self._out = out
        self._writer: TraceWriter | None = None
        self._reader: TextReader | None = None

    def feed(self, piece: bytes) -> None:
        """Take more bytes; the first tell whether it is text."""
        if self._reader is None and not self._out.tell() and not piece.startswith(MAGIC):
            self._writer = TraceWriter(cast("BinaryIO", self._out), {})
            self._reader = TextReader(str(self._path), self._writer, SystemCalls(self._writer, "/").line)
        if self._reader is None:
            self._out.write(piece)
        else:
            self._reader.feed(piece)

    def finish(self) -> bool:
        """End it; tell whether a text had its end."""
        if self._reader is None or self._writer is None:
            return True
        whole = self._reader.finish()
        if not self._writer.nr_accesses:
            raise LabError(
                f"{self._path} is no trace: no line of it is an access (I, L, S or M, then address,bytes)"
            )
        self._writer.finish()
        return whole


def _unpack(path: Path, head: bytes, out: IO[bytes], progress: Progress) -> bool:
    """Write a trace in fremap's form; tell whether the source had its end."""
    unpacker = _Unpacker(path, out)
    whole = True
    with path.open("rb") as file, progress.step(f"reading {path.name}", path.stat().st_size) as advance:
        seen = 0
        try:
            for piece in _pieces(file, head):
                unpacker.feed(piece)
                advance(file.tell() - seen)
                seen = file.tell()
        except EOFError:
            whole = False
        except (lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
            raise LabError(f"{path} is damaged: {error}") from None
    return unpacker.finish() and whole


def _pieces(file: BufferedReader, head: bytes) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked."""
    with contextlib.ExitStack() as stack:
        source: BufferedReader | lzma.LZMAFile | gzip.GzipFile = file
        if head.startswith(_XZ):
            source = stack.enter_context(lzma.LZMAFile(file))
        elif head.startswith(_GZIP):
            source = stack.enter_context(gzip.GzipFile(fileobj=file))
        # Not read(): at an early end that would drop what it has already.
        while piece := source.read1(_PIECE):
            yield piece


def convert(trace: Trace, path: Path, progress: Progress) -> str:
    """Write a trace in the form that the name asks for: text for .txt, else fremap's; compressed for .xz and .gz.

    Return in words which form it was.
    """
    packed = _COMPRESSED.get(path.suffix, "")
    as_text = (path.with_suffix("") if packed else path).suffix == ".txt"
    try:
        with contextlib.ExitStack() as stack:
            out = cast("BinaryIO", stack.enter_context(_open_for_writing(path, packed)))
            advance = stack.enter_context(progress.step(f"writing {path.name}", trace.nr_accesses))
            if as_text:
                text = io.TextIOWrapper(out, encoding="utf-8", errors="surrogateescape", newline="\n")
                write_text(trace, text, advance)
                text.flush()
                text.detach()
            else:
                _write(trace, out, advance)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error
    return ("lackey's text" if as_text else "fremap's form") + (f", compressed by {packed}" if packed else "")


def _open_for_writing(path: Path, packed: str) -> IO[bytes]:
    if packed == "xz":
        return cast("IO[bytes]", lzma.open(path, "wb", filters=_FILTERS))
    return cast("IO[bytes]", gzip.open(path, "wb")) if packed else path.open("wb")


def _write(trace: Trace, out: BinaryIO, advance: Callable[[int], None]) -> None:
    writer = TraceWriter(out, trace.info)
    for file in trace.files:
        writer.add_file(file)
    for step in trace.steps():
        if isinstance(step, Call):
            writer.call(step)
        else:
            writer.accesses(step)
            advance(len(step))
    writer.finish(**{name: value for name, value in trace.done.items() if name not in {"accesses", "calls"}})
