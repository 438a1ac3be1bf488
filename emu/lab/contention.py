"""Contention, simulated: how long threads that fault and remap, and a flusher that cleans, wait for one another.

The emulated kernel has one thread, so nobody waits there; it counts. A discrete-event simulation takes the counted
visits of each operation, at an assumed price a visit, and lets threads queue for the locks that a kernel would take:

- mmap_sem (fair, readers together): for reading in a fault and in a nonlinear remap, for writing where a remap makes
  VMAs, since that changes the mm's tree of VMAs;
- a reader-writer lock in the VMA, where a strategy keeps its structure there (range_tree, shadow), just around the
  structure's visits: for writing in a remap and in shadow's faults, for reading by the flusher; range_tree's faults
  do not touch the tree;
- i_mmap_lock of the file: the flusher, for all visits of one page_mkclean; and a remap that makes VMAs, to link them;
- the page lock: a fault and the flusher. Chains and the dirty index are taken to be locked page by page, or bucket by
  bucket: nobody else waits for those.

Page-table locks and cache-line traffic between CPUs are left out. What an operation costs beyond its visits (trap,
system call, page tables, TLB flush) is a constant that does not change with the price of a visit: Prices.
"""

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

VMA_LOCKED = frozenset({"range_tree", "shadow"})
"""Strategies whose structure lies in the VMA, under a lock of its own."""

UNCHANGED_BY_FAULTS = frozenset({"range_tree"})
"""Strategies whose structure in the VMA a fault leaves alone."""

OPS_PER_REMAP = 5
"""One operation in so many is a remap, the others are faults."""

Step = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class Prices:
    """Nanoseconds. `visit`: a PTE or node that is looked at, a cache miss more often than not. All are assumptions."""

    visit: float = 50.0
    fault: float = 1000.0
    remap: float = 700.0
    clean: float = 300.0
    io: float = 5000.0
    think: float = 2000.0


@dataclass(frozen=True, slots=True)
class Profile:
    """What one operation of a strategy visits, as measured; `vmas` > 0: a remap makes VMAs, under mmap_sem."""

    rmap: str
    pages: int
    remap: float
    fault: float
    clean: float
    vmas: int = 0
    mm_wide: bool = False

    @property
    def lock(self) -> str:
        """Which lock a remap changes its structure under."""
        if self.vmas or self.mm_wide:
            return "mmap_sem"
        return "vma" if self.rmap in VMA_LOCKED else "page"


@dataclass(slots=True)
class WaitRow:
    """How long each waited for locks, in microseconds an operation; `visit_ns` is the price that was assumed.

    `ops_per_s`: faults and remaps of all threads; `cleans_per_s`: pages that the flusher cleaned.
    """

    rmap: str
    lock: str
    pages: int
    threads: int
    visit_ns: float
    fault_wait_us: float
    fault_wait_p99_us: float
    remap_wait_us: float
    remap_wait_p99_us: float
    flusher_wait_us: float
    ops_per_s: float
    cleans_per_s: float


class RwLock:
    """A fair reader-writer lock: whoever comes later waits behind a waiting writer, as in Linux's rwsem."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._readers = 0
        self._writer = False
        self._queue: deque[tuple[bool, simpy.Event]] = deque()

    def take(self, *, write: bool) -> simpy.Event:
        """Return an event that happens when the lock is held."""
        event = self._env.event()
        self._queue.append((write, event))
        self._grant()
        return event

    def release(self, *, write: bool) -> None:
        """Let go of it."""
        if write:
            self._writer = False
        else:
            self._readers -= 1
        self._grant()

    def _grant(self) -> None:
        while self._queue and not self._writer:
            write, event = self._queue[0]
            if write and self._readers:
                return
            self._queue.popleft()
            self._writer, self._readers = write, self._readers + (not write)
            event.succeed()


@dataclass(slots=True)
class _Waits:
    fault: list[float] = field(default_factory=list)
    remap: list[float] = field(default_factory=list)
    clean: list[float] = field(default_factory=list)


class _Simulation:
    """One address space, its locks, its threads and the flusher."""

    def __init__(self, profile: Profile, threads: int, prices: Prices, nr_ops: int, hot_pages: int, seed: int) -> None:
        self.env = simpy.Environment()
        self.profile, self.prices, self.nr_ops = profile, prices, nr_ops
        self.mmap_sem = RwLock(self.env)
        self.vma_lock = RwLock(self.env)
        self.i_mmap_lock = RwLock(self.env)
        self.page_locks = [RwLock(self.env) for _ in range(hot_pages)]
        self.waits = _Waits()
        self.rng = np.random.default_rng(seed)
        self.running = threads
        self.ended_ns = 0.0

    def work(
        self,
        outer: list[tuple[RwLock, bool]],
        ns: float,
        visits: float,
        waits: list[float],
        *,
        write: bool,
        structure: bool = True,
    ) -> Step:
        """Take the outer locks, work, visit the `structure` under its own lock if it has one; note the time waited."""
        began = self.env.now
        for lock, exclusive in outer:
            yield lock.take(write=exclusive)
        waited = self.env.now - began
        yield self.env.timeout(ns)
        if structure and self.profile.lock == "vma":
            began = self.env.now
            yield self.vma_lock.take(write=write)
            waited += self.env.now - began
            yield self.env.timeout(visits * self.prices.visit)
            self.vma_lock.release(write=write)
        else:
            yield self.env.timeout(visits * self.prices.visit)
        for lock, exclusive in reversed(outer):
            lock.release(write=exclusive)
        waits.append(waited)

    def thread(self) -> Step:
        """Fault four times for each remap, thinking in between."""
        profile, prices = self.profile, self.prices
        depth = math.log2(profile.vmas + 1)
        link = [(self.i_mmap_lock, True)] if profile.vmas else []
        remap_locks = [(self.mmap_sem, profile.lock == "mmap_sem"), *link]
        changes = profile.rmap not in UNCHANGED_BY_FAULTS
        for number in range(self.nr_ops):
            yield self.env.timeout(self.rng.exponential(prices.think))
            if number % OPS_PER_REMAP == OPS_PER_REMAP - 1:
                yield from self.work(remap_locks, prices.remap, profile.remap, self.waits.remap, write=True)
            else:
                page = self.page_locks[int(self.rng.integers(len(self.page_locks)))]
                locks = [(self.mmap_sem, False), (page, True)]
                visits = profile.fault + depth
                yield from self.work(locks, prices.fault, visits, self.waits.fault, write=True, structure=changes)
        self.running -= 1
        self.ended_ns = self.env.now

    def flusher(self) -> Step:
        """Clean page after page while the threads run; each is submitted for I/O after it."""
        place = 0
        while self.running:
            locks = [(self.page_locks[place], True), (self.i_mmap_lock, True)]
            yield from self.work(locks, self.prices.clean, self.profile.clean, self.waits.clean, write=False)
            yield self.env.timeout(self.prices.io)
            place = (place + 1) % len(self.page_locks)


def simulate(
    profile: Profile,
    threads: int,
    prices: Prices,
    *,
    nr_ops: int = 400,
    hot_pages: int = 64,
    seed: int = 0,
) -> WaitRow:
    """Simulate `threads` threads of `nr_ops` operations each and a flusher over `hot_pages` pages."""
    run = _Simulation(profile, threads, prices, nr_ops, hot_pages, seed)
    for _ in range(threads):
        run.env.process(run.thread())
    run.env.process(run.flusher())
    while run.running:
        run.env.step()
    seconds = run.ended_ns / 1e9
    return WaitRow(
        rmap=profile.rmap,
        lock=profile.lock,
        pages=profile.pages,
        threads=threads,
        visit_ns=prices.visit,
        fault_wait_us=_mean_us(run.waits.fault),
        fault_wait_p99_us=_p99_us(run.waits.fault),
        remap_wait_us=_mean_us(run.waits.remap),
        remap_wait_p99_us=_p99_us(run.waits.remap),
        flusher_wait_us=_mean_us(run.waits.clean),
        ops_per_s=round(threads * nr_ops / seconds),
        cleans_per_s=round(len(run.waits.clean) / seconds, 1),
    )


def _mean_us(waits_ns: list[float]) -> float:
    return round(float(np.mean(waits_ns)) / 1e3, 4) if waits_ns else 0.0


def _p99_us(waits_ns: list[float]) -> float:
    return round(float(np.percentile(waits_ns, 99)) / 1e3, 4) if waits_ns else 0.0
