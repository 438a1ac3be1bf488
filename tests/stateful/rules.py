"""The state machine: system calls and accesses of several processes against the naive model, `check` after each."""

import errno
import mmap
import os
from dataclasses import replace
from random import Random

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from emu.check import check
from emu.hw.mmu import AccessKind, kind_of
from emu.mm.mmap import MAP_NONBLOCK
from emu.mm.sched import boundary
from tests.stateful.ground import MAX_PAGES, RW, Ground, Running, expected
from tests.stateful.model import PAGE, FileModel, Slot

MAX_PROCESSES = 3
MAX_LOCKED = 16
SLOTS = (0, 1232, 4088)
"""Where in a page the stores go: its ends, and just before the end of the tail page."""

STORE, LOAD = kind_of(AccessKind.STORE, 8), kind_of(AccessKind.LOAD, 8)

index = st.integers(0, 1 << 16)
few_pages = st.integers(1, 8)
pgoffs = st.integers(0, 30)


def long_lived(rules: Ground) -> bool:
    """Tell whether this machine has seen something: else they would all die young."""
    return rules.age > 15


def something_mapped(rules: Ground) -> bool:
    return any(running.pages for running in rules.running)


class KernelRules(Ground):
    """Each rule does one thing to the machine and the same to the model."""

    @initialize()
    def boot_first(self) -> None:
        self.files = []
        # The second file is for pressure: with it, RAM is too small.
        for name, nbytes in (("main", 20 * PAGE + 1240), ("other", (72 if self.config.written_back else 24) * PAGE)):
            path = self.directory / name
            path.write_bytes(np.arange(nbytes // 8, dtype=np.uint64).tobytes())
            self.fds.append(os.open(path, os.O_RDWR))
            self.files.append(FileModel(path, written_back=self.config.written_back))
        self.boot()

    # Mapping

    @rule(who=index, which=st.integers(0, 3), pgoff=pgoffs, nr_pages=st.integers(1, 24))
    def map_file(self, who: int, which: int, pgoff: int, nr_pages: int) -> None:
        where = self.chosen(who)
        if len(where.pages) + nr_pages <= MAX_PAGES:
            self.do_mmap(where, self.files[which == 3], pgoff, nr_pages)

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages, pgoff=pgoffs, nonblock=st.booleans())
    def remap(self, who: int, at: int, nr_pages: int, pgoff: int, nonblock: bool) -> None:
        where = self.mapped(who)
        vpns = self.a_range(where, at, nr_pages)
        where.process.remap_file_pages(
            vpns[0] * PAGE, len(vpns) * PAGE, 0, pgoff, MAP_NONBLOCK if nonblock else 0
        )
        for place, vpn in enumerate(vpns):
            where.pages[vpn].pgoff = pgoff + place

    @precondition(something_mapped)
    @rule(who=index, at=index, random=st.randoms(use_true_random=False))
    def shuffle(self, who: int, at: int, random: Random) -> None:
        where = self.mapped(who)
        vpns = self.a_range(where, at, MAX_PAGES)
        order = [where.pages[vpn].pgoff for vpn in vpns]
        random.shuffle(order)
        where.process.remap_file_pages_bulk([vpn * PAGE for vpn in vpns], order)
        for vpn, pgoff in zip(vpns, order, strict=True):
            where.pages[vpn].pgoff = pgoff

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages)
    def munmap(self, who: int, at: int, nr_pages: int) -> None:
        where = self.mapped(who)
        first = self.a_page(where, at)
        nr_pages = min(nr_pages, where.process.mm.task_size // PAGE - first)
        where.process.munmap(first * PAGE, nr_pages * PAGE)
        for vpn in range(first, first + nr_pages):
            where.pages.pop(vpn, None)

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages, new_nr_pages=few_pages)
    def mremap(self, who: int, at: int, nr_pages: int, new_nr_pages: int) -> None:
        """Shrink, grow or move: pages keep their order; what is gained shows what a linear mapping would."""
        where = self.mapped(who)
        vpns = self.a_range(where, at, nr_pages)
        gained = max(new_nr_pages - len(vpns), 0)
        last = where.pages[vpns[-1]]
        if len(where.pages) + gained > MAX_PAGES or (last.locked and gained):
            return
        vma = where.process.mm.vmas.find(vpns[0] * PAGE)
        assert vma is not None
        pgoff = vma.linear_pgoff(vpns[0] * PAGE)
        start = where.process.mremap(vpns[0] * PAGE, len(vpns) * PAGE, new_nr_pages * PAGE) // PAGE
        moved = [where.pages.pop(vpn) for vpn in vpns][:new_nr_pages]
        moved += [replace(last, pgoff=pgoff + page) for page in range(len(moved), new_nr_pages)]
        for page, slot in enumerate(moved):
            where.pages[start + page] = slot

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages, prot=st.sampled_from((RW, RW, mmap.PROT_READ)))
    def mprotect(self, who: int, at: int, nr_pages: int, prot: int) -> None:
        where = self.mapped(who)
        vpns = self.a_range(where, at, nr_pages)
        where.process.mprotect(vpns[0] * PAGE, len(vpns) * PAGE, prot)
        for vpn in vpns:
            where.pages[vpn].writable = prot == RW

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages)
    def dontneed(self, who: int, at: int, nr_pages: int) -> None:
        where = self.mapped(who)
        vpns = self.a_range(where, at, nr_pages)
        locked = any(where.pages[vpn].locked for vpn in vpns)
        with expected(errno.EINVAL if locked else 0):
            where.process.madvise(vpns[0] * PAGE, len(vpns) * PAGE, mmap.MADV_DONTNEED)

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages, lock=st.booleans())
    def mlock(self, who: int, at: int, nr_pages: int, lock: bool) -> None:
        where = self.mapped(who)
        vpns = self.a_range(where, at, nr_pages)
        locked = sum(slot.locked for running in self.running for slot in running.pages.values())
        if lock and locked + len(vpns) > MAX_LOCKED:
            return
        beyond = any(where.pages[vpn].pgoff >= where.pages[vpn].file.nr_pages for vpn in vpns)
        call = where.process.mlock if lock else where.process.munlock
        with expected(errno.ENOMEM if lock and beyond else 0):
            call(vpns[0] * PAGE, len(vpns) * PAGE)
        for vpn in vpns:
            where.pages[vpn].locked = lock

    # Accesses

    @precondition(something_mapped)
    @rule(who=index, at=index, slot=st.sampled_from(SLOTS))
    def store(self, who: int, at: int, slot: int) -> None:
        where = self.mapped(who)
        self.access(where, self.a_page(where, at), slot, store=True)

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages, slot=st.sampled_from(SLOTS))
    def store_some(self, who: int, at: int, nr_pages: int, slot: int) -> None:
        where = self.mapped(who)
        for vpn in self.a_range(where, at, nr_pages):
            self.access(where, vpn, slot, store=True)

    @precondition(something_mapped)
    @rule(
        who=index,
        at=index,
        nr_pages=few_pages,
        slot=st.sampled_from(SLOTS),
        twist=st.sampled_from(("", "fork", "mprotect", "remap", "reclaim", "split")),
        cpus=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    )
    def late_store(self, who: int, at: int, nr_pages: int, slot: int, twist: str, cpus: tuple[int, int]) -> None:
        """Store, do something to the mapping, write back, and store again: what this is all about."""
        where = self.mapped(who)
        vpns = self.a_range(where, at, nr_pages)
        self.run_on(cpus[0])
        for vpn in vpns:
            self.access(where, vpn, slot, store=True)
        number = self.running.index(where)
        if twist == "fork":
            before = len(self.running)
            self.fork(number)
            # There may be no room for another process.
            where = self.running[-1] if len(self.running) > before else where
        elif twist == "mprotect":
            self.mprotect(who, at, nr_pages, mmap.PROT_READ)
        elif twist == "remap":
            self.remap(who, at, 1, where.pages[vpns[0]].pgoff + 1, nonblock=False)
        elif twist == "reclaim":
            self.reclaim(8)
        elif twist == "split":
            self.mprotect(who, at, 1, mmap.PROT_READ)
        self.run_on(cpus[1])
        self.sync()
        self.run_on(cpus[0])
        if twist in {"mprotect", "split"}:
            self.mprotect(who, at, nr_pages, RW)
        for vpn in vpns:
            self.access(where, vpn, slot, store=True)
        where.process.msync(vpns[0] * PAGE, len(vpns) * PAGE)
        for vpn in vpns:
            where.pages[vpn].file.promise(where.pages[vpn].pgoff)

    @precondition(something_mapped)
    @rule(who=index, at=index)
    def load(self, who: int, at: int) -> None:
        where = self.mapped(who)
        self.access(where, self.a_page(where, at), 0, store=False)

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages)
    def run_batch(self, who: int, at: int, nr_pages: int) -> None:
        """Stores and loads in one batch, within what may be stored to."""
        where = self.mapped(who)
        vpns = [vpn for vpn in self.a_range(where, at, nr_pages) if self.storable(where.pages[vpn])]
        values = [(self.counter + 1 + place) | 1 << 62 for place in range(len(vpns))]
        self.counter += len(vpns)
        vaddrs = [vpn * PAGE for vpn in vpns]
        kinds = [STORE] * len(vpns) + [LOAD] * len(vpns)
        loaded = where.process.run(vaddrs * 2, np.array(kinds, np.uint8), np.array(values * 2, np.uint64))
        for vpn, value in zip(vpns, values, strict=True):
            slot = where.pages[vpn]
            slot.file.store(slot.pgoff, 0, value.to_bytes(8, "little"))
        for place, vpn in enumerate(vpns):
            slot = where.pages[vpn]
            assert int(loaded[len(vpns) + place]).to_bytes(8, "little") == slot.file.page(slot.pgoff)[:8]

    def storable(self, slot: Slot) -> bool:
        return slot.writable and slot.pgoff * PAGE + 8 <= len(slot.file.content)

    @rule()
    def load_everything(self) -> None:
        for where in self.running:
            for vpn in sorted(where.pages):
                self.access(where, vpn, 0, store=False)

    @rule(cpu=st.integers(0, 1))
    def run_on(self, cpu: int) -> None:
        self.machine.kernel.cpu = cpu

    # Writeback, reclaim

    @rule()
    def sync(self) -> None:
        self.machine.sync()
        assert (self.machine.vmstat.nr_dirty, self.machine.vmstat.nr_writeback) == (0, 0)

    @rule(seconds=st.sampled_from((0.001, 0.3, 6.0, 40.0)))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        boundary(self.machine.kernel)

    @rule(nr_pages=st.integers(1, 40))
    def reclaim(self, nr_pages: int) -> None:
        self.machine.kernel.try_to_free_pages(self.machine.kernel, nr_pages)

    @rule()
    def drop_caches(self) -> None:
        self.machine.drop_caches()

    @precondition(something_mapped)
    @rule(who=index, at=index, nr_pages=few_pages)
    def msync(self, who: int, at: int, nr_pages: int) -> None:
        where = self.mapped(who)
        vpns = self.a_range(where, at, nr_pages)
        where.process.msync(vpns[0] * PAGE, len(vpns) * PAGE)
        for vpn in vpns:
            slot = where.pages[vpn]
            slot.file.promise(slot.pgoff)

    @rule(which=st.sampled_from((0, 0, 1)), nbytes=st.integers(1, 28 * PAGE))
    def ftruncate(self, which: int, nbytes: int) -> None:
        nbytes &= -8
        self.running[0].process.ftruncate(self.fds[which], nbytes)
        self.files[which].truncate(nbytes)

    # Processes, power

    @rule(who=index)
    def fork(self, who: int) -> None:
        if len(self.running) < MAX_PROCESSES:
            parent = self.chosen(who)
            pages = {vpn: replace(slot, locked=False) for vpn, slot in parent.pages.items()}
            self.running.append(Running(parent.process.fork(), pages))

    @rule(who=index)
    def exit(self, who: int) -> None:
        if len(self.running) > 1:
            self.running.pop(who % len(self.running)).process.exit()

    @precondition(long_lived)
    @rule()
    def power_off(self) -> None:
        self.machine.power_off()
        for file in self.files:
            file.check_after_power_cut(may_lose=self.config.may_lose)
            file.reset()
        self.boot()

    @precondition(long_lived)
    @rule()
    def shutdown(self) -> None:
        self.machine.shutdown()
        for file in self.files:
            file.check_after_shutdown()
            file.reset()
        self.boot()

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "machine"):
            self.age += 1
            check(self.machine)
            if not self.config.may_lose:
                assert self.machine.vmstat.unaccounted_dirty_max == 0 or not self.config.written_back

    def teardown(self) -> None:
        try:
            if hasattr(self, "machine") and self.machine.running:
                self.load_everything()
                self.shutdown()
                self.machine.power_off()
        finally:
            for fd in self.fds:
                os.close(fd)
