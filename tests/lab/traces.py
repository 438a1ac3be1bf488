"""Small memory traces made by hand, and their replay and pricing, for the tests of replay."""

import io
import mmap

import numpy as np

from emu.lab.ground import plain_ground
from emu.lab.lab import Lab, LabOptions
from emu.lab.memtrace.container import Trace, TraceWriter
from emu.lab.memtrace.words import Call, File, Kind, U64Array, pack
from emu.lab.replay.faithful import replay
from emu.lab.replay.result import Replay, StrategyRow
from emu.lab.replay.rewired import price
from emu.lab.replay.survey import survey

Access = tuple[int, int, int]
PAGE = 4096
SHARED, PRIVATE, ANONYMOUS = mmap.MAP_SHARED, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS
RW = mmap.PROT_READ | mmap.PROT_WRITE
LOAD, STORE, INSTR, MODIFY = Kind.LOAD, Kind.STORE, Kind.INSTR, Kind.MODIFY
BASE = 0x40_0000


def nothing(_count: int) -> None:
    pass


def words_of(accesses: list[Access]) -> U64Array:
    vaddrs, nbytes, kinds = (np.array(column, np.uint64) for column in zip(*accesses, strict=True))
    return pack(vaddrs, nbytes, kinds)


def trace_of(steps: list[list[Access] | Call], files: tuple[File, ...] = ()) -> Trace:
    out = io.BytesIO()
    writer = TraceWriter(out, {"command": ["made"], "page_size": PAGE})
    for file in files:
        writer.add_file(file)
    for step in steps:
        if isinstance(step, Call):
            writer.call(step)
        else:
            writer.accesses(words_of(step))
    writer.finish()
    return Trace(np.frombuffer(out.getvalue(), np.uint8), "made")


def replayed(trace: Trace, *, anonymous: bool = False, fmt: str = "x86_64", ram: int | None = None) -> Replay:
    with plain_ground() as ground, Lab(ground, LabOptions(format=fmt, events=True, ram=ram)) as lab:
        shift = lab.page_size.bit_length() - 1
        outcome = replay(lab, trace, survey(trace, shift, nothing), anonymous=anonymous, advance=nothing)
        assert not list(ground.directory.iterdir()), "copies are removed"
        return outcome


def priced(trace: Trace, rmap: str, *, writebacks: int = 7, fmt: str = "x86_64", caps: str = "disk") -> StrategyRow:
    with plain_ground() as ground, Lab(ground, LabOptions(format=fmt, rmap=rmap, caps=caps)) as lab:
        shift = lab.page_size.bit_length() - 1
        return price(lab, trace, survey(trace, shift, nothing), writebacks=writebacks, advance=nothing)
