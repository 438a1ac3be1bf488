"""The address space that a program starts with, as valgrind's debug log shows it (-d).

    --9905:1: aspacem <<< SHOW_SEGMENTS: Memory layout at client startup (34 segments)
    --9905:1: aspacem (1,49,7) /usr/bin/sort
    --9905:1: aspacem   2: file 000010b000-000011cfff   73728 r-x-- d=0xfe00 i=260879  o=12288   (1,49)
    --9905:1: aspacem  10: anon 0004035000-0004035fff    4096 rwx--
    --9905:1: aspacem  24: RSVN 1ffe801000-1ffeffefff 8380416 ----- SmUpper
    --9905:1: aspacem >>>

What belongs to the program is written small; what is written in capitals is valgrind's. The stack may grow into the
reservation (RSVN) below it, so that is mapped with it.

Source of the format: valgrind 3.19 coregrind/m_aspacemgr/aspacemgr-linux.c: show_nsegment(), VG_(am_show_nsegments)().
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from emu.lab.memtrace.syscalls import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, SystemCalls, file_size
from emu.lab.memtrace.words import Call, Label, Op

DEBUG_LINE = re.compile(rb"--\d+:\d+:")
_START = "SHOW_SEGMENTS: Memory layout at client startup"
_NAME = re.compile(r"\((\d+),\d+,\d+\) (/.*)")
_SEGMENT = re.compile(
    r"\s*\d+: (file|anon|RSVN) ([0-9a-f]+)-([0-9a-f]+) +\S+ ([r-])([w-])([x-])\S*"
    r"(?: .*o=(\d+) +\((\d+),\d+\))?(?: +(Sm\w+))?.*"
)


@dataclass(slots=True)
class _Segment:
    kind: str
    start: int
    end: int
    prot: int
    offset: int = 0
    name: int = -1
    shrinks: str = ""


@dataclass(slots=True)
class StartLayout:
    """Collects the lines of the first SHOW_SEGMENTS; `complete` once its end was seen."""

    complete: bool = False
    _begun: bool = False
    _names: dict[int, str] = field(default_factory=dict)
    _segments: list[_Segment] = field(default_factory=list)

    def line(self, raw: bytes) -> None:
        """Take one line of the debug log."""
        _, _, text = raw.decode("utf-8", "surrogateescape").partition(": aspacem ")
        if self.complete or not text:
            return
        if _START in text:
            self._begun = True
        elif self._begun and text.startswith(">>>"):
            self.complete = True
        elif self._begun:
            self._entry(text.rstrip("\n"))

    def _entry(self, text: str) -> None:
        name = _NAME.fullmatch(text)
        if name is not None:
            self._names[int(name[1])] = name[2]
            return
        found = _SEGMENT.fullmatch(text)
        if found is not None:
            kind, start, end, read, write, execute, offset, number, shrinks = found.groups()
            prot = (read == "r") | (write == "w") << 1 | (execute == "x") << 2
            segment = _Segment(kind, int(start, 16), int(end, 16) + 1, prot, int(offset or 0))
            segment.name, segment.shrinks = int(number or -1), shrinks or ""
            self._segments.append(segment)

    def calls(self, files: SystemCalls, program: str) -> Iterator[Call]:
        """Yield the mappings; `program` is the executable's path. Files get their numbers from `files`."""
        below: _Segment | None = None
        flags = MAP_PRIVATE | MAP_FIXED
        for segment in self._segments:
            start, nbytes = segment.start, segment.end - segment.start
            if segment.kind == "file":
                # Among them a few pages of valgrind's own text, which it lends to the program.
                path = self._names.get(segment.name, "")
                number = files.file_number(path, file_size(path))
                label = Label.PROGRAM if path == program else Label.NONE
                yield Call(Op.MMAP, start, nbytes, label, segment.prot, flags, number, offset=segment.offset)
            elif segment.kind == "anon":
                label = Label.HEAP
                if below is not None and below.shrinks == "SmUpper" and below.end == start:
                    start, nbytes, label = below.start, segment.end - below.start, Label.STACK
                yield Call(Op.MMAP, start, nbytes, label, segment.prot, flags | MAP_ANONYMOUS)
            below = segment
