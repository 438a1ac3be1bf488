"""Random system calls on private memory, more of it than RAM, against a naive model; `check` after each."""

import errno
import mmap
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from emu.check import check
from emu.errors import SegmentationFault
from emu.machine import Machine
from emu.mm.mmap import MAP_FIXED
from emu.mm.mremap import MREMAP_FIXED, MREMAP_MAYMOVE
from emu.mm_types.clock import VirtualClock
from emu.process import Process
from tests.stateful.ground import expected
from tests.stateful.test_stateful import QUICK

PAGE = 4096
RW, RO = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ
BASE = 1 << 30
ARENA_PAGES = 64
FILE_PAGES = 24
SLOTS = (0, 4088)
MAX_LOCKED = 8
FREE, COLD, PAGEOUT = 8, 20, 21

places = st.integers(0, ARENA_PAGES - 1)
lengths = st.integers(1, 16)
who = st.integers(0, 2)


def of_file(pgoff: int, slot: int) -> bytes:
    return (pgoff << 16 | slot + 1).to_bytes(8, "little")


@dataclass
class Page:
    """One page: what its two slots hold, and, after MADV_FREE, whether each may have become zero."""

    base: tuple[bytes, bytes] = (bytes(8), bytes(8))
    anonymous: bool = True
    writable: bool = True
    locked: bool = False
    lazy: bool = False
    slots: list[bytes] = field(default_factory=list)
    maybe_zero: list[bool] = field(default_factory=lambda: [False, False])

    def __post_init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        self.slots = list(self.base)
        self.lazy, self.maybe_zero = False, [False, False]

    def give_up(self) -> None:
        self.lazy, self.maybe_zero = True, [True, True]


@dataclass
class Running:
    process: Process
    pages: dict[int, Page]


class PrivateMemory(RuleBasedStateMachine):
    """Each rule does one thing to the machine and the same to the model."""

    directory: Path
    fmt = "x86_64"
    io_depth = 0
    page_cluster = 0

    @initialize()
    def boot(self) -> None:
        self.path = self.directory / "file"
        with self.path.open("wb") as file:
            for pgoff in range(FILE_PAGES):
                file.write(of_file(pgoff, 0).ljust(SLOTS[1], b"-") + of_file(pgoff, 1))
        self.machine = Machine(
            self.fmt, 64 * PAGE, clock=VirtualClock(), io_depth=self.io_depth, huge_pages=False, swap=320 * PAGE,
            page_cluster=self.page_cluster, readahead=4, cpus=2,
        )  # fmt: skip
        self.running = [Running(self.machine.spawn(), {})]
        self.counter = 0
        self.map(0, 0, 24, anonymous=True, pgoff=0)
        self.map(0, 24, 12, anonymous=False, pgoff=4)
        for slot in (0, 1):
            self.store(0, 0, 24, slot)
            self.store(0, 24, 12, slot)
        self.machine.kernel.try_to_free_pages(self.machine.kernel, 30)
        self.fork(0)

    def chosen(self, which: int) -> Running:
        return self.running[which % len(self.running)]

    def within_vma(self, where: Running, place: int, nr_pages: int) -> range:
        """Return up to `nr_pages` pages of one mapping, near `place`; empty if nothing is mapped."""
        if not where.pages:
            return range(0)
        place = min(where.pages, key=lambda page: (abs(page - place), page))
        vma = where.process.mm.vmas.find(BASE + place * PAGE)
        assert vma is not None
        return range(place, min(place + nr_pages, (vma.end - BASE) // PAGE))

    # Mapping

    @rule(which=who, place=places, nr_pages=lengths, anonymous=st.booleans(), pgoff=st.integers(0, FILE_PAGES - 16))
    def map(self, which: int, place: int, nr_pages: int, *, anonymous: bool, pgoff: int) -> None:
        where = self.chosen(which)
        nr_pages = min(nr_pages, ARENA_PAGES - place)
        flags = mmap.MAP_PRIVATE | MAP_FIXED | (mmap.MAP_ANONYMOUS if anonymous else 0)
        where.process.sys_mmap(BASE + place * PAGE, nr_pages * PAGE, RW, flags, self.path, pgoff * PAGE)
        for page in range(nr_pages):
            base = (bytes(8), bytes(8)) if anonymous else (of_file(pgoff + page, 0), of_file(pgoff + page, 1))
            where.pages[place + page] = Page(base, anonymous)

    @rule(which=who, place=places, nr_pages=lengths)
    def munmap(self, which: int, place: int, nr_pages: int) -> None:
        where = self.chosen(which)
        where.process.munmap(BASE + place * PAGE, nr_pages * PAGE)
        for page in range(place, place + nr_pages):
            where.pages.pop(page, None)

    @rule(which=who, place=places, old=lengths, new=lengths, onto=places)
    def mremap(self, which: int, place: int, old: int, new: int, onto: int) -> None:
        where = self.chosen(which)
        pages = self.within_vma(where, place, old)
        new = min(new, ARENA_PAGES - onto)
        if not pages or (onto < pages.stop and pages.start < onto + new):
            return
        where.process.mremap(
            BASE + pages.start * PAGE, len(pages) * PAGE, new * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + onto * PAGE
        )
        moved = [where.pages.pop(page) for page in pages]
        last = moved[-1]
        for page in range(onto, onto + new):
            where.pages.pop(page, None)
        for page in range(new):
            if page < len(moved):
                where.pages[onto + page] = moved[page]
            elif last.anonymous:
                where.pages[onto + page] = Page(writable=last.writable, locked=last.locked)
            else:
                # What a private file mapping gains shows the file further on: of no interest here.
                where.process.munmap(BASE + (onto + page) * PAGE, PAGE)

    @rule(which=who, place=places, nr_pages=lengths, prot=st.sampled_from((RW, RW, RO)))
    def mprotect(self, which: int, place: int, nr_pages: int, prot: int) -> None:
        where = self.chosen(which)
        pages = self.within_vma(where, place, nr_pages)
        if pages:
            where.process.mprotect(BASE + pages.start * PAGE, len(pages) * PAGE, prot)
        for page in pages:
            where.pages[page].writable = prot == RW

    @rule(which=who, place=places, nr_pages=lengths, lock=st.booleans())
    def mlock(self, which: int, place: int, nr_pages: int, *, lock: bool) -> None:
        where = self.chosen(which)
        pages = self.within_vma(where, place, nr_pages)
        locked = sum(page.locked for running in self.running for page in running.pages.values())
        if not pages or (lock and locked + len(pages) > MAX_LOCKED):
            return
        call = where.process.mlock if lock else where.process.munlock
        call(BASE + pages.start * PAGE, len(pages) * PAGE)
        for page in pages:
            where.pages[page].locked = lock

    @rule(
        which=who,
        place=places,
        nr_pages=lengths,
        advice=st.sampled_from((FREE, FREE, COLD, PAGEOUT, PAGEOUT, mmap.MADV_DONTNEED, mmap.MADV_WILLNEED)),
    )
    def madvise(self, which: int, place: int, nr_pages: int, advice: int) -> None:
        where = self.chosen(which)
        pages = self.within_vma(where, place, nr_pages)
        if not pages:
            return
        first = where.pages[pages.start]
        refused = (first.locked and advice != mmap.MADV_WILLNEED) or (advice == FREE and not first.anonymous)
        with expected(errno.EINVAL if refused else 0):
            where.process.madvise(BASE + pages.start * PAGE, len(pages) * PAGE, advice)
        for page in () if refused else pages:
            if advice == mmap.MADV_DONTNEED:
                where.pages[page].drop()
            elif advice == FREE:
                where.pages[page].give_up()

    # Accesses

    @rule(which=who, place=places, nr_pages=lengths, slot=st.integers(0, 1))
    def store(self, which: int, place: int, nr_pages: int, slot: int) -> None:
        where = self.chosen(which)
        for page in self.within_vma(where, place, nr_pages):
            vaddr, model = BASE + page * PAGE + SLOTS[slot], where.pages[page]
            if not model.writable:
                with pytest.raises(SegmentationFault):
                    where.process.store_word(vaddr, 1)
                continue
            self.counter += 1
            value = (1 << 63 | self.counter).to_bytes(8, "little")
            where.process.store(vaddr, value)
            model.slots[slot], model.maybe_zero[slot], model.lazy = value, False, False

    @rule(which=who, place=places, nr_pages=lengths)
    def load(self, which: int, place: int, nr_pages: int) -> None:
        where = self.chosen(which)
        for page in self.within_vma(where, place, nr_pages):
            self.look(where, page)

    def look(self, where: Running, page: int) -> None:
        model = where.pages[page]
        for slot, at in enumerate(SLOTS):
            found = where.process.load(BASE + page * PAGE + at, 8)
            allowed = {model.slots[slot], bytes(8)} if model.maybe_zero[slot] else {model.slots[slot]}
            assert found in allowed, f"page {page} slot {slot} of {where.process.mm}: {found.hex()} not {allowed}"
            model.slots[slot] = found
            model.maybe_zero[slot] = model.lazy

    # Processes, pressure, swap areas

    @rule(which=who)
    def fork(self, which: int) -> None:
        if len(self.running) < 3:
            parent = self.chosen(which)
            pages = deepcopy(parent.pages)
            for page in pages.values():
                page.locked = False
            self.running.append(Running(parent.process.fork(), pages))

    @rule(which=who)
    def exit(self, which: int) -> None:
        if len(self.running) > 1:
            self.running.pop(which % len(self.running)).process.exit()

    @rule(nr_pages=st.sampled_from((1, 8, 1 << 20)))
    def reclaim(self, nr_pages: int) -> None:
        self.machine.kernel.try_to_free_pages(self.machine.kernel, nr_pages)

    @rule()
    def reclaim_all(self) -> None:
        for _ in range(4):
            self.reclaim(1 << 20)

    @rule(
        which=who,
        place=places,
        nr_pages=lengths,
        twist=st.sampled_from(("", "mprotect", "mprotect", "mlock", "split", "free", "free_shared", "fork")),
        other=who,
        slot=st.integers(0, 1),
    )
    def come_back(self, which: int, place: int, nr_pages: int, twist: str, other: int, slot: int) -> None:
        """Send all out, bring pages in for one, do something to them, store; another must not see that."""
        self.reclaim_all()
        self.load(which, place, nr_pages)
        if twist in {"mprotect", "split"}:
            self.mprotect(which, place, nr_pages if twist == "mprotect" else 1, RO)
            self.mprotect(which, place, nr_pages, RW)
        elif twist == "mlock":
            self.mlock(which, place, min(nr_pages, 4), lock=True)
            self.mlock(which, place, min(nr_pages, 4), lock=False)
        elif twist == "free":
            self.madvise(which, place, nr_pages, FREE)
        elif twist == "free_shared":
            self.load(other, place, nr_pages)
            self.madvise(which, place, nr_pages, FREE)
            self.reclaim_all()
        elif twist == "fork":
            self.fork(which)
        self.store(which, place, nr_pages, slot)
        self.reclaim(8)
        self.load(other, place, nr_pages)
        self.load(which, place, nr_pages)

    @rule(cpu=st.integers(0, 1))
    def run_on(self, cpu: int) -> None:
        self.machine.kernel.cpu = cpu

    @rule()
    def another_area(self) -> None:
        """Swap to another area, and bring back what the first one holds, if it fits."""
        areas = self.machine.kernel.swap.areas
        if len(areas) < 2:
            self.machine.swapon(160 * PAGE)
        try:
            self.machine.swapoff(next(iter(areas)))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "machine"):
            check(self.machine)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            for where in self.running:
                for page in where.pages:
                    self.look(where, page)
                where.process.exit()
            self.machine.kernel.io.wait_all()
            check(self.machine)
            assert all(not area.inuse_pages for area in self.machine.kernel.swap.areas.values())
            self.machine.shutdown()


CONFIGS = [("x86_64", 0, 0), ("i386", 2, 3), ("sv39", 2, 0), ("arm64_4k", 0, 3)]


def run(config: tuple[str, int, int], tmp_path: Path, how: settings) -> None:
    class Run(PrivateMemory):
        directory = tmp_path
        fmt, io_depth, page_cluster = config

    run_state_machine_as_test(Run, settings=how)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config[0])
def test_private_memory_against_the_model(config: tuple[str, int, int], tmp_path: Path) -> None:
    run(config, tmp_path, settings(QUICK, max_examples=10))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config[0])
def test_private_memory_against_the_model_for_long(config: tuple[str, int, int], tmp_path: Path) -> None:
    run(config, tmp_path, settings(QUICK, max_examples=200, stateful_step_count=80, derandomize=False))
