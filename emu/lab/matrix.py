"""The matrix: the thread asked whether only accounted, shared mappings are of interest.

Every kind of mapping - accounted or not, shared or private, writable or not, linear or not, mlocked or not -
goes through the same few steps on a small machine. Two counts tell whether page_mkclean and reclaim come by, and
an ordinary process tells what was lost.
"""

import errno
import mmap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from emu.lab.errors import BrokenExpectation
from emu.lab.ground import Ground
from emu.lab.lab import Lab, LabOptions
from emu.lab.progress import NoProgress, Progress
from emu.lab.rows import LOSING_STRATEGIES
from emu.lab.stamps import cyclic_permutation, page_words
from emu.lab.verify import read_generations
from emu.mapping import Mapping
from emu.process import Process
from emu.units import MIB

MATRIX_PAGES = 64
_FILE = "matrix.dat"


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A kind of mapping."""

    accounted: bool
    shared: bool
    writable: bool
    nonlinear: bool
    mlocked: bool

    @property
    def possible(self) -> bool:
        """Whether the system calls allow it: a private mapping cannot be remapped."""
        return self.shared or not self.nonlinear

    @property
    def can_dirty_the_file(self) -> bool:
        """Whether a store through it is meant for the file."""
        return self.shared and self.writable


@dataclass(frozen=True, slots=True)
class Cell:
    """What one kind of mapping did under one strategy; counts are None where the kind is impossible."""

    rmap: str
    kind: Kind
    mkclean_calls: int | None = None
    lost_pages: int | None = None
    reclaim_unmapped: int | None = None

    @property
    def broken(self) -> str:
        """What is not as it must be, in one line; empty if the cell stands."""
        kind = self.kind
        if self.mkclean_calls is None:
            return ""
        if bool(self.mkclean_calls) != (kind.accounted and kind.can_dirty_the_file):
            return f"mkclean was called {self.mkclean_calls} times"
        loses = self.rmap in LOSING_STRATEGIES and kind.accounted and kind.can_dirty_the_file and kind.nonlinear
        if self.lost_pages != (MATRIX_PAGES if loses else 0):
            return f"lost {self.lost_pages} pages"
        if self.reclaim_unmapped and (kind.mlocked or not kind.accounted):
            return f"reclaim unmapped {self.reclaim_unmapped} pages"
        return ""


def kinds() -> list[Kind]:
    """Return all 32 kinds, what was asked about in the thread first."""
    return [Kind(*flags) for flags in product((True, False), repeat=5)]


def _map(lab: Lab, kind: Kind) -> tuple[Process, Mapping, np.ndarray[Any, np.dtype[np.int64]]]:
    """Boot, map the file as `kind` says, touch every page; return also which page lies where."""
    path = lab.stamped_file(_FILE, MATRIX_PAGES)
    machine = lab.boot(ram=max(16 * MIB, 4 * MATRIX_PAGES * lab.page_size))
    process = machine.spawn()
    nbytes = MATRIX_PAGES * lab.page_size
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if kind.writable else 0)
    flags = mmap.MAP_SHARED if kind.shared else mmap.MAP_PRIVATE
    # Open for writing whatever the protection: a shared mapping of a file open for reading only is no VM_SHARED.
    with path.open("r+b") as file:
        mapping = process.mmap(file.fileno(), nbytes, flags=flags, prot=prot)
    order = np.arange(MATRIX_PAGES)
    if kind.nonlinear:
        order = cyclic_permutation(MATRIX_PAGES, lab.rng)
        for slot, pgoff in enumerate(order.tolist()):
            mapping.remap_file_pages(slot * lab.page_size, lab.page_size, pgoff)
    if kind.mlocked:
        process.mlock(mapping.vaddr, nbytes)
    for slot in range(MATRIX_PAGES):
        mapping[slot * lab.page_size]
    return process, mapping, order


def _store(lab: Lab, mapping: Mapping, order: Any, generation: int) -> None:
    for slot, stamp in enumerate(page_words(lab.seed, order, generation, lab.page_size)):
        at = slot * lab.page_size
        mapping[at : at + lab.page_size] = stamp.data.cast("B")


def _losses(lab: Lab, kind: Kind) -> tuple[int, int]:
    """Return how often mkclean was called and how many promised pages an ordinary read does not find."""
    _process, mapping, order = _map(lab, kind)
    if kind.writable:
        _store(lab, mapping, order, 1)
        lab.machine.sync()
        _store(lab, mapping, order, 2)
    mapping.flush()
    calls = lab.machine.vmstat.mkclean_calls
    if kind.accounted:
        lab.machine.power_off()
    else:
        lab.machine.shutdown()
    found = read_generations(lab.directory / _FILE, lab.seed, lab.page_size)
    promised = 2 if kind.can_dirty_the_file else 0
    strange = set(found.tolist()) - {promised, 1 if kind.can_dirty_the_file else 0}
    if len(found) != MATRIX_PAGES or strange:
        raise BrokenExpectation(f"{kind}: pages hold {sorted(strange)} where {promised} was promised")
    return calls, int((found != promised).sum())


def _reclaimed(lab: Lab, kind: Kind) -> int:
    """Return how many of the mapping's pages lose their PTE when every page is asked back."""
    process, mapping, order = _map(lab, kind)
    if kind.can_dirty_the_file:
        _store(lab, mapping, order, 1)
        lab.machine.sync()
    before = process.mm.file_rss
    kernel = lab.machine.kernel
    for _round in range(4):
        # A page that was used lately is passed over the first time.
        kernel.try_to_free_pages(kernel, MATRIX_PAGES)
    return before - process.mm.file_rss


def _refuses_remap(lab: Lab, kind: Kind) -> None:
    """Check that the system call refuses what cannot be."""
    try:
        _map(lab, kind)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return
        raise
    raise BrokenExpectation("remap_file_pages took a private mapping")


def run_cell(ground: Ground, rmap: str, kind: Kind, options: LabOptions) -> Cell:
    """Try one kind of mapping under one strategy; each question has a machine of its own."""

    def ask(question: Callable[[Lab, Kind], Any]) -> Any:
        with Lab(ground, options) as lab:
            return question(lab, kind)

    if not kind.possible:
        ask(_refuses_remap)
        return Cell(rmap, kind)
    calls, lost = ask(_losses)
    return Cell(rmap, kind, calls, lost, ask(_reclaimed))


def run_cells(
    rmaps: Sequence[str],
    format_name: str,
    seed: int,
    open_ground: Callable[[str], AbstractContextManager[Ground]],
    progress: Progress | None = None,
    *,
    keep: Callable[[Sequence[Cell]], None] = lambda _cells: None,
) -> list[Cell]:
    """Try every kind under every strategy; accounted ones on `disk`, the others on `ramfs`.

    After each kind `keep` is given the cells that are done.
    """
    cells: list[Cell] = []
    shown = progress or NoProgress()
    with shown.step("trying each kind of mapping", 32 * len(rmaps)) as advance:
        for accounted, caps in ((True, "disk"), (False, "ramfs")):
            with open_ground(caps) as ground:
                for kind in (kind for kind in kinds() if kind.accounted is accounted):
                    for rmap in rmaps:
                        options = LabOptions(rmap=rmap, format=format_name, caps=caps, seed=seed)
                        cells.append(run_cell(ground, rmap, kind, options))
                        advance(1)
                    keep(cells)
    return cells


def cells_as_json(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the cells as a JSON file holds them: the flags of the kind beside the counts."""
    rows = []
    for cell in cells:
        row = asdict(cell)
        rows.append({"rmap": row.pop("rmap"), **row.pop("kind"), **row, "possible": cell.kind.possible})
    return {"version": 1, "matrix": rows}
