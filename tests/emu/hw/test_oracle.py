"""Our MMU against the unicorn engine: random tables, addresses and permissions, every kind of access."""

from random import Random

import numpy as np
import pytest

from emu.hw.mmu import R_CR2, R_ERROR, R_FAULT, AccessKind, Cause, kind_of
from emu.hw.pte import FORMATS, PteFormat
from tests.emu.hw.oracle import SYSTEM, WORD_AT, Judge, judge_of
from tests.emu.hw.space import Space

NR_FRAMES = 48
FIRST_DATA = 24     # frames below hold tables and the judge's own pages
PAGE_FAULT, GENERAL_PROTECTION = 14, 13
PREFETCH_ABORT, DATA_ABORT = 3, 4
UNMAPPED = 1000     # unicorn stops with an error where there is no RAM


def judged_bits(fmt: PteFormat, level: int, is_table: bool) -> list[int]:
    """Return the bits of an entry whose meaning unicorn judges; the others are the vectors' business."""
    if fmt.name.startswith("sv"):
        return [0, 1, 2, 3, 5, 8, 9] if is_table else list(range(10))
    if fmt.name.startswith("arm64"):
        bits = [*range(12), *range(51, 64)]
        if level < fmt.nr_levels - 1 and not fmt.has_huge(level):
            bits.remove(1)      # it takes a block where there are none
        return bits
    low = list(range(12))
    if fmt.name == "i386" and is_table:
        low.remove(7)           # its large pages have 40 bits of address (PSE-36), ours 32
    if fmt.name == "i386_pae" and level == 0:
        return [0, 3, 4, 9, 10, 11]     # it does not check what a PDPTE reserves
    if fmt.name == "i386":
        return low
    high = {"i386_pae": range(40, 52), "x86_64": range(46, 52), "x86_64_la57": ()}[fmt.name]
    return [*low, *high, 63]


class Trial:
    """One chain of entries and one access, drawn from `rng`."""

    def __init__(self, rng: Random, fmt: PteFormat) -> None:
        self.kind = rng.choice(list(AccessKind))
        self.user = rng.random() < 0.7
        pfn = rng.randrange(FIRST_DATA, NR_FRAMES)
        leaves = [level for level in range(fmt.nr_levels - 1) if fmt.has_huge(level)]
        self.leaf_level = rng.choice([fmt.nr_levels - 1] * 3 + leaves)
        is_large = self.leaf_level < fmt.nr_levels - 1
        shift = fmt.levels[self.leaf_level].shift
        self.vaddr = self._address(rng, fmt) >> shift << shift
        if is_large:
            self.vaddr |= pfn << fmt.page_shift
        self.entries = []
        for level in range(self.leaf_level + 1):
            self.entries.append(self._entry(rng, fmt, level, pfn))

    def _address(self, rng: Random, fmt: PteFormat) -> int:
        root = fmt.levels[0]
        index = rng.choice([one for one in range(1 << root.bits) if one != fmt.index(SYSTEM, 0)])
        vaddr = index << root.shift | rng.getrandbits(root.shift)
        if fmt.sign_extended and vaddr >> fmt.va_bits - 1:
            vaddr |= 2**64 - (1 << fmt.va_bits)
        if fmt.va_bits > 32 and rng.random() < 0.05:
            vaddr ^= 1 << rng.randrange(fmt.va_bits, 64)
        return vaddr

    def _entry(self, rng: Random, fmt: PteFormat, level: int, pfn: int) -> int:
        is_table = level < self.leaf_level
        if is_table:
            entry = fmt.mk_table(2 + level, level)
        else:
            rights = {key: rng.random() < 0.6 for key in ("write", "execute")}
            rights |= {key: rng.random() < 0.8 for key in ("user", "accessed", "dirty")}
            is_large = level < fmt.nr_levels - 1
            entry = fmt.mk_huge_pte(level, 0, **rights) if is_large else fmt.mk_pte(pfn, **rights)
        for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 2, 4])):
            entry ^= 1 << rng.choice(judged_bits(fmt, level, is_table))
        return entry


def leaf_of_1g(fmt: PteFormat, trial: Trial) -> list[int]:
    """Return x86's entries for pages of 1 GiB, which unicorn marks accessed before it looks at the rights."""
    return [
        entry
        for level, entry in enumerate(trial.entries)
        if fmt.name.startswith("x86_64") and fmt.levels[level].shift == 30 and fmt.entry_is_leaf(entry, level)
    ]


def place(space: Space, trial: Trial, *, clear: bool = False) -> None:
    """Write the chain's entries into the root and frames 2, 3, ..., or take them out again."""
    fmt = space.fmt
    for level, entry in enumerate(trial.entries):
        frame = space.root if level == 0 else 1 + level
        at = (frame << fmt.page_shift) // fmt.pte_bytes + fmt.index(trial.vaddr, level)
        space.words()[at] = 0 if clear else entry


def same_fault(space: Space, trial: Trial, exception: int, cr2: int | None) -> bool:
    """Tell whether the registers say what the judge's exception says."""
    if exception >= UNMAPPED:
        return space.mmu.regs[R_FAULT] in {Cause.NO_MEMORY, Cause.NO_TABLE_MEMORY}
    cause, vaddr, code = space.mmu.regs[R_FAULT], space.mmu.regs[R_CR2], space.mmu.regs[R_ERROR]
    if space.fmt.name.startswith("sv"):
        return exception == code
    if space.fmt.name.startswith("arm64"):
        return exception == (PREFETCH_ABORT if trial.kind == AccessKind.FETCH else DATA_ABORT)
    if cause == Cause.NOT_CANONICAL:
        return exception == GENERAL_PROTECTION
    return exception == PAGE_FAULT and cr2 == vaddr


def compare(space: Space, judge: Judge, trial: Trial, number: int) -> bool:
    """Make the access on both sides; return whether it faulted."""
    place(space, trial)
    judge.ram[:] = space.physmem.u64
    is_fetch = trial.kind == AccessKind.FETCH
    vaddr = trial.vaddr if is_fetch else trial.vaddr | WORD_AT
    nbytes = 4 if is_fetch or not judge.wide or space.fmt.name == "i386_pae" else 8
    verdict = judge.attempt(vaddr, trial.kind, trial.user, number)
    space.mmu.invalidate_all()
    space.mmu.set_supervisor(not trial.user)
    value = space.mmu.access(vaddr, kind_of(trial.kind, nbytes), number)
    what = f"{trial.kind!r} user={trial.user} {vaddr:#x} {[hex(entry) for entry in trial.entries]} {verdict}"
    faulted = space.mmu.regs[R_FAULT] != 0
    if is_fetch and verdict.exception == judge.not_an_instruction:
        assert not faulted, what
    elif faulted or verdict.exception:
        assert faulted, what
        assert same_fault(space, trial, verdict.exception, verdict.cr2), what
    elif is_fetch:
        marker = judge.marker(verdict.value)
        assert value == int.from_bytes(marker[:4], "little"), what
    else:
        assert value == verdict.value, what
    ours = space.physmem.u64.copy()
    if faulted:
        for leaf in leaf_of_1g(space.fmt, trial):
            ours[ours == leaf] |= judge.ram[ours == leaf] & np.uint64(space.fmt.accessed_mask)
    assert np.array_equal(judge.ram, ours), what
    place(space, trial, clear=True)
    return faulted


def run_trials(name: str, count: int, seed: int) -> None:
    has_ad = not name.startswith("arm64")
    space = Space(name, NR_FRAMES, hardware_ad=has_ad)
    space.physmem.u64[:] = 0
    while (pfn := space.physmem.alloc_frame()) < 12:     # the chain's tables stand in frames 2 to 6
        space.physmem.zero_frame(pfn)
    judge = judge_of(space)
    assert not space.physmem.is_allocated(FIRST_DATA)
    for pfn in range(FIRST_DATA, NR_FRAMES):
        marker = judge.marker(pfn)
        space.physmem.frame(pfn)[: len(marker)] = marker
        space.poke(pfn, pfn << 32 | pfn, WORD_AT)
    rng = Random(seed)
    faults = sum(compare(space, judge, Trial(rng, space.fmt), number) for number in range(1, count + 1))
    assert count * 0.1 < faults < count * 0.9, f"{faults} faults in {count} trials: not both were tried"


@pytest.mark.parametrize("name", FORMATS)
def test_unicorn_translates_as_we_do(name: str) -> None:
    run_trials(name, 500, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_unicorn_translates_as_we_do_at_length(name: str) -> None:
    run_trials(name, 12_000, seed=2)
