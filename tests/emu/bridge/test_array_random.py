"""Random numpy operations give the same on emulated memory as on a plain array, whatever the kernel does meanwhile."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emu.bridge import MappedArray
from emu.check import check
from emu.machine import Machine

PAGE = 4096
FILE_PAGES = 96
WINDOW_PAGES = 48
DTYPES = ["u1", "<i2", ">i4", "<f8", "<c16", "S5", [("a", "<u2"), ("b", ">f4", (2,)), ("c", "u1")]]
RMAPS = ["dirty_index", "scan"]

small = st.integers(-12, 12)
slices = st.builds(slice, st.none() | small, st.none() | small, st.none() | st.integers(-3, 3).filter(bool))


def outcome(do: Callable[[Any], Any], array: Any) -> tuple[Any, tuple[type, str] | None]:
    """Return what a program gets, or which error with which words."""
    try:
        return do(array), None
    except (IndexError, ValueError, TypeError) as error:
        return None, (type(error), str(error))


class Twins(RuleBasedStateMachine):
    """A window of a file, smaller than the file and larger than the memory of its machine, and plain arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(1)
        self.stack = ExitStack()

    @initialize(kind=st.sampled_from(DTYPES), seed=st.integers(0, 1 << 16), rmap=st.sampled_from(RMAPS))
    def boot(self, kind: Any, seed: int, rmap: str) -> None:
        self.rng = np.random.default_rng(seed)
        # Small numbers, so that arithmetic neither overflows nor meets a NaN, which equals nothing.
        self.content = self.rng.integers(0, 8, FILE_PAGES * PAGE, np.uint8)
        path = Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "file"
        path.write_bytes(self.content.tobytes())
        # 40 frames: less than the window has pages, and page tables take some.
        self.machine = Machine(ram=40 * PAGE, rmap=rmap, readahead=2, seed=seed)
        self.mapping = self.machine.spawn().mmap(path, WINDOW_PAGES * PAGE)
        self.shown = list(range(WINDOW_PAGES))
        self.dtype = np.dtype(kind)
        count = WINDOW_PAGES * PAGE // self.dtype.itemsize
        self.rows = 24
        self.shape = (self.rows, count // self.rows)
        self.mapped = MappedArray(self.mapping, self.dtype, self.shape)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.machine.shutdown()
        self.stack.close()

    def window(self) -> np.ndarray[Any, Any]:
        """Build the plain twin: what the window shows, as an array of its own."""
        pages = self.content.reshape(FILE_PAGES, PAGE)[self.shown].reshape(-1)
        return np.ndarray(self.shape, self.dtype, buffer=np.ascontiguousarray(pages).data)

    def keep(self, window: np.ndarray[Any, Any]) -> None:
        """Put a changed twin back into the file that it stands for."""
        flat = np.ascontiguousarray(self.content.reshape(FILE_PAGES, PAGE)[self.shown]).reshape(-1)
        flat[: window.nbytes] = window.reshape(-1).view(np.uint8)
        self.content.reshape(FILE_PAGES, PAGE)[self.shown] = flat.reshape(WINDOW_PAGES, PAGE)

    def both(self, do: Callable[[Any], Any]) -> None:
        """Do the same to both: same result, or same kind of error with the same words."""
        twin = self.window()
        expected, refused = outcome(do, twin)
        got, refused_here = outcome(do, self.mapped)
        assert refused_here == refused
        self.keep(twin)
        assert np.shape(got) == np.shape(expected)
        assert np.asarray(got).tobytes() == np.asarray(expected).tobytes()

    # -- what the kernel does meanwhile -----------------------------------------------------------------

    @rule(page=st.integers(0, WINDOW_PAGES - 1), pgoff=st.integers(0, FILE_PAGES - 1))
    def move_the_window(self, page: int, pgoff: int) -> None:
        if pgoff not in self.shown:  # two views of one page are another test's affair
            self.mapping.remap_file_pages(page * PAGE, PAGE, pgoff)
            self.shown[page] = pgoff

    @rule()
    def write_back(self) -> None:
        self.mapped[3:5].flush()

    @rule()
    def drop(self) -> None:
        self.machine.sync()
        self.machine.drop_caches()

    # -- what a program does ------------------------------------------------------------------------------

    @rule(rows=slices, columns=slices, turned=st.booleans())
    def read_a_view(self, rows: slice, columns: slice, turned: bool) -> None:
        self.both(lambda a: (a.T[columns, rows] if turned else a[rows, columns][..., ::-1]))

    @rule(row=st.integers(-30, 30), column=st.integers(-3000, 3000))
    def read_one(self, row: int, column: int) -> None:
        self.both(lambda a: a[row, column])
        self.both(lambda a: a[row])

    @rule(rows=st.lists(st.integers(-26, 26), max_size=5), column=small)
    def read_fancy(self, rows: list[int], column: int) -> None:
        self.both(lambda a: a[rows])
        self.both(lambda a: a[rows, column])
        self.both(lambda a: a[column, rows])
        self.both(lambda a: a[rows, ::500])
        self.both(lambda a: a[None, :3, rows, ...])

    @rule(rows=slices, columns=slices, seed=small)
    def store_a_view(self, rows: slice, columns: slice, seed: int) -> None:
        rng = np.random.default_rng(abs(seed))

        def store(a: Any) -> None:
            view = a[rows, columns]
            source = rng.integers(0, 8, self.dtype.itemsize * view.size, np.uint8).view(self.dtype)
            view[...] = source.reshape(view.shape)

        state = rng.bit_generator.state

        def again(a: Any) -> None:
            rng.bit_generator.state = state
            store(a)

        self.both(again)

    @rule(rows=st.lists(st.integers(-25, 25), min_size=1, max_size=4), from_row=st.integers(0, 23))
    def store_fancy(self, rows: list[int], from_row: int) -> None:
        def store(a: Any) -> None:
            a[rows, 7:99:3] = a[from_row, 7:99:3]

        self.both(store)

    @rule(shift=st.integers(1, 40))
    def overlap(self, shift: int) -> None:
        def move(a: Any) -> None:
            a.reshape(-1)[shift:] = a.reshape(-1)[:-shift]

        self.both(move)

    @precondition(lambda self: self.dtype.kind in "uif")
    @rule(limit=st.integers(0, 7), row=st.integers(0, 20))
    def mask(self, limit: int, row: int) -> None:
        def change(a: Any) -> Any:
            part = a[row : row + 3]
            part[part > limit] = limit
            return part[np.asarray(part) == limit]

        self.both(change)
        self.both(lambda a: a[np.arange(row + 1) > 2])

    @precondition(lambda self: self.dtype.str[1:] in {"u1", "i2", "i4", "f8", "c16"})
    @rule(row=st.integers(0, 22), step=st.integers(1, 4))
    def compute(self, row: int, step: int) -> None:
        def change(a: Any) -> Any:
            a[row, ::step] += a[row + 1, ::step]
            np.subtract(a[row], a[row + 1], out=a[row], where=np.arange(self.shape[1]) % 3 == 0)
            np.add.at(a[row], [1, 5, 1, -1], self.dtype.type(1))
            a[row] %= 8 if self.dtype.kind != "c" else self.dtype.type(1)
            return np.concatenate([a[row : row + 2], a[row : row + 1]])

        if self.dtype.kind == "c":
            self.both(lambda a: a[row, ::step] + a[row + 1, ::step])
        else:
            self.both(change)
        self.both(lambda a: a.sum(axis=0))
        self.both(lambda a: np.cumsum(a[row]))
        self.both(lambda a: np.where(a[row] == a[row + 1], a[row], 0))
        self.both(lambda a: np.dot(a[row : row + 2, :9], a[row + 1, :9]))

    @precondition(lambda self: self.dtype.names is None)
    @rule(row=st.integers(0, 23))
    def sort(self, row: int) -> None:
        self.both(lambda a: a[row].sort())
        self.both(lambda a: a[row].argmax() if self.dtype.kind != "S" else np.sort(a[row]))

    @precondition(lambda self: self.dtype.names is not None)
    @rule(row=st.integers(0, 23), value=st.integers(0, 7))
    def fields(self, row: int, value: int) -> None:
        def change(a: Any) -> Any:
            a["a"][row, ::7] = value
            a[["a", "c"]][row, 3] = (value, 1)
            a[["c", "b"]][1:3, 4] = (value, (2, 3))
            a["b"][:, row, 0] += 1
            return a["b"][row]

        self.both(change)
        self.both(lambda a: a[["c", "a"]][row]["c"])

    @invariant()
    def same(self) -> None:
        if hasattr(self, "machine"):
            row = int(self.rng.integers(self.rows))
            assert np.asarray(self.mapped[row]).tobytes() == self.window()[row].tobytes()
            assert np.asarray(self.mapped[:, :40]).tobytes() == self.window()[:, :40].tobytes()
            check(self.machine)


Twins.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
TestTwins = Twins.TestCase
