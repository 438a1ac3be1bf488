"""The first rules of the differential test: mapping, accesses, files and processes."""

import os
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from emu.mm.madvise import MADV_FREE, MADV_PAGEOUT
from emu.mm.mmap import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_LOCKED,
    MAP_NONBLOCK,
    MAP_POPULATE,
)
from tests.stateful.twin_words import ARENA_PAGES, BASE, END, PAGE, RW
from tests.stateful.twins import HEAP_PAGES, TwinMachines, Twins

_WRAP = (1 << 64) - PAGE
_BEYOND = 1 << 47
MAP_NORESERVE = 0x4000
MAP_32BIT, MAP_STACK, MAP_UNKNOWN = 0x40, 0x20000, 0x2000000

index = st.integers(0, 1 << 16)
places = st.tuples(
    st.sampled_from(("mapped",) * 7 + ("any",) * 4 + ("heap", "unaligned", "beyond", "wrap", "below")), index
)
lengths = st.one_of(
    st.integers(1, 8).map(lambda pages: pages * PAGE),
    st.integers(1, 8).map(lambda pages: pages * PAGE),
    st.sampled_from((0, 1, PAGE - 1, PAGE + 1, 3 * PAGE + 8, _WRAP, (1 << 64) - 1)),
)
prots = st.sampled_from((RW, RW, RW, 1, 1, 0, 2, 3, 7, 5, 8, 16, 1 << 20, 1 << 24 | RW, 1 << 25 | 1, 3 << 24))
kinds = st.sampled_from((1, 1, 1, 2, 2, 0x21, 0x22, 0x22, 3, 0, 0x20))
pgoffs = st.one_of(st.integers(0, 14), st.integers(0, 14), st.sampled_from((1 << 52, (1 << 52) - 1, (1 << 64) - 1)))
# All but MADV_COLLAPSE and guards (madvise_later), and some that are none.
advices = st.sampled_from((*range(5), *range(8, 25), 8, 4, 4, 9, 10, 18, 18, 18, 22, 23, 5, 6, 7, 26, 99, -1))
data = st.binary(min_size=1, max_size=16)


class Calls(RuleBasedStateMachine):
    """Each rule does one thing to the emulated machine and to the kernel underneath."""

    directory: Path
    nr_steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.twins: TwinMachines
        self.watch = True
        self.given_up = False
        """Whether MADV_FREE was said of anything: then what reclaim takes must not be told by chance."""

    @initialize(watch=st.booleans(), swapping=st.booleans(), privileged=st.booleans())
    def begin(self, watch: bool, swapping: bool, privileged: bool) -> None:
        privileged = privileged and os.geteuid() == 0
        self.twins = TwinMachines(self.directory, swapping=swapping, privileged=privileged)
        # Looking at every page after every step faults them all in, which hides what happens to absent ones.
        self.watch = watch
        # Down to here, and no further, grows what MAP_GROWSDOWN made: memory without any access needs no guard gap.
        self.twins.both(
            self.pair(0), lambda process, _fds: process.sys_mmap(BASE - PAGE, PAGE, 0, 0x21 | MAP_FIXED, -1, 0)
        )
        for first, kind, fd in ((0, 1, 0), (8, 2, 0), (14, 0x22, -1), (20, 0x21, -1)):
            self.map(0, ("any", first), 6 * PAGE, RW, kind, MAP_FIXED, fd, 0)
            for page in range(first, first + 6, 2):
                self.store(0, ("any", page), 8, b"begun")

    def pair(self, who: int) -> Twins:
        return self.twins.pairs[who % len(self.twins.pairs)]

    def vaddr(self, pair: Twins, place: tuple[str, int]) -> int:
        how, which = place
        if how == "heap" and self.twins.heap:
            return self.twins.heap + which % HEAP_PAGES * PAGE
        anywhere = BASE + which % ARENA_PAGES * PAGE
        if how == "mapped":
            mapped = self.twins.mapped(pair)
            return mapped[which % len(mapped)] if mapped else anywhere
        others = {"unaligned": anywhere + 1 + which % 4094, "beyond": _BEYOND, "wrap": _WRAP, "below": BASE - 16 * PAGE}
        return others.get(how, anywhere)

    def within(self, vaddr: int, nbytes: int) -> int:
        """Cut a length off at the end of the arena or of the heap, if it is not absurd."""
        room = self.twins.room(vaddr & -PAGE)
        return min(nbytes, room) if room and nbytes <= ARENA_PAGES * PAGE else nbytes

    # Mapping

    @rule(
        who=index,
        place=places,
        nbytes=lengths,
        prot=prots,
        kind=kinds,
        flags=st.sampled_from((MAP_FIXED,) * 8 + (0, MAP_FIXED_NOREPLACE, MAP_FIXED | MAP_POPULATE))
        | st.sampled_from((MAP_FIXED | MAP_LOCKED, MAP_FIXED | MAP_POPULATE | MAP_NONBLOCK, MAP_FIXED | MAP_NORESERVE))
        | st.sampled_from((MAP_FIXED | MAP_GROWSDOWN, MAP_GROWSDOWN | MAP_FIXED_NOREPLACE))
        | st.sampled_from((MAP_FIXED | MAP_STACK, MAP_FIXED | MAP_32BIT, MAP_FIXED | MAP_UNKNOWN)),
        fd=st.sampled_from((0, 0, 0, 1, 2, 3, -1)),
        pgoff=pgoffs,
    )
    def map(
        self, who: int, place: tuple[str, int], nbytes: int, prot: int, kind: int, flags: int, fd: int, pgoff: int
    ) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        nbytes = self.within(vaddr, nbytes)
        if BASE <= vaddr < END and pgoff < 8:
            # Often what continues its neighbours, so that there is something to merge.
            pgoff = (vaddr - BASE) // PAGE % 16
        offset = (pgoff * PAGE + (prot == 5)) & (1 << 63) - 1
        self.twins.both_mapping(
            pair,
            nbytes,
            lambda process, fds: process.sys_mmap(vaddr, nbytes, prot, kind | flags, -1 if fd < 0 else fds[fd], offset),
        )

    @rule(
        who=index,
        which=index,
        nr_pages=st.integers(1, 4),
        below=st.booleans(),
        flags=st.sampled_from((MAP_FIXED, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_FIXED | MAP_LOCKED)),
    )
    def extend(self, who: int, which: int, nr_pages: int, below: bool, flags: int) -> None:
        """Map what continues a mapping, above or below it: the two merge, unless something else keeps them apart."""
        pair = self.pair(who)
        vmas = self.twins.vmas_emulated(pair)
        if not vmas:
            return
        start, end, prot, shared, pgoff, file = vmas[which % len(vmas)]
        low, high = next(region for region in self.twins.regions if region[0] <= start < region[1])
        if below:
            nr_pages = min(nr_pages, (start - low) // PAGE, pgoff if file.isdigit() else ARENA_PAGES)
            vaddr, pgoff = start - nr_pages * PAGE, pgoff - nr_pages
        else:
            nr_pages = min(nr_pages, (high - end) // PAGE)
            vaddr, pgoff = end, pgoff + (end - start) // PAGE
        if nr_pages < 1:
            return
        kind = (1 if shared else 2) | (0 if file.isdigit() else MAP_ANONYMOUS)
        fd, offset = (2 * int(file), pgoff * PAGE) if file.isdigit() else (-1, 0)
        self.twins.both_mapping(
            pair,
            nr_pages * PAGE,
            lambda process, fds: process.sys_mmap(
                vaddr, nr_pages * PAGE, prot, kind | flags, -1 if fd < 0 else fds[fd], offset
            ),
        )

    @rule(who=index, place=places, nbytes=lengths)
    def munmap(self, who: int, place: tuple[str, int], nbytes: int) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        self.twins.both(pair, lambda process, _fds: process.munmap(vaddr, nbytes))

    @rule(
        who=index,
        place=places,
        old_nbytes=lengths,
        new_nbytes=lengths,
        flags=st.sampled_from((0, 1, 1, 3, 3, 3, 2, 8)),
        onto=places,
    )
    def mremap(
        self, who: int, place: tuple[str, int], old_nbytes: int, new_nbytes: int, flags: int, onto: tuple[str, int]
    ) -> None:
        pair = self.pair(who)
        vaddr, new_vaddr = self.vaddr(pair, place), self.vaddr(pair, onto)
        new_nbytes = self.within(vaddr if not flags & 2 else new_vaddr, new_nbytes)
        if self.twins.moves_many(pair, vaddr, old_nbytes, new_nbytes, fixed=bool(flags & 2)):
            return
        self.twins.both_mapping(
            pair,
            new_nbytes,
            lambda process, _fds: process.mremap(vaddr, old_nbytes, new_nbytes, flags, new_vaddr),
        )

    @rule(who=index, which=index, part=index, new_pages=st.integers(1, 6), onto=st.integers(0, ARENA_PAGES - 1))
    def move(self, who: int, which: int, part: int, new_pages: int, onto: int) -> None:
        """Move pages that are mapped to where there may be something else, perhaps with another length."""
        pair = self.pair(who)
        vmas = self.twins.vmas_emulated(pair)
        if not vmas:
            return
        start, end = vmas[which % len(vmas)][:2]
        vaddr = start + part % ((end - start) // PAGE) * PAGE
        old_nbytes = min(end - vaddr, (1 + part // 64 % 6) * PAGE)
        new_nbytes = min(new_pages, ARENA_PAGES - onto) * PAGE
        if self.twins.moves_many(pair, vaddr, old_nbytes, new_nbytes, fixed=True):
            return
        self.twins.both_mapping(
            pair,
            new_nbytes,
            lambda process, _fds: process.mremap(vaddr, old_nbytes, new_nbytes, 3, BASE + onto * PAGE),
        )

    @rule(who=index, place=places, nbytes=lengths, prot=prots)
    def mprotect(self, who: int, place: tuple[str, int], nbytes: int, prot: int) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        self.twins.both(pair, lambda process, _fds: process.mprotect(vaddr, nbytes, prot))

    @rule(
        who=index,
        place=places,
        nbytes=lengths,
        prot=st.sampled_from((0, 0, 0, 0, 1, 8)),
        pgoff=pgoffs,
        flags=st.sampled_from((0, 0, MAP_NONBLOCK, 1 << 40)),
    )
    def remap_file_pages(
        self, who: int, place: tuple[str, int], nbytes: int, prot: int, pgoff: int, flags: int
    ) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        self.twins.both(pair, lambda process, _fds: process.remap_file_pages(vaddr, nbytes, prot, pgoff, flags))

    @rule(who=index, place=places, nbytes=lengths, lock=st.booleans())
    def mlock(self, who: int, place: tuple[str, int], nbytes: int, lock: bool) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        self.twins.both(
            pair, lambda process, _fds: process.mlock(vaddr, nbytes) if lock else process.munlock(vaddr, nbytes)
        )

    @rule(who=index, place=places, nbytes=lengths, advice=advices)
    def madvise(self, who: int, place: tuple[str, int], nbytes: int, advice: int) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        if self.gives_up(advice):
            self.twins.both(pair, lambda process, _fds: process.madvise(vaddr, nbytes, advice))

    def gives_up(self, advice: int) -> bool:
        """Note MADV_FREE; tell whether reclaim, by chance, would show by such advice: then it is not given."""
        if advice == (MADV_FREE if self.twins.swapping else MADV_PAGEOUT) and (self.twins.swapping or self.given_up):
            return False
        self.given_up |= advice == MADV_FREE
        return True

    @rule(who=index, place=places, nbytes=lengths)
    def mincore(self, who: int, place: tuple[str, int], nbytes: int) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place)
        # What the page cache holds is each machine's own business; anonymous memory is there, on swap, or not.
        end = vaddr + nbytes
        vmas = self.twins.vmas_host(pair) if not self.twins.swapping else []
        anonymous = any(vma[0] <= vaddr and end <= vma[1] and not vma[5] for vma in vmas)
        self.twins.both(
            pair,
            lambda process, _fds: process.mincore(vaddr, nbytes) if anonymous else len(process.mincore(vaddr, nbytes)),
        )

    # Accesses, files, processes

    @rule(who=index, place=places, at=st.sampled_from((0, 8, 1236, 4084, 4095)), data=data)
    def store(self, who: int, place: tuple[str, int], at: int, data: bytes) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place) + at
        if vaddr < _BEYOND - 2 * PAGE:
            self.twins.both(pair, lambda process, _fds: process.store(vaddr, data))

    @rule(who=index, place=places, at=st.sampled_from((0, 1236, 4090)), nbytes=st.sampled_from((1, 8, PAGE)))
    def load(self, who: int, place: tuple[str, int], at: int, nbytes: int) -> None:
        pair = self.pair(who)
        vaddr = self.vaddr(pair, place) + at
        if vaddr < _BEYOND - 2 * PAGE:
            tail = self.twins.ends_in(pair, vaddr, nbytes)
            self.twins.both(
                pair, lambda process, _fds: len(process.load(vaddr, nbytes)) if tail else process.load(vaddr, nbytes)
            )

    @rule(who=index, place=places, nbytes=lengths, flags=st.sampled_from((4, 4, 4, 1, 2, 6, 0, 5, 8, 3)))
    def msync(self, who: int, place: tuple[str, int], nbytes: int, flags: int) -> None:
        pair = self.pair(who)
        if flags & 4:
            # Something to write back.
            self.store(who, place, 8, nbytes.to_bytes(8, "little"))
        vaddr = self.vaddr(pair, place)
        ended = self.twins.both(pair, lambda process, _fds: process.msync(vaddr, nbytes, flags))
        if ended == ("value", None) and flags & 4 and nbytes < _WRAP:
            self.twins.compare_synced(pair, vaddr, nbytes)

    @rule(fd=st.sampled_from((0, 0, 2, 2, 1, 3)), nbytes=st.integers(0, 15 * PAGE) | st.sampled_from((PAGE, -1)))
    def ftruncate(self, fd: int, nbytes: int) -> None:
        first = self.twins.pairs[0]
        now = self.twins.paths["host"][fd // 2].stat().st_size
        if self.twins.on_tmpfs and now % PAGE and nbytes > now:
            # What was stored behind the end would come to light on tmpfs alone (tail): it goes first, with its page.
            self.twins.both(first, lambda process, fds: process.ftruncate(fds[fd], now // PAGE * PAGE))
        self.twins.both(first, lambda process, fds: process.ftruncate(fds[fd], nbytes))

    @rule(who=index, which=index, advice=st.sampled_from((None, None, 10, 18, 18, MADV_FREE)))
    def fork(self, who: int, which: int, advice: int | None) -> None:
        """Fork, perhaps just after advice: DONTFORK, WIPEONFORK, FREE."""
        if len(self.twins.pairs) < 3:
            pair = self.pair(who)
            private = [vma for vma in self.twins.vmas_emulated(pair) if not vma[3] and not vma[5]]
            if advice is not None and private:
                start, end = private[which % len(private)][:2]
                if self.gives_up(advice):
                    self.twins.both(pair, lambda process, _fds: process.madvise(start, end - start, advice))
            self.twins.pairs.append(pair.fork())

    @precondition(lambda self: len(self.twins.pairs) > 1)
    @rule(who=index)
    def exit(self, who: int) -> None:
        """End a process, be it the last one or the parent of others."""
        gone = self.twins.pairs.pop(who % len(self.twins.pairs))
        gone.emulated.exit()
        gone.host.exit()

    @precondition(lambda self: not self.given_up)
    @rule(nr_pages=st.integers(1, 40))
    def writeback_and_reclaim(self, nr_pages: int) -> None:
        """What only the emulated machine does must not show."""
        kernel = self.twins.machine.kernel
        self.twins.machine.sync()
        kernel.try_to_free_pages(kernel, nr_pages)

    @invariant()
    def alike(self) -> None:
        self.twins.compare(pages=self.watch)

    def teardown(self) -> None:
        if not hasattr(self, "twins"):
            return
        try:
            self.twins.compare(pages=True)
            self.twins.compare_files()
        finally:
            type(self).nr_steps += self.twins.nr_steps
            self.twins.close()
