"""One machine with everything at once, on every page size: shared, nonlinear, private and anonymous memory, up to four
CPUs, lazy or not, swap, both fault paths; random calls of several processes against a naive model.

The other state machines are deeper, with pages of 4 KiB and two CPUs; this one is wide. Each page has one word.
"""

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from emu.check import check
from emu.errors import BusError, SegmentationFault
from emu.hw.pte import get_format
from emu.machine import Machine
from emu.mm.mmap import MAP_NONBLOCK
from emu.mm.sched import boundary
from emu.mm.truncate import invalidate_inode_pages2
from emu.mm_types.clock import VirtualClock
from emu.mm_types.vma import VM_LOCKED
from emu.process import Process
from tests.emu.mm.helpers import fails_with

FORMATS = ("i386", "sv39", "x86_64_la57", "arm64_16k", "arm64_64k")
STRATEGIES = ("scan", "pte_chain", "slot_chain", "range_tree", "shadow", "linear_vmas", "dirty_index")
RO, RW = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
NR_PAGES = 24
MAX_PAGES, MAX_LOCKED, MAX_PROCESSES = 120, 12, 4
NR_STEPS = 80
FLAGS = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE, "anonymous": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


@dataclass
class Cell:
    """A virtual page: what it maps, and, if that is a copy of its own, the word there."""

    kind: str
    pgoff: int
    own: int | None
    writable: bool = True


@dataclass
class Running:
    """A process and what each of its virtual pages must show."""

    process: Process
    cells: dict[int, Cell]


class Everything:
    """A machine and the model of it; each method named in STEPS does one thing to both."""

    def __init__(self, directory: Path, fmt: str, seed: int) -> None:
        self.random = Random(seed)
        self.page = get_format(fmt).page_size
        self.words = [1000 + pgoff for pgoff in range(NR_PAGES)]
        self.size = NR_PAGES
        self.path = directory / "file"
        self.path.write_bytes(b"".join(word.to_bytes(8, "little").ljust(self.page, b"\0") for word in self.words))
        self.fd = os.open(self.path, os.O_RDWR)
        self.clock = VirtualClock()
        pick = self.random.choice
        self.cpus = pick((1, 2, 4))
        self.machine = Machine(
            fmt, ram=pick((120, 300)) * self.page, rmap=pick(STRATEGIES), cpus=self.cpus, lazy_tlb=pick((False, True)),
            plain_caps=pick(("disk", "disk", "disk,stable_writes", "ramfs")), fault_path=pick(("merged", "legacy")),
            swap=64 * self.page, io_depth=pick((0, 2)), clock=self.clock, readahead=pick((0, 8)),
            swappiness=pick((0, 60, 100)),
        )  # fmt: skip
        self.kernel = self.machine.kernel
        self.running = [Running(self.machine.spawn(), {})]
        self.counter = 0

    def step(self) -> None:
        self.kernel.cpu = self.random.randrange(self.cpus)
        where = self.random.choice(self.running)
        if not where.cells:
            self.map_some(where)
        self.random.choice(STEPS)(self, where)

    def some(self, where: Running) -> list[int]:
        """Return virtual page numbers in a row, all of one VMA."""
        first = self.random.choice(sorted(where.cells))
        vma = where.process.mm.vmas.find(first * self.page)
        assert vma is not None
        return list(range(first, min(first + self.random.choice((1, 1, 2, 5, 40)), vma.end // self.page)))

    def shown(self, cell: Cell) -> int | None:
        """Return the word that a page must show; None: a SIGBUS."""
        if cell.own is not None:
            return cell.own
        return self.words[cell.pgoff] if cell.pgoff < self.size else None

    def compare(self, where: Running) -> None:
        for vpn, cell in where.cells.items():
            found: int | None = None
            with suppress(BusError):
                found = where.process.load_word(vpn * self.page)
            assert found == self.shown(cell), f"{vpn * self.page:#x} {cell}"

    # What may happen

    def map_some(self, where: Running) -> None:
        nr_pages = self.random.randint(1, NR_PAGES)
        if len(where.cells) + nr_pages > MAX_PAGES:
            return
        kind, pgoff = self.random.choice(("shared", "shared", *FLAGS)), self.random.randrange(NR_PAGES - nr_pages + 1)
        anonymous = kind == "anonymous"
        fd, offset = (-1, 0) if anonymous else (self.fd, pgoff * self.page)
        start = where.process.sys_mmap(0, nr_pages * self.page, RW, FLAGS[kind], fd, offset) // self.page
        for page in range(nr_pages):
            where.cells[start + page] = Cell(kind, pgoff + page, 0 if anonymous else None)

    def store(self, where: Running) -> None:
        for vpn in self.some(where):
            cell = where.cells[vpn]
            self.counter += 1
            try:
                where.process.store_word(vpn * self.page, self.counter)
            except SegmentationFault:
                assert not cell.writable
                continue
            except BusError:
                assert self.shown(cell) is None
                continue
            assert cell.writable, f"stored to a read-only page: {cell}"
            if cell.kind == "shared":
                self.words[cell.pgoff] = self.counter
            else:
                cell.own = self.counter

    def protect(self, where: Running) -> None:
        vpns, writable = self.some(where), self.random.choice((False, True))
        # Often by way of PROT_NONE.
        for prot in (self.random.choice((0, RO, RW)), RW if writable else RO):
            where.process.mprotect(vpns[0] * self.page, len(vpns) * self.page, prot)
        for vpn in vpns:
            where.cells[vpn].writable = writable

    def fork(self, where: Running) -> None:
        if len(self.running) < MAX_PROCESSES:
            self.running.append(Running(where.process.fork(), {vpn: replace(c) for vpn, c in where.cells.items()}))

    def exit(self, where: Running) -> None:
        if len(self.running) > 1:
            where.process.exit()
            self.running.remove(where)

    def munmap(self, where: Running) -> None:
        vpns = self.some(where)
        where.process.munmap(vpns[0] * self.page, len(vpns) * self.page)
        for vpn in vpns:
            del where.cells[vpn]

    def remap(self, where: Running) -> None:
        vpns = self.some(where)
        if where.cells[vpns[0]].kind != "shared":
            return
        if self.random.random() < 0.5:
            pgoffs = [self.random.randrange(NR_PAGES) for _ in vpns]
            where.process.remap_file_pages_bulk([vpn * self.page for vpn in vpns], pgoffs)
        else:
            vpns = vpns[:NR_PAGES]
            first, flags = self.random.randrange(NR_PAGES - len(vpns) + 1), self.random.choice((0, MAP_NONBLOCK))
            pgoffs = list(range(first, first + len(vpns)))
            where.process.remap_file_pages(vpns[0] * self.page, len(vpns) * self.page, 0, first, flags)
        for vpn, pgoff in zip(vpns, pgoffs, strict=True):
            where.cells[vpn].pgoff = pgoff

    def move(self, where: Running) -> None:
        vpns = self.some(where)
        nbytes = len(vpns) * self.page
        top = where.process.mm.task_size // 2 & -self.page
        onto = where.process.mm.vmas.gap(nbytes, 1 << 20, top)
        new = where.process.mremap(vpns[0] * self.page, nbytes, nbytes, 3, onto) // self.page
        for page, cell in enumerate([where.cells.pop(vpn) for vpn in vpns]):
            where.cells[new + page] = cell

    def drop(self, where: Running) -> None:
        vpns = self.some(where)
        vma = where.process.mm.vmas.find(vpns[0] * self.page)
        locked = vma is not None and vma.flags & VM_LOCKED
        with fails_with(errno.EINVAL) if locked else nullcontext():
            where.process.madvise(vpns[0] * self.page, len(vpns) * self.page, mmap.MADV_DONTNEED)
        if locked:
            return
        for vpn in vpns:
            where.cells[vpn].own = 0 if where.cells[vpn].kind == "anonymous" else None

    def advise(self, where: Running) -> None:
        vpns, advice = self.some(where), self.random.choice((mmap.MADV_WILLNEED, 20, 21))
        with suppress(OSError):
            where.process.madvise(vpns[0] * self.page, len(vpns) * self.page, advice)

    def lock(self, where: Running) -> None:
        vpns = self.some(where)
        locked = sum(one.process.mm.locked_vm for one in self.running)
        # A lock copies the pages of a private mapping of a file.
        if where.cells[vpns[0]].kind == "private" or locked + len(vpns) > MAX_LOCKED or self.random.random() < 0.5:
            where.process.munlock(vpns[0] * self.page, len(vpns) * self.page)
        else:
            with suppress(OSError):
                where.process.mlock(vpns[0] * self.page, len(vpns) * self.page)

    def truncate(self, where: Running) -> None:
        nr_pages = self.random.randint(0, NR_PAGES)
        where.process.ftruncate(self.fd, nr_pages * self.page)
        for pgoff in range(nr_pages, NR_PAGES):
            self.words[pgoff] = 0
        for cell in (cell for one in self.running for cell in one.cells.values()):
            if cell.kind == "private" and nr_pages <= cell.pgoff < self.size:
                cell.own = None
        self.size = nr_pages
        if self.random.random() < 0.7:
            where.process.ftruncate(self.fd, NR_PAGES * self.page)
            self.size = NR_PAGES

    def write_back(self, where: Running) -> None:
        how = self.random.randrange(4)
        if how == 0:
            self.machine.sync()
        elif how == 1:
            vpns = self.some(where)
            where.process.msync(vpns[0] * self.page, len(vpns) * self.page)
        elif how == 2:
            self.clock.advance(self.random.choice((0.01, 6.0, 40.0)))
            boundary(self.kernel)
        else:
            for inode in list(self.kernel.inodes.values()):
                invalidate_inode_pages2(self.kernel, inode.mapping)

    def reclaim(self, where: Running) -> None:
        del where
        self.kernel.try_to_free_pages(self.kernel, self.random.randint(1, 60))
        self.machine.drop_caches()

    def swapoff(self, where: Running) -> None:
        del where
        with suppress(OSError):
            self.machine.swapoff()
            self.machine.swapon(64 * self.page)


STEPS: list[Callable[[Everything, Running], None]] = [
    Everything.map_some, Everything.store, Everything.store, Everything.store, Everything.compare, Everything.protect,
    Everything.fork, Everything.exit, Everything.munmap, Everything.remap, Everything.remap, Everything.move,
    Everything.drop, Everything.advise, Everything.lock, Everything.truncate, Everything.write_back,
    Everything.write_back, Everything.reclaim, Everything.swapoff,
]  # fmt: skip


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed > 3)) for seed in range(40)])
@pytest.mark.parametrize("fmt", FORMATS)
def test_everything_at_once(fmt: str, seed: int, tmp_path: Path) -> None:
    lab = Everything(tmp_path, fmt, seed)
    try:
        for number in range(NR_STEPS):
            lab.step()
            if number % 4 == 0:
                check(lab.machine)
        for where in lab.running:
            lab.compare(where)
        check(lab.machine)
    finally:
        os.close(lab.fd)
    lab.machine.shutdown()
    data = lab.path.read_bytes()
    found = [int.from_bytes(data[at : at + 8], "little") for at in range(0, lab.size * lab.page, lab.page)]
    assert found == lab.words[: lab.size]
