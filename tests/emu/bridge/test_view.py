"""A MappedView does what a memoryview does: the same operations on both, the same results, errors and bytes."""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emu.bridge import MappedView
from emu.machine import Machine
from emu.mapping import Mapping

PAGE = 4096
CONTENT = np.random.default_rng(3).integers(0, 256, 3 * PAGE, np.uint8).tobytes()
Pair = tuple[memoryview, MappedView]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(ram="4M") as machine:
        yield machine


@pytest.fixture
def mapping(machine: Machine, tmp_path: Path) -> Iterator[Mapping]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with machine.spawn().mmap(path, 0) as mapping:
        yield mapping


@pytest.fixture
def pair(mapping: Mapping) -> Pair:
    return memoryview(bytearray(CONTENT)), MappedView(mapping)


def outcome(do: Callable[[Any], Any], view: Any) -> Any:
    try:
        found = do(view)
    except Exception as error:  # noqa: BLE001 - whatever memoryview raises
        return type(error), str(error)
    if isinstance(found, (memoryview, MappedView)):
        return found.format, found.shape, found.strides, found.readonly, found.tobytes(), found.tolist()
    return type(found), found


def set_to(key: Any, value: Any) -> Callable[[Any], None]:
    def do(view: Any) -> None:
        view[key] = value

    return do


READS: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "item": lambda v: v[5],
    "last": lambda v: v[-1],
    "beyond": lambda v: v[3 * PAGE],
    "slice": lambda v: v[4000:5000],
    "backwards": lambda v: v[9000:100:-7],
    "slice of slice": lambda v: v[10:9000:3][5::2][1:9],
    "nothing": lambda v: v[5:5],
    "float index": lambda v: v[1.0],
    "tuple": lambda v: v[1, 2],
    "numbers": lambda v: v.cast("I")[1000:1010],
    "a number": lambda v: v[3:4099].cast("H")[7],
    "floats": lambda v: [str(x) for x in v.cast("d")[:3].tolist()],
    "characters": lambda v: v.cast("c")[4],
    "booleans": lambda v: v.cast("?")[:4].tolist(),
    "pointers": lambda v: v.cast("P")[600],
    "table": lambda v: v.cast("B", [3, 4096]),
    "table of numbers": lambda v: v.cast("i", (3, 1024))[2, 1000],
    "row of a table": lambda v: v.cast("B", [3, 4096])[1],
    "Fortran": lambda v: v.cast("B", [3, 4096]).tobytes("F"),
    "bad cast": lambda v: v[:10].cast("I"),
    "cast of steps": lambda v: v[::2].cast("I"),
    "cast to nonsense": lambda v: v.cast("nonsense"),
    "cast of nothing": lambda v: v[:0].cast("H"),
    "cast of a cast": lambda v: v.cast("I").cast("H"),
    "back": lambda v: v.cast("I").cast("B"),
    "scalar": lambda v: v[:1].cast("B", []).tolist(),
    "bytes": bytes,
    "hex": lambda v: v[4090:4100].hex("-", 2),
    "iteration": lambda v: list(v[4000:9000]),
    "iteration of a table": lambda v: list(v.cast("B", [3, 4096])),
    "in": lambda v: (7 in v[:9], 300 in v),
    "equal bytes": lambda v: (v == CONTENT, v[1:] == CONTENT, v == 3),
    "equal numbers": lambda v: v[:8].cast("H") == memoryview(CONTENT)[:8].cast("H"),
    "nbytes": lambda v: (v.cast("I").nbytes, v.itemsize, v.ndim, v.suboffsets, v[::2].contiguous, v.c_contiguous,
                         v.f_contiguous, v.readonly),
    "read-only": lambda v: v.toreadonly()[:5],
    "store to read-only": lambda v: set_to(3, 4)(v.toreadonly()),
    "delete": lambda v: v.__delitem__(3),
}  # fmt: skip

STORES: dict[str, Callable[[Any], None]] = {
    "item": set_to(4095, 9),
    "negative": set_to(-2, 9),
    "too large": set_to(3, 256),
    "not a number": set_to(3, b"x"),
    "beyond": set_to(3 * PAGE, 1),
    "slice": set_to(slice(4090, 4100), b"0123456789"),
    "steps": set_to(slice(100, 9000, 890), b"0123456789"),
    "backwards": set_to(slice(9, None, -1), b"0123456789"),
    "wrong length": set_to(slice(3, 5), b"0123456789"),
    "wrong format": set_to(slice(0, 8), memoryview(b"01234567").cast("H")),
    "nothing": set_to(slice(4, 4), b""),
    "a number for a slice": set_to(slice(4, 5), 5),
    "number": lambda v: set_to(1023, 1 << 31)(v.cast("I")),
    "float": lambda v: set_to(3, 1.5)(v.cast("d")),
    "truth": lambda v: set_to(3, 5)(v.cast("?")),
    "table": lambda v: set_to((1, 2), 77)(v.cast("B", [3, 4096])),
    "row": lambda v: set_to(1, 77)(v.cast("B", [3, 4096])),
    "rows": lambda v: set_to(slice(1, 2), 77)(v.cast("B", [3, 4096])),
    "itself": lambda v: set_to(slice(1, 5001), v[:5000])(v),
    "numbers": lambda v: set_to(slice(1, 3), v.cast("I")[7:9])(v.cast("I")),
}


@pytest.mark.parametrize("name", READS)
def test_reads(pair: Pair, name: str) -> None:
    real, ours = pair
    assert outcome(READS[name], ours) == outcome(READS[name], real)


@pytest.mark.parametrize("name", STORES)
def test_stores(pair: Pair, mapping: Mapping, name: str) -> None:
    real, ours = pair
    assert outcome(STORES[name], ours) == outcome(STORES[name], real)
    assert ours.tobytes() == real.tobytes() == bytes(mapping)


def test_released(pair: Pair) -> None:
    for view in pair:
        part = view[3:9]
        with view:
            pass
        view.release()
        assert part.tobytes() == CONTENT[3:9]
    real, ours = pair
    for do in (len, lambda v: v[0], set_to(0, 1), lambda v: v.tobytes(), lambda v: v.readonly, lambda v: v.cast("I")):
        assert outcome(do, ours) == outcome(do, real)
    assert ours == ours  # noqa: PLR0124 - a released view equals itself alone
    assert ours != CONTENT
    assert repr(ours) == "<released MappedView>"


def test_read_only_mapping_and_buffer(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with machine.spawn().mmap(path, 0, access=mmap.ACCESS_READ) as mapping:
        view = MappedView(mapping)
        assert view.readonly
        with pytest.raises(TypeError, match="read-only"):
            view[0] = 1
        assert bytes(view.cast("I").__buffer__(0)) == CONTENT
        with pytest.raises(BufferError, match="read-only"):
            view.__buffer__(1)


def test_a_store_reaches_the_file_and_faults_only_on_its_page(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with machine.spawn().mmap(path, 0) as mapping:
        before = machine.vmstat.pgfault
        view = MappedView(mapping)[2 * PAGE :].cast("I")
        view[1] = 0x01020304
        assert machine.vmstat.pgfault == before + 1
        view.flush()
        assert path.read_bytes()[2 * PAGE + 4 : 2 * PAGE + 8] == b"\4\3\2\1"
        mapping.remap_file_pages(2 * PAGE, PAGE, pgoff=0)
        assert view[0] == int.from_bytes(CONTENT[:4], "little")


def test_closed_mapping(pair: Pair, mapping: Mapping) -> None:
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        pair[1].tobytes()
