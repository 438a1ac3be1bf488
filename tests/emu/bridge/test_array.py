"""What a MappedArray touches and refuses; numpy's functions on it, and random operations, are other tests'."""

import mmap
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emu.bridge import MappedArray
from emu.errors import BusError, SegmentationFault
from emu.host import HostProcess
from emu.machine import Machine
from emu.mapping import Mapping
from emu.process import Process

PAGE = 4096
WORDS = PAGE // 8
NR_PAGES = 8


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(ram="8M", readahead=0) as machine:
        yield machine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    path.write_bytes(np.arange(NR_PAGES * WORDS, dtype="<f8").tobytes())
    return path


@pytest.fixture
def process(machine: Machine) -> Iterator[Process]:
    process = machine.spawn()
    yield process
    process.exit()


@pytest.fixture
def mapping(process: Process, path: Path) -> Mapping:
    return process.mmap(path, 0)


@pytest.fixture
def mapped(mapping: Mapping) -> MappedArray:
    return MappedArray(mapping, "<f8")


def faults(machine: Machine, do: Callable[[], object]) -> int:
    before = machine.vmstat.pgfault
    do()
    return machine.vmstat.pgfault - before


# -- what is touched ---------------------------------------------------------------------------------------


def test_views_move_nothing(machine: Machine, mapped: MappedArray) -> None:
    def look() -> None:
        table = mapped.reshape(NR_PAGES, WORDS)
        for view in (table[3], table.T, mapped[::-1], mapped.view("<i4"), np.transpose(table), np.flip(table),
                     np.split(table, 2)[0], table[:, None], np.broadcast_to(mapped, (3, mapped.size)),
                     table.swapaxes(0, 1), table.diagonal(), mapped.ravel()):  # fmt: skip
            assert isinstance(view, MappedArray)

    assert faults(machine, look) == 0


def test_only_the_pages_of_what_is_indexed_fault(machine: Machine, mapped: MappedArray) -> None:
    table = mapped.reshape(NR_PAGES, WORDS)
    assert faults(machine, lambda: table[3, 7]) == 1
    assert faults(machine, table[3].sum) == 0
    assert faults(machine, lambda: table[[1, 5], 9]) == 2
    assert faults(machine, lambda: np.asarray(table[6:, :4])) == 2


def test_where_stores_nowhere_else(machine: Machine, mapped: MappedArray) -> None:
    table = mapped.reshape(NR_PAGES, WORDS)
    table.sum()
    mask = np.zeros(table.shape, bool)
    mask[2, 5] = mask[4, 1] = True
    assert faults(machine, lambda: np.add(table, 1, out=table, where=mask)) == 2  # type: ignore[call-overload]
    assert faults(machine, lambda: np.copyto(table, 0, where=np.arange(NR_PAGES)[:, None] == 7)) == 1  # type: ignore[arg-type]
    assert faults(machine, lambda: np.add.at(table, (5, [1, 1, 2]), 1)) == 1
    assert faults(machine, lambda: np.put(mapped, [0, 1], 9)) == 1  # type: ignore[arg-type]
    assert table[5, 1] == 5 * WORDS + 3
    assert table[2, 5] == 2 * WORDS + 6


def test_batches_not_elements(process: Process, mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("run", "load", "store", "load_byte", "store_byte", "load_word", "store_word"):
        whole = getattr(process, name)

        def counted(*args: Any, _name: str = name, _whole: Any = whole) -> Any:
            calls.append(_name)
            return _whole(*args)

        monkeypatch.setattr(process, name, counted)
    mapped = MappedArray(mapping, "<f8").reshape(64, 64)
    mapped += 1
    mapped[:, 3] = mapped[3]
    mapped[mapped > 9] = 7
    np.sort(mapped.T)
    mapped[::3, ::-5].sum()
    assert len(calls) < 16


def test_memory_smaller_than_the_array(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(np.arange(256 * WORDS, dtype="<f8").tobytes())
    with Machine(ram=48 * PAGE, io_depth=0) as machine, machine.spawn().mmap(path, 0) as mapping:
        mapped = MappedArray(mapping, "<f8")
        mapped *= 2
        mapped[::-1][:9] = 5
        assert mapped.sum() == np.arange(256 * WORDS).sum() * 2 - sum(range(256 * WORDS - 9, 256 * WORDS)) * 2 + 45
        assert machine.vmstat.pgmajfault > 256
    found = np.frombuffer(path.read_bytes(), "<f8")
    assert found[1000] == 2000
    assert found[-1] == 5


def test_the_window_moves_under_an_array(mapping: Mapping, path: Path) -> None:
    mapped = MappedArray(mapping, "<f8", (WORDS,), offset=PAGE)
    assert mapped[0] == WORDS
    mapping.remap_file_pages(PAGE, PAGE, pgoff=6)
    assert mapped[0] == 6 * WORDS
    mapped[1:3] = -1
    mapped.flush()
    assert np.frombuffer(path.read_bytes(), "<f8")[6 * WORDS : 6 * WORDS + 3].tolist() == [6 * WORDS, -1, -1]


def test_on_the_real_kernel(path: Path) -> None:
    with HostProcess() as host, host.mmap(path, 0) as mapping:
        mapped = MappedArray(mapping, "<f8").reshape(NR_PAGES, WORDS)
        mapped[:, 2] += mapped[:, 1]
        mapped.flush()
    found = np.frombuffer(path.read_bytes(), "<f8").reshape(NR_PAGES, WORDS)
    assert found[:, 2].tolist() == [2 * row * WORDS + 3 for row in range(NR_PAGES)]


# -- what is refused ---------------------------------------------------------------------------------------


def test_bounds_are_numpys(mapping: Mapping) -> None:
    plain = np.zeros(NR_PAGES * PAGE, np.uint8)
    for arguments in (("<f8", 99999), ("<f8", (4, 4), 0, (PAGE * 4, 8)), ("<f8", 9, NR_PAGES * PAGE - 9)):
        kind, shape, *rest = arguments
        with pytest.raises((ValueError, TypeError)) as real:
            np.ndarray(shape, kind, plain.data, *rest)
        with pytest.raises(real.type) as ours:
            MappedArray(mapping, *arguments)
        assert str(ours.value) == str(real.value)
    for key in (NR_PAGES * PAGE, (0, 0), "field", 1.5, [NR_PAGES * PAGE], np.ones(3, bool)):
        with pytest.raises((IndexError, ValueError)) as real:
            plain[key]  # type: ignore[index]
        with pytest.raises(real.type) as ours:
            MappedArray(mapping)[key]
        assert str(ours.value) == str(real.value)


def test_no_python_objects(mapping: Mapping) -> None:
    with pytest.raises(ValueError, match="objects"):
        MappedArray(mapping, object)
    with pytest.raises(TypeError, match="objects"):
        MappedArray(mapping).view(object)
    with pytest.raises(ValueError, match="offset"):
        MappedArray(mapping, offset=-1)
    with pytest.raises(ValueError, match="offset"):
        MappedArray(mapping, "<f8", 4, NR_PAGES * PAGE + 8)
    with pytest.raises(ValueError, match="give a shape"):
        MappedArray(mapping, "S0")


def test_read_only(process: Process, path: Path) -> None:
    mapped = MappedArray(process.mmap(path, 0, access=mmap.ACCESS_READ), "<f8")
    assert not mapped.writable
    for store in (lambda a: a.__setitem__(0, 1), lambda a: a.__iadd__(1), lambda a: a.fill(0), lambda a: a.sort(),
                  lambda a: np.add.at(a, [1], 1), lambda a: np.copyto(a, 1), lambda a: np.sum(a[None], 0, out=a),
                  lambda a: a.__setitem__([1, 2], 1)):  # fmt: skip
        with pytest.raises(ValueError, match="assignment destination is read-only"):
            store(mapped)
    assert mapped[1] == 1


def test_repeated_elements_and_the_diagonal_are_read_only(mapped: MappedArray) -> None:
    for view in (np.broadcast_to(mapped[3:4], (5, 5)), mapped.reshape(64, 64).diagonal()):
        assert isinstance(view, MappedArray)
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
    assert np.asarray(np.broadcast_to(mapped[:3], (4, 3))).tolist() == [[0, 1, 2]] * 4


def test_signals_reach_the_program(process: Process, mapping: Mapping) -> None:
    mapped = MappedArray(mapping, "<f8")
    process.mprotect(mapping.vaddr + PAGE, PAGE, mmap.PROT_READ)
    with pytest.raises(SegmentationFault):
        mapped[:] = 0
    assert mapped[WORDS - 1] == 0
    assert mapped[WORDS] == WORDS
    process.ftruncate(mapping, PAGE)
    with pytest.raises(BusError):
        mapped.sum()


def test_closed_and_resized(mapping: Mapping, mapped: MappedArray) -> None:
    last, first = mapped[-3:], mapped[:5]
    mapping.resize(2 * PAGE)
    with pytest.raises(ValueError, match=r"resized to 8192 bytes, and this view ends at byte 32768"):
        last.sum()
    assert first.sum() == 10
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        first.sum()
    assert repr(first) == "<MappedArray shape=(5,), dtype=float64, closed>"


def test_a_structures_element_is_a_read_only_copy(mapping: Mapping) -> None:
    mapped = MappedArray(mapping, [("key", "<u4"), ("value", "<f4")])
    mapped["key"][3] = 77
    mapped[4] = (5, 2.5)
    assert mapped[3]["key"] == 77
    assert mapped[4].tolist() == (5, 2.5)
    with pytest.raises(ValueError, match="read-only"):
        mapped[3]["key"] = 1


def test_arrays_of_one_mapping_share_memory(process: Process, mapping: Mapping, path: Path) -> None:
    low, high = MappedArray(mapping, "<f8", 100), MappedArray(mapping, "u1", 100, offset=80)
    assert np.shares_memory(low, high)
    assert not np.shares_memory(low, MappedArray(mapping, offset=800))
    assert not np.shares_memory(low, MappedArray(process.mmap(path, 0), "<f8", 100))


def test_what_lies_between_fields_stays(mapping: Mapping) -> None:
    mapped = MappedArray(mapping, [("a", "u1"), ("between", "<u2"), ("c", "u1")], (512, 4))
    plain = np.asarray(mapped)
    for array in (mapped, plain):
        array[["a", "c"]][3:9, ::2] = (1, 2)
        array[["c", "a"]][5, 1] = (5, 6)
    # Here numpy itself clears what lies between.
    mapped[["a", "c"]][[1, 1, 2], 3] = (3, 4)
    for name, value in (("a", 3), ("c", 4)):
        plain[name][[1, 2], 3] = value
    assert np.asarray(mapped).tobytes() == plain.tobytes()


def test_what_is_no_array(mapped: MappedArray) -> None:
    with pytest.raises(ValueError, match="can only be copied"):
        np.asarray(mapped, copy=False)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(mapped)
    with pytest.raises(AttributeError, match=r"np\.asarray"):
        _ = mapped.ctypes
    with pytest.raises(TypeError, match="unhashable"):
        hash(mapped)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(mapped)
    with pytest.raises(TypeError, match="imaginary"):
        _ = mapped.imag
