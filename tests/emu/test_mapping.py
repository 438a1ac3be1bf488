"""Mapping against Python's own mmap.mmap: the same operations, the same results, the same exception types."""

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.mapping import Mapping

NBYTES = 3 * mmap.PAGESIZE + 100


class ByteProcess:
    """A process whose memory is a bytearray at one address: what is tested is Mapping, not the machine."""

    def __init__(self, content: bytes) -> None:
        self.vaddr = 0x10000
        self.memory = bytearray(content)
        self.calls: list[tuple[Any, ...]] = []

    @property
    def i_size(self) -> int:
        return len(self.memory)

    def load(self, vaddr: int, nbytes: int) -> bytes:
        at = vaddr - self.vaddr
        assert 0 <= at <= at + nbytes <= len(self.memory)
        return bytes(self.memory[at : at + nbytes])

    def store(self, vaddr: int, data: Any) -> None:
        at = vaddr - self.vaddr
        assert 0 <= at <= at + len(data) <= len(self.memory)
        self.memory[at : at + len(data)] = data

    def load_byte(self, vaddr: int) -> int:
        return self.memory[vaddr - self.vaddr]

    def store_byte(self, vaddr: int, value: int) -> None:
        self.memory[vaddr - self.vaddr] = value

    def munmap(self, vaddr: int, nbytes: int) -> None:
        self.calls.append(("munmap", vaddr - self.vaddr, nbytes))

    def mremap(self, old_vaddr: int, old_nbytes: int, new_nbytes: int) -> int:
        self.calls.append(("mremap", old_vaddr - self.vaddr, old_nbytes, new_nbytes))
        self.vaddr += 0x100000
        return self.vaddr

    def msync(self, vaddr: int, nbytes: int, flags: int) -> None:
        if (vaddr - self.vaddr) % mmap.PAGESIZE:
            raise OSError(22, "Invalid argument")
        self.calls.append(("msync", vaddr - self.vaddr, nbytes, flags))

    def madvise(self, vaddr: int, nbytes: int, advice: int) -> None:
        if (vaddr - self.vaddr) % mmap.PAGESIZE:
            raise OSError(22, "Invalid argument")
        self.calls.append(("madvise", vaddr - self.vaddr, nbytes, advice))

    def remap_file_pages(self, vaddr: int, nbytes: int, prot: int, pgoff: int, flags: int) -> None:
        self.calls.append(("remap_file_pages", vaddr - self.vaddr, nbytes, prot, pgoff, flags))

    def ftruncate(self, file: Mapping, nbytes: int) -> None:
        assert file.file is self
        self.memory[:] = self.memory[:nbytes].ljust(nbytes, b"\0")


CONTENT = (b"one\ntwo\n\nthree" * 2000)[:NBYTES]
Pair = tuple[mmap.mmap, Mapping]


@pytest.fixture(scope="module")
def real_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "file"
    path.write_bytes(CONTENT)
    return path


def make_pair(path: Path, access: int = mmap.ACCESS_DEFAULT) -> Pair:
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDWR)
    try:
        real = mmap.mmap(fd, NBYTES, access=access)
    finally:
        os.close(fd)
    process = ByteProcess(CONTENT)
    return real, Mapping(process, process.vaddr, NBYTES, file=process, access=access)


@pytest.fixture
def pair(real_file: Path) -> Iterator[Pair]:
    real, ours = make_pair(real_file)
    yield real, ours
    real.close()


def outcome(action: Callable[[Any], Any], target: Any) -> Any:
    try:
        return action(target)
    except (ValueError, TypeError, IndexError, OverflowError, OSError) as error:
        return type(error)


NUMBERS = st.one_of(
    st.integers(-NBYTES - 3, NBYTES + 3), st.sampled_from([0, 1, -1, NBYTES, NBYTES - 1, mmap.PAGESIZE])
)
MAYBE = st.none() | NUMBERS
DATA = st.one_of(st.binary(max_size=40), st.sampled_from([b"one", b"\n", b"th", b"e\nt", CONTENT[:5000]]))
OPERATIONS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "read": (MAYBE,),
    "read_byte": (),
    "readline": (),
    "write": (DATA,),
    "write_byte": (st.integers(-2, 258),),
    "tell": (),
    "__getitem__": (NUMBERS | st.slices(NBYTES),),
    "find": (DATA, NUMBERS, NUMBERS),
    "rfind": (DATA, NUMBERS, NUMBERS),
    "move": (NUMBERS, NUMBERS, NUMBERS),
    "flush": (st.sampled_from([0, mmap.PAGESIZE, -1, 1]), NUMBERS),
    "size": (),
}


@st.composite
def operation(draw: st.DrawFn) -> Callable[[Any], Any]:
    kind = draw(st.sampled_from([*OPERATIONS, "set", "set_slice", "seek", "find_from_pos", "madvise"]))
    if kind == "set":
        index, value = draw(NUMBERS), draw(st.integers(-2, 258) | st.just(b"x"))
        return lambda m: m.__setitem__(index, value)
    if kind == "set_slice":
        part = draw(st.slices(NBYTES))
        right = len(range(*part.indices(NBYTES))) + draw(st.sampled_from([0, 0, 0, 1]))
        filler = (draw(st.binary(min_size=1, max_size=9)) * (right + 1))[:right]
        return lambda m: m.__setitem__(part, filler)
    if kind == "seek":
        where, whence = draw(NUMBERS), draw(st.sampled_from([0, 1, 2, 7]))
        # mmap.seek returned None before Python 3.13.
        return lambda m: (m.seek(where, whence), m.tell())[1]
    if kind == "find_from_pos":
        needle = draw(DATA)
        return lambda m: (m.find(needle), m.rfind(needle))
    if kind == "madvise":
        start, length = draw(st.sampled_from([0, mmap.PAGESIZE, 1, -1, NBYTES])), draw(NUMBERS)
        return lambda m: m.madvise(mmap.MADV_NORMAL, start, length)
    arguments = [draw(strategy) for strategy in OPERATIONS[kind]]
    return lambda m: getattr(m, kind)(*arguments)


@given(steps=st.lists(operation(), max_size=25), access=st.sampled_from([0, 1, 2, 3]))
@settings(max_examples=400, deadline=None)
def test_behaves_as_mmap_does(real_file: Path, steps: list[Callable[[Any], Any]], access: int) -> None:
    real, ours = make_pair(real_file, access)
    with real, ours:
        for step in steps:
            assert outcome(step, ours) == outcome(step, real)
            assert ours.tell() == real.tell()
        assert bytes(ours) == real[:]
        assert len(ours) == len(real)


@pytest.mark.parametrize(
    "action",
    [
        len,
        iter,
        bytes,
        lambda m: m[0],
        lambda m: m[:],
        lambda m: m.__setitem__(0, 1),
        lambda m: m.read(),
        lambda m: m.read_byte(),
        lambda m: m.readline(),
        lambda m: m.write(b""),
        lambda m: m.write_byte(1),
        lambda m: m.seek(0),
        lambda m: m.tell(),
        lambda m: m.find(b"x"),
        lambda m: m.rfind(b"x"),
        lambda m: m.move(0, 1, 1),
        lambda m: m.flush(),
        lambda m: m.madvise(mmap.MADV_NORMAL),
        lambda m: m.resize(10),
        lambda m: m.size(),
        lambda m: m.__enter__(),
    ],
)
def test_after_close_each_method_raises_as_mmap_does(pair: Pair, action: Callable[[Any], Any]) -> None:
    real, ours = pair
    for mapping in pair:
        mapping.close()
        mapping.close()
        assert mapping.closed
    # iter(mmap) fails at the first item, a generator too: ask for one.
    probe = (lambda m: next(iter(m))) if action is iter else action
    assert outcome(probe, real) is ValueError
    assert outcome(probe, ours) is ValueError


@pytest.mark.parametrize(
    "action",
    [
        lambda m: m["0"],
        lambda m: m.__setitem__("0", 1),
        lambda m: m.__setitem__(slice(0, 2), 7),
        lambda m: m.__setitem__(0, 1.5),
        lambda m: m.__delitem__(0),
        lambda m: m.__delitem__(slice(0, 1)),
        lambda m: m.write("text"),
        lambda m: m.write_byte(b"x"),
        lambda m: m.find("text"),
        lambda m: m.seek("0"),
        lambda m: m.resize(-1),
        lambda m: m.flush(mmap.PAGESIZE),
        lambda m: m.move(NBYTES - 5, 0, 6),
        lambda m: m.move(0, NBYTES - 5, 6),
    ],
)
def test_wrong_arguments_raise_as_mmap_does(pair: Pair, action: Callable[[Any], Any]) -> None:
    real, ours = pair
    expected = outcome(action, real)
    assert isinstance(expected, type)
    assert outcome(action, ours) is expected


def test_iteration_and_membership_are_those_of_mmap(pair: Pair) -> None:
    real, ours = pair
    theirs: Any = real  # typeshed says int, CPython yields bytes
    assert list(ours) == list(theirs)
    for item in (b"o", b"\0", 111, b"on"):
        assert (item in list(ours)) == (item in theirs)


def test_resize_is_that_of_mmap(real_file: Path) -> None:
    for newsize in (mmap.PAGESIZE, 2 * NBYTES):
        real, ours = make_pair(real_file)
        with real, ours:
            real.resize(newsize)
            ours.resize(newsize)
            assert len(ours) == len(real) == newsize
            assert ours.size() == real.size()
            assert ours[:] == real[:]
    for access in (mmap.ACCESS_READ, mmap.ACCESS_COPY):
        real, ours = make_pair(real_file, access)
        with real, ours:
            assert outcome(lambda m: m.resize(1), ours) is outcome(lambda m: m.resize(1), real) is TypeError


def test_system_calls_get_the_right_range(pair: Pair) -> None:
    _real, ours = pair
    process = ours.process
    assert isinstance(process, ByteProcess)
    ours.flush()
    ours.flush(4096, 4096)
    ours.madvise(mmap.MADV_DONTNEED, 4096)
    ours.remap_file_pages(4096, 8192, 2, flags=0x10000)
    ours.close()
    assert process.calls == [
        ("msync", 0, NBYTES, 4),
        ("msync", 4096, 4096, 4),
        ("madvise", 4096, NBYTES - 4096, mmap.MADV_DONTNEED),
        ("remap_file_pages", 4096, 8192, 0, 2, 0x10000),
        ("munmap", 0, NBYTES),
    ]


@pytest.mark.parametrize(("offset", "nbytes"), [(-4096, 4096), (0, NBYTES + 1), (NBYTES, 1)])
def test_remap_outside_the_mapping_is_refused(pair: Pair, offset: int, nbytes: int) -> None:
    with pytest.raises(ValueError, match="out of the mapping"):
        pair[1].remap_file_pages(offset, nbytes, 0)


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_flush_of_a_mapping_that_cannot_dirty_the_file_does_nothing(real_file: Path, access: int) -> None:
    real, ours = make_pair(real_file, access)
    real.close()
    ours.flush()
    assert ours.process.calls == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prot", "writable"), [(mmap.PROT_READ, False), (mmap.PROT_WRITE, True), (mmap.PROT_EXEC, False)]
)
def test_without_access_the_protection_decides(prot: int, writable: bool) -> None:
    process = ByteProcess(b"x")
    mapping = Mapping(process, process.vaddr, 1, prot=prot)
    if writable:
        mapping[0] = 7
        assert mapping[0] == 7
    else:
        with pytest.raises(TypeError, match="readonly"):
            mapping[0] = 7


def test_find_crosses_the_pieces_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.mapping_bytes._SEARCH_NBYTES", 7)
    text = bytes(range(100)) + bytes(range(100))
    process = ByteProcess(text)
    mapping = Mapping(process, process.vaddr, len(text))
    for start in range(0, 190, 3):
        for length in (0, 1, 2, 6, 7, 8, 20):
            needle = text[start : start + length]
            assert mapping.find(needle, 0) == text.find(needle)
            assert mapping.rfind(needle, 0) == text.rfind(needle)


def test_anonymous_memory_has_its_own_length() -> None:
    process = ByteProcess(bytes(10))
    mapping = Mapping(process, process.vaddr, 10)
    assert mapping.size() == 10
    assert "vaddr=0x10000" in repr(mapping)
    mapping.close()
    assert repr(mapping) == "<Mapping closed=True>"
