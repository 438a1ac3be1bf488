"""numpy's functions give the same, and leave the same bytes, on a MappedArray as on an array of its own."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emu.bridge import MappedArray
from emu.machine import Machine
from emu.mapping import Mapping

PAGE = 4096
WORDS = PAGE // 8
NR_PAGES = 8


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(ram="8M", readahead=0) as machine:
        yield machine


@pytest.fixture
def mapping(machine: Machine, tmp_path: Path) -> Iterator[Mapping]:
    path = tmp_path / "numbers"
    path.write_bytes(np.arange(NR_PAGES * WORDS, dtype="<f8").tobytes())
    process = machine.spawn()
    yield process.mmap(path, 0)
    process.exit()


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda a: np.sum(a, axis=1),
    "sum out": lambda a: np.sum(a, 0, None, a[0]),
    "mean out": lambda a: np.mean(a, axis=0, out=a[1]),
    "dot": lambda a: np.dot(a[:3, :4], a[:4, 3]),
    "dot out": lambda a: np.dot(a[:4, :4].copy(), a[:4, :4].copy(), out=np.empty((4, 4))),
    "matmul": lambda a: a[:, :8] @ a[:8, :8],
    "einsum": lambda a: np.einsum("ij,ij->i", a, a),
    "concatenate": lambda a: np.concatenate([a, a[:2]]),
    "stack": lambda a: np.stack((a[0], a[1])),
    "block": lambda a: np.block([[a[:2, :2], a[2:4, 2:4]], [a[4:6, :2], a[:2, :2]]]),
    "where": lambda a: np.where(a > 9, a, -a),
    "sort": lambda a: np.sort(a, axis=0),
    "argsort": lambda a: np.argsort(-a, axis=None),
    "unique": lambda a: np.unique(a % 7),
    "percentile": lambda a: np.percentile(a, [3, 50]),
    "clip": lambda a: np.clip(a, 3, 9, out=a),
    "clip method": lambda a: a.clip(3, 9, out=a),
    "cumsum": lambda a: np.cumsum(a, axis=1),
    "cumsum out": lambda a: np.cumsum(a, 1, None, a),
    "divmod": lambda a: np.divmod(a, 7),
    "modf out": lambda a: np.modf(a / 3, out=(a, None)),  # type: ignore[arg-type]
    "outer": lambda a: np.multiply.outer(a[0, :3], a[1, :2]),
    "accumulate": lambda a: np.maximum.accumulate(a, axis=1, out=a),
    "reduceat": lambda a: np.add.reduceat(a[0], [0, 4, 9]),
    "putmask": lambda a: np.putmask(a, a > 5, [1, 2, 3]),
    "place": lambda a: np.place(a, a > 5, [1, 2, 3]),
    "put": lambda a: np.put(a, [3, -1, 3], [7, 8, 9]),
    "put wrap": lambda a: a.put([3, 5000], [7, 8], "wrap"),
    "put_along_axis": lambda a: np.put_along_axis(a, np.zeros((8, 1), int), 5, axis=1),
    "fill_diagonal": lambda a: np.fill_diagonal(a, 3),
    "nan_to_num": lambda a: np.nan_to_num(a, copy=False),
    "copyto": lambda a: np.copyto(a[::2], a[1::2]),
    "reshape": lambda a: np.reshape(a, (-1, 4)),
    "reshape of a turned one": lambda a: np.reshape(a.T, -1),
    "ravel": lambda a: np.ravel(a, "F"),
    "rot90": np.rot90,
    "moveaxis": lambda a: np.moveaxis(a[None], 0, 2),
    "array_split": lambda a: np.array_split(a, 3, axis=1)[1],
    "real": np.real,
    "imag": np.imag,
    "shape": np.shape,
    "allclose": lambda a: np.allclose(a, a),
    "array_equal": lambda a: np.array_equal(a[0], a[1]),
    "pad": lambda a: np.pad(a, 1),
    "in": lambda a: (5.0 in a, -5.0 in a),
    "iteration": lambda a: [row.sum() for row in a],
    "partition": lambda a: a.partition(3, axis=0),
    "byteswap": lambda a: (a.byteswap(inplace=True), a)[1],
    "tolist": lambda a: a[:2, :3].tolist(),
    "flat": lambda a: (a.flat[5], a.flat[-9:-1:2], a.T.flat[[3, 4]], len(a.flat), list(a[:2, ::200].flat)),
    "store flat": lambda a: a.T.flat.__setitem__(slice(3, 900, 7), [1, 2]),
    "set flat": lambda a: a[1:3].__setattr__("flat", [5, 6, 7]),
    "unlike anything": lambda a: (a == "x", a != "x", a == None),  # noqa: E711 - that is the question
    "shares memory": lambda a: (
        np.shares_memory(a[:, ::2], a[:, 1::2]), np.may_share_memory(a[:, ::2], a[:, 1::2]),
        np.shares_memory(a[1], a[1:]), np.shares_memory(a, np.zeros(3)),
    ),
    "item": lambda a: (a.item(5), a.item(-1), a.item((1, 2)), a[:1, :1].item()),
    "item beyond": lambda a: a.item(99999),
    "scalar": lambda a: (float(a[0, :1].sum()), int(a[1, 1]), f"{a[0, 2]:.3f}", str(a)),
    "negative": lambda a: -a,
    "comparison": lambda a: a == a.T.T,
    "reflected": lambda a: 5 - a,
    "ndarray in place": lambda a: np.ones(a.shape).__iadd__(a),
    "add at": lambda a: np.add.at(np.zeros(4), [1, 1], a[0, :2]),
    "copy": lambda a: (copy.copy(a), copy.deepcopy(a), a.copy()),
    "index by itself": lambda a: a[a[0, :3].astype(int) % 8],
    "wrong shape": lambda a: a.__setitem__(slice(0, 2), np.ones(3)),
    "wrong cast": lambda a: np.add(a, 1j, out=a),
    "wrong axis": lambda a: np.sum(a, axis=5),
    "view": lambda a: a.view("<u2")[:, ::512],
    "bad view": lambda a: a[:, ::2].view("<u2"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(mapping: Mapping, name: str) -> None:
    ours = MappedArray(mapping, "<f8").reshape(NR_PAGES, WORDS)
    real = np.arange(NR_PAGES * WORDS, dtype="<f8").reshape(NR_PAGES, WORDS)
    try:
        expected, refused = FUNCTIONS[name](real), None
    except (ValueError, TypeError, IndexError) as error:
        expected, refused = None, error
    if refused is None:
        found = FUNCTIONS[name](ours)
        for one, other in zip(
            found if isinstance(found, tuple) else (found,),
            expected if isinstance(expected, tuple) else (expected,),
            strict=True,
        ):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    else:
        with pytest.raises(type(refused)) as caught:
            FUNCTIONS[name](ours)
        assert str(caught.value) == str(refused)
    np.testing.assert_array_equal(np.asarray(ours), real)


@pytest.mark.parametrize("order", ["C", "F"])
def test_strides_and_order(mapping: Mapping, order: Any) -> None:
    plain = np.frombuffer(bytes(mapping), np.uint8)
    cases: list[tuple[str, tuple[int, ...], int, Any]] = [
        ("<u2", (5, 7), 3, None), (">u4", (3, 4, 5), 1, None), ("<u8", (6, 4), 8, (64, 16)),
    ]  # fmt: skip
    for kind, shape, offset, strides in cases:
        real = np.ndarray(shape, kind, plain.data, offset, strides, order)
        ours = MappedArray(mapping, kind, shape, offset, strides, order)
        assert (ours.strides, ours.nbytes, ours.ndim, ours.itemsize) == (
            real.strides, real.nbytes, real.ndim, real.itemsize,
        )  # fmt: skip
        np.testing.assert_array_equal(np.asarray(ours), real)
        np.testing.assert_array_equal(np.asarray(ours[..., ::-2].T), real[..., ::-2].T)
        assert ours.vaddr == mapping.vaddr + offset
