"""Traces as text: lackey's accesses, and lines of fremap's own for what lackey's text cannot say.

    =fremap= info {"command": ["sort", "x"]}
    =fremap= file {"path": "/usr/bin/sort", "nbytes": 110600}
    =fremap= call {"op": "MMAP", "vaddr": 1081344, ...}

valgrind's own words (lines that begin with ==1234==, --1234-- or **1234**), lackey's superblocks (SB 04016b80) and
empty lines are passed over; valgrind's system calls (SYSCALL[...], with --trace-syscalls=yes) go to `system_call`.
Every other line is an error that names its number.
"""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, TextIO

from emu.lab.errors import LabError
from emu.lab.memtrace.container import Trace, TraceWriter
from emu.lab.memtrace.lackey import format_words, iterate_text
from emu.lab.memtrace.words import Call, File, Label, Op, checked

OWN = b"=fremap= "
_BLOCK_NBYTES = 1 << 20
_VALGRIND = re.compile(rb"(==|--|\*\*)\d+\1.*|SB [0-9a-f]+")
_SYSTEM_CALL = (b"SYSCALL[", b" -->")
_SHOWN = 60

SystemCall = Callable[[bytes], None]


class TextReader:
    """Turns text into a trace, piece by piece; lines may be cut anywhere between two pieces.

    `system_call` gets the lines of --trace-syscalls.
    """

    def __init__(self, name: str, writer: TraceWriter, system_call: SystemCall | None = None) -> None:
        self._name = name
        self._writer = writer
        self._system_call = system_call
        self._rest = b""
        self._line = 1

    def feed(self, piece: bytes) -> None:
        """Take more text."""
        text = self._rest + piece
        end = text.rfind(b"\n") + 1
        self._rest = text[end:]
        if end:
            self._whole_lines(text[:end])
        if len(self._rest) > _BLOCK_NBYTES:
            raise self._malformed(self._line, self._rest)

    def finish(self) -> bool:
        """End the text; tell whether its last line had its end. Without it, it is kept if it is an access."""
        rest, self._rest = self._rest, b""
        if not rest:
            return True
        with contextlib.suppress(LabError):
            self._whole_lines(rest + b"\n")
        return False

    def _whole_lines(self, text: bytes) -> None:
        for item in iterate_text(text, self._line):
            if isinstance(item, tuple):
                self._other(*item)
            else:
                self._writer.accesses(item)
        self._line += text.count(b"\n")

    def _other(self, number: int, line: bytes) -> None:
        if line.startswith(_SYSTEM_CALL):
            if self._system_call is not None:
                self._system_call(line)
        elif line.startswith(OWN):
            try:
                self._own(line[len(OWN) :])
            except (ValueError, TypeError, KeyError):
                raise self._malformed(number, line) from None
        elif line.strip() and not _VALGRIND.match(line):
            raise self._malformed(number, line)

    def _malformed(self, number: int, line: bytes) -> LabError:
        shown = line[:_SHOWN].decode("utf-8", "replace") + ("..." if len(line) > _SHOWN else "")
        return LabError(f"{self._name}, line {number}: {shown!r} is no access (I, L, S or M, then address,bytes)")

    def _own(self, line: bytes) -> None:
        what, _, rest = line.partition(b" ")
        content = json.loads(rest)
        if what == b"info":
            self._writer.note(dict(content))
        elif what == b"file":
            self._writer.add_file(File(str(content["path"]), int(content["nbytes"])))
        elif what == b"call":
            self._writer.call(call_from_json(content, len(self._writer.files)))
        else:
            raise ValueError(what)


def call_from_json(content: dict[str, Any], nr_files: int) -> Call:
    """Return the call; ValueError, KeyError or TypeError if it is none, or names a file that was not named before."""
    named = {name: int(value) for name, value in content.items() if name not in {"op", "label"}}
    call = Call(op=Op[content["op"]], label=Label[content.get("label", "NONE")], **named)
    values = [getattr(call, field.name) for field in fields(Call) if field.name != "file"]
    if not all(0 <= value < 1 << 64 for value in values) or max(call.prot, call.flags) >> 32:
        raise ValueError(content)
    return checked(call, nr_files)


def call_to_json(call: Call) -> dict[str, Any]:
    """Return a call as JSON's types, without what has its default."""
    plain = Call(call.op, call.vaddr, call.nbytes)
    differing = {name: value for name, value in asdict(call).items() if value != getattr(plain, name)}
    found: dict[str, Any] = {"op": call.op.name, "vaddr": call.vaddr, "nbytes": call.nbytes} | differing
    if "label" in found:
        found["label"] = call.label.name
    return found


def write_text(trace: Trace, out: TextIO, advance: Callable[[int], None]) -> None:
    """Write a trace as text. `advance` is called with accesses written."""
    own = OWN.decode()
    out.write(f"{own}info {json.dumps(trace.info)}\n")
    out.writelines(f"{own}file {json.dumps(asdict(file))}\n" for file in trace.files)
    for step in trace.steps():
        if isinstance(step, Call):
            out.write(f"{own}call {json.dumps(call_to_json(step))}\n")
            continue
        out.write(format_words(step))
        advance(len(step))
