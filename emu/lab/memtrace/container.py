"""fremap's own file of a memory trace (.ftr): chunks in the order of what happened, memory-mapped when it is read.

    header      16 bytes: "FREMAP-TRACE" and the version (1) as a little-endian 32-bit number
    chunk       16 bytes: a tag of 4 letters, 4 zero bytes, the number of payload bytes (64 bits, little-endian);
                then the payload, and zeros up to a multiple of 8

    INFO        JSON: the command, the versions, page_size; the first chunk, and again where more is known
    FILE        JSON: path and nbytes of a mapped file; files are numbered in order of appearance, from 0
    CALL        one or more records of words.CALL_DTYPE, 56 bytes each
    ACCS        accesses, 8 bytes each: vaddr << 16 | nbytes << 2 | kind (0 instruction, 1 load, 2 store, 3 modify)
    DONE        JSON: how many accesses and calls there are; the last chunk

A file that ends earlier (its writer was killed, the disk was full) is good up to there, whole accesses of a cut chunk
included. All of it may be compressed with xz or gzip; it is unpacked when it is opened.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from emu.lab.errors import LabError
from emu.lab.memtrace.words import CALL_DTYPE, Call, File, U64Array, call_from_record, call_to_record, checked

MAGIC = b"FREMAP-TRACE"
VERSION = 1
_HEADER = struct.Struct("<12sI")
_CHUNK = struct.Struct("<4sIQ")
_BLOCK_WORDS = 1 << 17

Step = U64Array | Call
"""What a trace consists of: runs of accesses, and calls."""


class TraceWriter:
    """Writes a trace as it comes; accesses are gathered until a call comes between or there are many."""

    def __init__(self, file: BinaryIO, info: dict[str, Any]) -> None:
        self._file = file
        self._waiting: list[U64Array] = []
        self._nr_waiting = 0
        self._calls: list[npt.NDArray[Any]] = []
        self.nr_accesses = 0
        self.nr_calls = 0
        self.files: list[File] = []
        file.write(_HEADER.pack(MAGIC, VERSION))
        self.note(info)

    def note(self, info: dict[str, Any]) -> None:
        """Append what is known of the whole trace; what is said twice is taken from the last time."""
        self._flush_accesses()
        self._flush_calls()
        self._chunk(b"INFO", json.dumps(info).encode())

    def accesses(self, words: U64Array) -> None:
        """Append accesses."""
        if len(words):
            self._flush_calls()
            self._waiting.append(words)
            self._nr_waiting += len(words)
            self.nr_accesses += len(words)
            if self._nr_waiting >= _BLOCK_WORDS:
                self._flush_accesses()

    def call(self, call: Call) -> None:
        """Append a call; its file must have been added."""
        self._flush_accesses()
        self._calls.append(call_to_record(call))
        self.nr_calls += 1

    def add_file(self, file: File) -> int:
        """Append a file and return its number."""
        self._flush_accesses()
        self._flush_calls()
        self._chunk(b"FILE", json.dumps({"path": file.path, "nbytes": file.nbytes}).encode())
        self.files.append(file)
        return len(self.files) - 1

    def finish(self, **facts: object) -> None:
        """Write what waits, and the last chunk."""
        self._flush_accesses()
        self._flush_calls()
        known: dict[str, object] = {"accesses": self.nr_accesses, "calls": self.nr_calls}
        self._chunk(b"DONE", json.dumps(known | facts).encode())
        self._file.flush()

    def _flush_accesses(self) -> None:
        if self._waiting:
            words = np.concatenate(self._waiting).astype("<u8", copy=False)
            self._waiting, self._nr_waiting = [], 0
            self._chunk(b"ACCS", words.tobytes())

    def _flush_calls(self) -> None:
        if self._calls:
            records = np.concatenate(self._calls)
            self._calls = []
            self._chunk(b"CALL", records.tobytes())

    def _chunk(self, tag: bytes, payload: bytes) -> None:
        self._file.write(_CHUNK.pack(tag, 0, len(payload)) + payload + bytes(-len(payload) % 8))


class Trace:
    """A trace that is open for reading, as a context manager.

    `nr_accesses`, `nr_calls`: what is there; `complete`: whether the file has its end; `files`: by number; `info` and
    `done`: what the writer noted first and last.

    Raises
    ------
    LabError
        If it is no trace, or of a version that this fremap does not know, or damaged before its end.

    """

    def __init__(self, raw: npt.NDArray[np.uint8], name: str) -> None:
        self.name = name
        self._raw = raw
        self._chunks: list[tuple[bytes, int, int]] = []
        self.info: dict[str, Any] = {}
        self.done: dict[str, Any] = {}
        self.files: list[File] = []
        self.nr_accesses = 0
        self.nr_calls = 0
        self.complete = False
        if len(raw) < _HEADER.size:
            raise LabError(f"{name} is no trace: it has {len(raw)} bytes")
        magic, version = _HEADER.unpack(raw[: _HEADER.size].tobytes())
        if magic != MAGIC:
            raise LabError(f"{name} is no trace of fremap, and no lackey text")
        if version != VERSION:
            raise LabError(f"{name} is a trace of version {version}; this fremap reads version {VERSION}")
        self._scan()

    @classmethod
    def open(cls, path: Path) -> "Trace":
        """Map a trace file."""
        if not path.stat().st_size:
            raise LabError(f"{path} is no trace: it is empty")
        return cls(np.memmap(path, np.uint8, "r"), str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # The map goes with the array; others may still look at blocks of it.
        self._chunks = []

    def _scan(self) -> None:
        place, total = _HEADER.size, len(self._raw)
        while place + _CHUNK.size <= total:
            tag, _zero, nbytes = _CHUNK.unpack(self._raw[place : place + _CHUNK.size].tobytes())
            place += _CHUNK.size
            there = min(nbytes, total - place)
            if tag == b"ACCS":
                self.nr_accesses += there // 8
            elif tag == b"CALL":
                self.nr_calls += there // CALL_DTYPE.itemsize
            elif tag in {b"INFO", b"FILE", b"DONE"}:
                if there < nbytes:
                    return
                self._read_json(tag, place, nbytes)
            else:
                raise LabError(f"{self.name} is damaged: no chunk begins at byte {place - _CHUNK.size}")
            self._chunks.append((tag, place, there))
            if tag == b"DONE":
                self._check_counts()
                return
            place += nbytes + -nbytes % 8

    def _check_counts(self) -> None:
        """Compare what is there with what its end says: a damaged length may have passed over some of it."""
        for name, there in (("accesses", self.nr_accesses), ("calls", self.nr_calls)):
            noted = self.done.get(name, there)
            if noted != there:
                raise LabError(f"{self.name} is damaged: of {noted} {name} that were written {there} are there")

    def _read_json(self, tag: bytes, place: int, nbytes: int) -> None:
        try:
            content = json.loads(self._raw[place : place + nbytes].tobytes())
            if tag == b"FILE":
                self.files.append(File(str(content["path"]), int(content["nbytes"])))
            elif tag == b"INFO":
                self.info |= content
            else:
                self.done = dict(content)
                self.complete = True
        except (ValueError, TypeError, KeyError):
            raise LabError(f"{self.name} is damaged: the {tag.decode()} at byte {place} is none") from None

    def steps(self) -> Iterator[Step]:
        """Yield accesses (views of the file, at most a few MiB each) and calls, in order."""
        for tag, place, nbytes in self._chunks:
            if tag == b"ACCS":
                words = np.frombuffer(self._raw, "<u8", nbytes // 8, place)
                for begin in range(0, len(words), _BLOCK_WORDS):
                    yield words[begin : begin + _BLOCK_WORDS]
            elif tag == b"CALL":
                count = nbytes // CALL_DTYPE.itemsize
                for record in np.frombuffer(self._raw, CALL_DTYPE, count, place):
                    yield self._call(record, place)

    def _call(self, record: Any, place: int) -> Call:
        try:
            return checked(call_from_record(record), len(self.files))
        except ValueError as error:
            raise LabError(f"{self.name} is damaged: a CALL near byte {place}: {error}") from None
