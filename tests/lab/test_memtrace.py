"""Traces of memory: text and binary say the same, errors name the line, what is cut keeps what it had."""

import gzip
import io
import json
import lzma
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.lab.errors import LabError
from emu.lab.memtrace.container import MAGIC, Trace, TraceWriter
from emu.lab.memtrace.lackey import parse_lines
from emu.lab.memtrace.opening import bundled_traces, convert, find_trace, open_trace
from emu.lab.memtrace.text import TextReader, write_text
from emu.lab.memtrace.words import (
    LETTERS,
    MAX_NBYTES,
    Call,
    File,
    Label,
    Op,
    U64Array,
    checked,
    kinds_of,
    nbytes_of,
    pack,
    vaddrs_of,
)
from emu.lab.progress import NoProgress

Access = tuple[int, int, int]
Item = Access | Call


def possible(call: Call) -> bool:
    try:
        checked(call, 2)
    except ValueError:
        return False
    return True


_vaddrs = st.integers(0, (1 << 47) - 1) | st.integers((1 << 64) - (1 << 47), (1 << 64) - 1)
_accesses = st.tuples(_vaddrs, st.integers(0, MAX_NBYTES), st.integers(0, 3))
_u64, _u32 = st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1)
_u63 = st.integers(0, (1 << 63) - 1)
_calls = st.builds(
    Call, st.sampled_from(Op), _u63, _u63, st.sampled_from(Label), _u32, _u32, st.integers(-1, 1), _u63, _u63, _u64
).filter(possible)
_items = st.lists(_accesses | _calls, max_size=60)
_FILES = [File("/usr/bin/sort", 118456), File('/tmp/a "b"\nc\udcff', 0)]
_INFO = {"command": ["sort", "x y"], "page_size": 4096}


def words_of(accesses: list[Access]) -> U64Array:
    vaddrs, nbytes, kinds = (np.array(column, np.uint64) for column in zip(*accesses, strict=True))
    return pack(vaddrs, nbytes, kinds)


def binary(items: list[Item]) -> bytes:
    out = io.BytesIO()
    writer = TraceWriter(out, _INFO)
    for file in _FILES:
        writer.add_file(file)
    for item in items:
        if isinstance(item, Call):
            writer.call(item)
        else:
            writer.accesses(words_of([item]))
    writer.finish()
    return out.getvalue()


def read(raw: bytes) -> Trace:
    return Trace(np.frombuffer(raw, np.uint8), "a trace")


def items_of(trace: Trace) -> list[Item]:
    found: list[Item] = []
    for step in trace.steps():
        if isinstance(step, Call):
            found.append(step)
        else:
            columns = vaddrs_of(step), nbytes_of(step), kinds_of(step)
            found += zip(*(column.tolist() for column in columns), strict=True)
    return found


def from_text(text: str, piece: int = 1 << 20) -> tuple[Trace, bool]:
    out = io.BytesIO()
    writer = TraceWriter(out, {})
    reader = TextReader("t.txt", writer)
    raw = text.encode("utf-8", "surrogateescape")
    for begin in range(0, len(raw), piece):
        reader.feed(raw[begin : begin + piece])
    whole = reader.finish()
    writer.finish()
    return read(out.getvalue()), whole


def as_text(trace: Trace) -> str:
    out = io.StringIO()
    write_text(trace, out, lambda _count: None)
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(_items, st.integers(1, 200))
def test_text_and_binary_say_the_same(items: list[Item], piece: int) -> None:
    trace = read(binary(items))
    assert items_of(trace) == items
    assert trace.files == _FILES
    assert trace.complete
    assert trace.nr_accesses + trace.nr_calls == len(items)
    again, whole = from_text(as_text(trace), piece)
    assert whole
    assert items_of(again) == items
    assert again.files == _FILES
    assert again.info == _INFO
    assert as_text(again) == as_text(trace)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_accesses, st.sampled_from(["08x", "x", "X", "016x"])), min_size=1, max_size=40))
def test_fast_and_slow_spellings_are_read_alike(lines: list[tuple[Access, str]]) -> None:
    text = "".join(
        ("I  " if kind == 0 else f" {LETTERS[kind]} ") + f"{vaddr:{spelling}},{nbytes}\n"
        for (vaddr, nbytes, kind), spelling in lines
    )
    trace, _ = from_text(text)
    assert items_of(trace) == [access for access, _ in lines]


def test_lackeys_own_lines_take_the_fast_way() -> None:
    text = b"I  0401ab70,3\n L 1fff000688,8\n S 1fff000680,16\n M 04033e06,1\nI  ffffffffff600000,9\n L 04033e06,512\n"
    words, good, ends = parse_lines(text)
    assert good.all()
    assert len(words) == text.count(b"\n") == len(ends)
    assert vaddrs_of(words).tolist() == [
        0x401AB70, 0x1FFF000688, 0x1FFF000680, 0x4033E06, 0xFFFFFFFFFF600000, 0x4033E06,
    ]  # fmt: skip
    assert nbytes_of(words).tolist() == [3, 8, 16, 1, 9, 512]


@pytest.mark.parametrize(
    "line",
    [
        "L  zzz,8", " L 0401ab7g,8", " L 0401ab70", " L 0401ab70,", " L 0401ab70,8x", " X 0401ab70,8", "I 0401ab70,3",
        " S 0401ab70,99999", " L 123456789abcdef01,8", " L 0800000000000000,8", "hello", "=fremap= call {",
        '=fremap= call {"op": "NOPE", "vaddr": 1, "nbytes": 1}',
        '=fremap= call {"op": "MMAP", "vaddr": -1, "nbytes": 1}',
        '=fremap= call {"op": "MMAP", "vaddr": 1, "nbytes": 1, "file": 7}', "=fremap= what {}", "=1234= x", "\x00\x01",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 3, 70_000])
def test_a_malformed_line_is_named(line: str, before: int) -> None:
    text = "I  0401ab70,3\n" * before + line + "\n L 0401ab70,8\n"
    shown = re.escape(repr(line if len(line) <= 60 else line[:60] + "..."))
    with pytest.raises(LabError, match=rf"^t\.txt, line {before + 1}: {shown} is no access"):
        from_text(text, 1 << 16)


def test_valgrinds_own_words_are_passed_over() -> None:
    trace, whole = from_text(
        "==12== Lackey, an example Valgrind tool\n==12== \nSB 04016b80\nI  0401ab70,3\n"
        "--12-- a\n**12** b\n\nSYSCALL[1,1](9) x\n"
        " --> [pre-fail] Failure(0x26)\n L 0401ab70,8\n==12== Exit code: 0\n"
    )
    assert whole
    assert trace.nr_accesses == 2


def test_a_text_that_was_cut_keeps_what_it_had() -> None:
    text = "I  0401ab70,3\n L 1fff000688,8\n S 1fff000680,8\n"
    for length in range(1, len(text)):
        try:
            trace, whole = from_text(text[:length])
        except LabError:
            pytest.fail(f"cut at {length}")
        assert whole == (text[length - 1] == "\n")
        assert trace.nr_accesses >= text[:length].count("\n")
    assert items_of(from_text(text)[0]) == [(0x401AB70, 3, 0), (0x1FFF000688, 8, 1), (0x1FFF000680, 8, 2)]


@pytest.mark.parametrize("end", ["whole", "cut"])
def test_a_binary_trace_that_was_cut_keeps_what_it_had(end: str) -> None:
    items: list[Item] = [(1 << 40, 8, 1), (3, 1, 2), Call(Op.MUNMAP, 4096, 4096), (5, 2, 3), (7, 16, 0)]
    raw = binary(items)
    lengths = range(16, len(raw)) if end == "cut" else [len(raw)]
    for length in lengths:
        trace = read(raw[:length])
        found = items_of(trace)
        assert found == items[: len(found)], length
        assert trace.complete == (length >= len(raw.rstrip(b"\0")))
    if end == "cut":
        assert found == items, "all but the last chunk is there"


def test_what_is_no_trace_is_one_line(tmp_path: Path) -> None:
    raw = binary([(1, 1, 1)])
    with pytest.raises(LabError, match="is a trace of version 99; this fremap reads version 1"):
        read(raw[:12] + b"\x63" + raw[13:])
    with pytest.raises(LabError, match="is no trace: it has 3 bytes"):
        read(raw[:3])
    with pytest.raises(LabError, match="is damaged: no chunk begins at byte 16"):
        read(raw[:16] + b"JUNK" + raw[20:])
    with pytest.raises(LabError, match="is damaged: the INFO at byte 32 is none"):
        read(raw[:32] + b"[" + raw[33:])
    files: dict[str, bytes] = {
        "is no trace: it is empty": b"",
        "line 1: '.x7fELF'": b"\x7fELF\n",
        "no line of it is an access": b"==1== hello\n",
        "is damaged: Corrupt": lzma.compress(raw)[:30] + b"garbage" + lzma.compress(raw)[37:],
        "line 1: 'AAA": b"A" * 3_000_000,
    }
    for words, content in files.items():
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(LabError, match=words), open_trace(path, NoProgress()):
            pass
    with pytest.raises(LabError, match="No such file"), open_trace(tmp_path / "missing", NoProgress()):
        pass


def test_a_damaged_call_is_one_line() -> None:
    raw = binary([Call(Op.MMAP, 0x10000, 4096, file=1)])
    at = raw.index(b"CALL") + 16
    for broken, words in (((99).to_bytes(2, "little"), "99"), (None, "names file 7")):
        if broken is None:
            damaged = raw[: at + 12] + (7).to_bytes(4, "little") + raw[at + 16 :]
        else:
            damaged = raw[:at] + broken + raw[at + 2 :]
        with pytest.raises(LabError, match=f"is damaged: a CALL near byte {at}.*{words}"):
            list(read(damaged).steps())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (Call(Op.MMAP, (1 << 64) - 4096, 8192), "ends beyond the last address"),
        (Call(Op.MREMAP, 0, 4096, new_vaddr=(1 << 64) - 4096, new_nbytes=8192), "ends beyond the last address"),
        (Call(Op.MREMAP, 0, 4096), "no length is left"),
        (Call(Op.COPY_IN, 0, 1 << 31), "no system call copies 2147483648 bytes"),
        (Call(Op.COPY_OUT, 0, 1 << 50), "no system call copies"),
    ],
)
def test_calls_that_no_program_makes_are_one_line(tmp_path: Path, call: Call, words: str) -> None:
    """They once cost terabytes, or were taken for a bug in fremap."""
    with pytest.raises(LabError, match=f"is damaged: a CALL near byte [0-9]+: .*{words}"):
        list(read(binary([call])).steps())
    path = tmp_path / "text.txt"
    own = json.dumps({"op": call.op.name, "vaddr": call.vaddr, "nbytes": call.nbytes} | {
        "new_vaddr": call.new_vaddr, "new_nbytes": call.new_nbytes})  # fmt: skip
    path.write_text(f" L 10,8\n=fremap= call {own}\n")
    with pytest.raises(LabError, match="line 2: '=fremap= call"), open_trace(path, NoProgress()):
        pass


def test_an_end_that_counts_otherwise_is_damage() -> None:
    raw = binary([(1, 1, 1), (2, 1, 1), Call(Op.MUNMAP, 0, 4096)])
    at = raw.index(b"ACCS") + 8
    with pytest.raises(LabError, match="is damaged: of 2 accesses that were written 1 are there"):
        read(raw[:at] + (15).to_bytes(8, "little") + raw[at + 8 :])
    with pytest.raises(LabError, match="is damaged: of 7 calls that were written 1 are there"):
        read(raw.replace(b'"calls": 1', b'"calls": 7'))


@pytest.mark.parametrize("suffix", [".ftr", ".ftr.xz", ".ftr.gz", ".txt", ".txt.xz", ".txt.gz"])
def test_every_form_can_be_made_and_read(tmp_path: Path, suffix: str) -> None:
    items: list[Item] = [(0x401AB70, 3, 0), Call(Op.MMAP, 0x10000, 4096, file=0, prot=3, flags=2), (0x10008, 8, 2)]
    source, target = tmp_path / "source.ftr", tmp_path / f"target{suffix}"
    source.write_bytes(binary(items))
    with open_trace(source, NoProgress()) as trace:
        said = convert(trace, target, NoProgress())
    assert ("text" in said) == (".txt" in suffix)
    heads = {".xz": b"\xfd7zXZ", ".gz": b"\x1f\x8b", ".ftr": MAGIC, ".txt": b"=fremap= info"}
    assert target.read_bytes().startswith(heads[target.suffix])
    with open_trace(target, NoProgress()) as trace:
        assert items_of(trace) == items
        assert trace.complete
        assert trace.info == _INFO


def test_a_compressed_trace_that_was_cut_keeps_what_it_had(tmp_path: Path) -> None:
    random = np.random.default_rng(1).integers(0, 1 << 40, 200_000, np.uint64)
    items = pack(random, 8, 1)
    out = io.BytesIO()
    writer = TraceWriter(out, {})
    writer.accesses(items)
    writer.finish()
    for packed in (lzma.compress(out.getvalue(), preset=0), gzip.compress(out.getvalue(), 1)):
        path = tmp_path / "cut"
        path.write_bytes(packed[: len(packed) // 2])
        with open_trace(path, NoProgress()) as trace:
            assert not trace.complete
            found = np.concatenate([step for step in trace.steps() if not isinstance(step, Call)])
        assert 10_000 < len(found) < len(items)
        assert (found == items[: len(found)]).all()


def test_bundled_traces_are_found_by_name() -> None:
    assert set(bundled_traces()) == {"sort", "gzip", "sqlite3"}
    assert find_trace("gzip").name == "gzip.ftr.xz"
    with pytest.raises(LabError, match=r"^nosuch: no such trace; with fremap come gzip, sort, sqlite3$"):
        find_trace("nosuch")
    for path in bundled_traces().values():
        assert path.stat().st_size < 800_000
        with open_trace(path, NoProgress()) as trace:
            assert trace.complete
            assert trace.nr_accesses > 1_000_000
            assert trace.nr_accesses == trace.done["accesses"]
            assert asdict(trace.files[0])["path"] == trace.info["program"]
