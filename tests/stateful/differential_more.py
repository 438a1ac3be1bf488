"""More rules of the differential test: locks, the heap, limits, stacks, and sequences that chance makes too seldom."""

import os
import resource

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from emu.mm.mmap import MAP_FIXED, MAP_GROWSDOWN
from tests.stateful.differential import Calls, index, lengths, places
from tests.stateful.twin_words import ARENA_PAGES, BASE, PAGE, RW, Vma
from tests.stateful.twins import HEAP_PAGES, Twins

MAY_LOCK = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
MADV_DONTNEED = 4
MCL_CURRENT = 1
MREMAP_DONTUNMAP = 4
WRITABLE = 2

limits = st.sampled_from((resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_MEMLOCK))
allowances = st.integers(0, 5).map(lambda pages: pages * PAGE + 1)
"""Never 0, below which RLIMIT_MEMLOCK forbids even to ask."""


class Differential(Calls):
    """All rules."""

    # Locks and limits

    @precondition(lambda _self: MAY_LOCK)
    @rule(who=index, flags=st.sampled_from((1, 2, 3, 5, 6, 7, 0, 4, 8, None, None, None)))
    def mlockall(self, who: int, flags: int | None) -> None:
        """Lock all, or (None) unlock all."""
        pair = self.pair(who)
        if flags is not None and flags & MCL_CURRENT and not pair.emulated.mm.privileged:
            # The host's process has memory of its own, more than it may lock.
            return
        self.twins.both(pair, lambda process, _fds: process.munlockall() if flags is None else process.mlockall(flags))

    @rule(who=index, place=places, nbytes=lengths, flags=st.sampled_from((1, 1, 1, 0, 2)))
    def mlock2(self, who: int, place: tuple[str, int], nbytes: int, flags: int) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        self.twins.both(pair, lambda process, _fds: process.mlock2(vaddr, nbytes, flags))

    @rule(which=limits, nbytes=allowances)
    def limit(self, which: int, nbytes: int) -> None:
        """Let the next call use no more than that."""
        self.twins.limit = which, nbytes

    @rule(who=index, which=limits, nbytes=allowances, page=st.integers(0, ARENA_PAGES - 1), nr_pages=st.integers(1, 6))
    def map_limited(self, who: int, which: int, nbytes: int, page: int, nr_pages: int) -> None:
        """Map, lock and grow a little within a limit."""
        pair = self.pair(who)
        vaddr, nr_pages = BASE + page * PAGE, min(nr_pages, ARENA_PAGES - page)
        self.limit(which, nbytes)
        self.map(who, ("any", page), nr_pages * PAGE, RW, 0x22, MAP_FIXED, -1, 0)
        self.limit(which, nbytes)
        self.twins.both(pair, lambda process, _fds: process.mlock(vaddr, nr_pages * PAGE))
        self.limit(which, nbytes)
        self.move(who, nr_pages, page, nr_pages, (page * 7 + nr_pages) % ARENA_PAGES)

    @rule(
        who=index,
        page=st.integers(0, ARENA_PAGES - 1),
        nr_pages=st.integers(1, 3),
        below=st.integers(1, 12),
        which=st.none() | st.none() | limits | st.just(resource.RLIMIT_STACK),
        nbytes=st.integers(1, 8).map(lambda pages: pages * PAGE),
    )
    def stack(self, who: int, page: int, nr_pages: int, below: int, which: int | None, nbytes: int) -> None:
        """Map what grows downwards, and store below it, perhaps within a limit."""
        self.map(who, ("any", page), nr_pages * PAGE, RW, 0x22, MAP_FIXED | MAP_GROWSDOWN, -1, 0)
        if which is not None:
            self.limit(which, nbytes)
        self.store(who, ("any", max(page - below, 0)), 8, b"grown")

    @precondition(lambda self: self.twins.heap)
    @rule(
        who=index,
        nbytes=st.integers(0, HEAP_PAGES).map(lambda pages: pages * PAGE)
        | st.integers(0, HEAP_PAGES * PAGE)
        | st.sampled_from((-PAGE, -1, 1 << 47, 1 << 62)),
        which=st.none() | st.none() | st.sampled_from((resource.RLIMIT_AS, resource.RLIMIT_MEMLOCK)),
        spare=allowances,
    )
    def brk(self, who: int, nbytes: int, which: int | None, spare: int) -> None:
        """Move the end of the heap, perhaps within a limit; of RLIMIT_DATA, the host's program has some of its own."""
        pair = self.pair(who)
        self.twins.limit = None if which is None else (which, spare)
        vaddr = self.twins.heap + nbytes
        self.twins.both(pair, lambda process, _fds: process.brk(vaddr))
        self.store(who, ("heap", max(nbytes, 1) // PAGE), 8, b"heap")

    # Directed

    @rule(
        who=index,
        which=index,
        part=index,
        nr_pages=st.integers(1, 6),
        onto=st.integers(0, ARENA_PAGES - 1),
        flags=st.sampled_from((7, 7, 7, 5, 5, 4, 6)),
        more=st.sampled_from((0, 0, 0, 0, PAGE, 1)),
    )
    def dontunmap(self, who: int, which: int, part: int, nr_pages: int, onto: int, flags: int, more: int) -> None:
        """Move pages elsewhere, and leave their mapping."""
        pair = self.pair(who)
        vmas = self.twins.vmas_emulated(pair)
        if not vmas:
            return
        vma = vmas[which % len(vmas)]
        vaddr = vma[0] + part % ((vma[1] - vma[0]) // PAGE) * PAGE
        nbytes = min(vma[1] - vaddr, nr_pages * PAGE, (ARENA_PAGES - onto) * PAGE)
        # All of the old mapping loses its locks: so it must be one mapping on both (vm_close).
        if vma not in self.twins.vmas_host(pair) or self.twins.moves_many(pair, vaddr, nbytes, nbytes, fixed=True):
            return
        self.twins.both_mapping(
            pair,
            nbytes,
            lambda process, _fds: process.mremap(vaddr, nbytes, nbytes + more, flags, BASE + onto * PAGE),
        )

    def part_of(self, vmas: list[Vma], which: int, part: int, nr_pages: int) -> tuple[int, int, int]:
        """Return address, length and protection of some pages of one of these mappings."""
        start, end, prot = vmas[which % len(vmas)][:3]
        vaddr = start + part % ((end - start) // PAGE) * PAGE
        return vaddr, min(end - vaddr, nr_pages * PAGE), prot

    @rule(who=index, which=index, part=index, nr_pages=st.integers(1, 3), prot=st.sampled_from((0, 1, 1, 5, RW)))
    def mprotect_and_back(self, who: int, which: int, part: int, nr_pages: int, prot: int) -> None:
        """Change the protection of part of a mapping, see what that forbids, and change it back: it is whole again."""
        pair = self.pair(who)
        vmas = self.twins.vmas_emulated(pair)
        if not vmas:
            return
        vaddr, nbytes, was = self.part_of(vmas, which, part, nr_pages)
        for new in (prot, was):
            self.protect(pair, vaddr, nbytes, new)
            self.twins.both(pair, lambda process, _fds: process.store(vaddr + 16, b"protected"))

    def protect(self, pair: Twins, vaddr: int, nbytes: int, prot: int) -> None:
        self.twins.both(pair, lambda process, _fds: process.mprotect(vaddr, nbytes, prot))

    @rule(who=index, which=index, part=index, nr_pages=st.integers(1, 3))
    def forget(self, who: int, which: int, part: int, nr_pages: int) -> None:
        """Store to anonymous memory, have it forgotten, see what is there, and load."""
        pair = self.pair(who)
        vmas = [vma for vma in self.twins.vmas_emulated(pair) if not vma[3] and not vma[5] and vma[2] & WRITABLE]
        if not vmas:
            return
        vaddr, nbytes, _prot = self.part_of(vmas, which, part, nr_pages)
        self.twins.both(pair, lambda process, _fds: process.store(vaddr + 8, b"forgotten"))
        self.twins.both(pair, lambda process, _fds: process.madvise(vaddr, nbytes, MADV_DONTNEED))
        if not self.twins.swapping:
            self.twins.both(pair, lambda process, _fds: process.mincore(vaddr, nbytes))
        self.twins.both(pair, lambda process, _fds: process.load(vaddr, 24))

    @rule(who=index, which=index, part=index, nr_pages=st.integers(1, 3), at=st.integers(0, PAGE - 8))
    def msync_exactly(self, who: int, which: int, part: int, nr_pages: int, at: int) -> None:
        """Store to a page of a shared file, and write back those pages and no others."""
        pair = self.pair(who)
        vmas = [vma for vma in self.twins.vmas_emulated(pair) if self.shows_file(vma)]
        if not vmas:
            return
        vaddr, nbytes, _prot = self.part_of(vmas, which, part, nr_pages)
        data = self.twins.nr_steps.to_bytes(8, "big")
        for page in range(vaddr, vaddr + nbytes, PAGE):
            self.twins.both(pair, lambda process, _fds, where=page + at: process.store(where, data))  # type: ignore[misc]
        if self.twins.both(pair, lambda process, _fds: process.msync(vaddr, nbytes, 4)) == ("value", None):
            self.twins.compare_synced(pair, vaddr, nbytes)

    def shows_file(self, vma: Vma) -> bool:
        """Tell whether a mapping shows, writable, what is within a file."""
        _start, _end, prot, shared, pgoff, file = vma
        if not shared or not prot & WRITABLE or not file.isdigit():
            return False
        return pgoff * PAGE < self.twins.paths["host"][int(file)].stat().st_size
