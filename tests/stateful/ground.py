"""What the rules stand on: a machine, processes and files with their models, accesses that compare the two."""

import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis.stateful import RuleBasedStateMachine

from emu.errors import BusError, SegmentationFault
from emu.machine import Machine
from emu.mm_types.clock import VirtualClock
from emu.process import Process
from tests.stateful.model import PAGE, FileModel, Slot

MAX_PAGES = 80
RW = mmap.PROT_READ | mmap.PROT_WRITE


@dataclass(frozen=True)
class Config:
    """One column of the matrix."""

    rmap: str
    format: str
    caps: str
    io_depth: int

    @property
    def may_lose(self) -> bool:
        return self.rmap == "none"

    @property
    def written_back(self) -> bool:
        return self.caps != "ramfs"


@dataclass
class Running:
    """A process and the model of its address space: virtual page -> what is there."""

    process: Process
    pages: dict[int, Slot]


class Ground(RuleBasedStateMachine):
    """State and helpers; the rules are in KernelRules."""

    machine: Machine

    def __init__(self, config: Config, directory: Path) -> None:
        super().__init__()
        self.config = config
        self.directory = directory
        self.counter = 0
        self.fds: list[int] = []
        self.running: list[Running] = []
        self.files: list[FileModel] = []
        self.age = 0

    def boot(self) -> None:
        self.age = 0
        self.clock = VirtualClock()
        self.machine = Machine(
            self.config.format,
            (72 if self.config.written_back else 160) * PAGE,
            self.config.rmap,
            cpus=2,
            clock=self.clock,
            io_depth=self.config.io_depth,
            plain_caps=self.config.caps,
            readahead=8,
            audit=True,
        )
        self.running = [Running(self.machine.spawn(), {})]
        self.do_mmap(self.running[0], self.files[0], 0, 20)

    # Choosing

    def chosen(self, which: int) -> Running:
        return self.running[which % len(self.running)]

    def a_page(self, where: Running, which: int) -> int:
        vpns = sorted(where.pages)
        return vpns[which % len(vpns)]

    def a_range(self, where: Running, which: int, nr_pages: int) -> list[int]:
        """Return up to `nr_pages` consecutive virtual pages of one VMA."""
        first = self.a_page(where, which)
        vma = where.process.mm.vmas.find(first * PAGE)
        assert vma is not None
        assert vma.start <= first * PAGE
        return list(range(first, min(first + nr_pages, vma.end // PAGE)))

    def mapped(self, which: int) -> Running:
        return [running for running in self.running if running.pages][
            which % sum(bool(running.pages) for running in self.running)
        ]

    # What both sides do

    def do_mmap(self, where: Running, file: FileModel, pgoff: int, nr_pages: int) -> None:
        fd = self.fds[self.files.index(file)]
        vaddr = where.process.sys_mmap(0, nr_pages * PAGE, RW, mmap.MAP_SHARED, fd, pgoff * PAGE)
        for page in range(nr_pages):
            where.pages[vaddr // PAGE + page] = Slot(file, pgoff + page)

    def access(self, where: Running, vpn: int, at: int, *, store: bool) -> None:
        slot = where.pages[vpn]
        vaddr = vpn * PAGE + at
        if store:
            self.counter += 1
            data = (self.counter | 1 << 63).to_bytes(8, "little")
            if slot.pgoff < slot.file.nr_pages and slot.pgoff * PAGE + at + 8 > len(slot.file.content):
                return
            with signal(slot, store=True) as allowed:
                where.process.store(vaddr, data)
            if allowed:
                slot.file.store(slot.pgoff, at, data)
        else:
            with signal(slot, store=False) as allowed:
                found = where.process.load(vpn * PAGE, PAGE)
            if allowed:
                assert found == slot.file.page(slot.pgoff), f"page {slot.pgoff} at {vpn * PAGE:#x}, {where.process.mm}"


@contextmanager
def expected(number: int) -> Iterator[None]:
    """Expect an OSError with this errno; 0: none."""
    try:
        yield
    except OSError as error:
        if error.errno != number:
            raise
        return
    assert not number, f"no {errno.errorcode[number]}"


@contextmanager
def signal(slot: Slot, *, store: bool) -> Iterator[list[bool]]:
    """Expect the signal that an access to this slot must raise, if any; yields a list, empty if it must not pass."""
    wanted: type[Exception] | None = None
    if store and not slot.writable:
        wanted = SegmentationFault
    elif slot.pgoff >= slot.file.nr_pages:
        wanted = BusError
    if wanted is None:
        yield [True]
        return
    with pytest.raises(wanted):
        yield []
