"""The same memory, tables and access streams for our MMU and for the unicorn engine.

Both sides read the addresses from an array, 8 bytes an access: unicorn's guest from an array in guest memory, in
a loop of five to nine instructions; ours from a numpy array. Loop overhead counts on both sides. In the
30 % streams unicorn finds the kind in an address's low bit, ours in the array of kinds.
"""

from dataclasses import dataclass
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from unicorn import x86_const as x86

from emu.units import GIB, KIB, MIB
from tests.emu.hw.space import Space

unicorn: Any = import_module("unicorn")     # it has no types
U64 = npt.NDArray[np.uint64]

NR_ACCESSES = 400_000
DENSE, SPARSE, CODE, ARRAY = 0x1_0000_0000, 0x10_0000_0000, 0x2000_0000, 0x3000_0000
FOOTPRINT = 64 * MIB

# rsi: the array, rcx: the next index, rdi: the end
_PROGRAMS = {
    "loads": "488b04ce 488b10 48ffc1 4839f9 75f1",
    "stores": "488b04ce 488908 48ffc1 4839f9 75f1",
    "30% stores": "488b04ce a801 7505 488b10 eb04 488948ff 48ffc1 4839f9 75e7",
}
KINDS = {"loads": 0.0, "stores": 1.0, "30% stores": 0.3}
STREAMS = ("sequential", "random 128 KiB", "random 4 MiB", "random 64 MiB", "4 GiB over 64 MiB")


@dataclass(frozen=True)
class Rate:
    """Accesses a second of one stream, the best of a few runs."""

    unicorn: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.unicorn


class Bench:
    """64 MiB of frames in random order, mapped densely, and again one page in 64 over 4 GiB."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.space = space = Space("x86_64", (FOOTPRINT + 64 * MIB) >> 12)
        fmt = space.fmt
        nr_pages = FOOTPRINT >> 12
        frames = np.array([space.frame() for _ in range(nr_pages)])
        self.rng.shuffle(frames)
        self.sparse_pages = self.rng.choice(4 * GIB >> 12, nr_pages, replace=False)
        for pfn, page, sparse in zip(frames.tolist(), range(nr_pages), self.sparse_pages.tolist(), strict=True):
            pte = fmt.mk_pte(pfn, write=True, execute=False, accessed=True)
            space.set(DENSE + (page << 12), pte)
            space.set(SPARSE + (sparse << 12), pte)
        code = space.map(CODE, execute=True, accessed=True, dirty=True)
        self.array_frames = [space.map(ARRAY + (page << 12), accessed=True) for page in range(NR_ACCESSES // 512 + 1)]
        self.programs = {}
        for number, (kind, text) in enumerate(_PROGRAMS.items()):
            program = bytes.fromhex(text)
            space.physmem.frame(code)[number * 256 : number * 256 + len(program)] = program
            self.programs[kind] = CODE + number * 256, CODE + number * 256 + len(program)
        self.engine: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        ram = space.physmem.u8
        self.engine.mem_map_ptr(0, ram.nbytes, unicorn.UC_PROT_ALL, ram.ctypes.data)
        self.engine.reg_write(x86.UC_X86_REG_CR3, space.root << 12)
        self.engine.reg_write(x86.UC_X86_REG_CR4, 0x20)
        self.engine.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, 0xD00))
        self.engine.reg_write(x86.UC_X86_REG_CR0, 0x8001_0033)

    def stream(self, name: str) -> U64:
        words = self.rng.integers(0, 512, NR_ACCESSES) * 8
        if name == "sequential":
            vaddrs = DENSE + np.arange(NR_ACCESSES) * 8 % FOOTPRINT
        elif name.startswith("random"):
            nbytes = {"random 128 KiB": 128 * KIB, "random 4 MiB": 4 * MIB, "random 64 MiB": FOOTPRINT}[name]
            vaddrs = DENSE + self.rng.integers(0, nbytes // 8, NR_ACCESSES) * 8
        else:
            vaddrs = SPARSE + (self.rng.choice(self.sparse_pages, NR_ACCESSES) << 12) + words
        return vaddrs.astype(np.uint64)

    def measure(self, name: str, kind: str, runs: int = 5) -> Rate:
        """Run one stream on both sides by turns."""
        vaddrs = self.stream(name)
        kinds = (self.rng.random(NR_ACCESSES) < KINDS[kind]).astype(np.uint8)
        values = np.zeros(NR_ACCESSES, np.uint64)
        marked = vaddrs | kinds if kind == "30% stores" else vaddrs
        for page, pfn in enumerate(self.array_frames):
            part = marked[page * 512 : page * 512 + 512]
            self.space.physmem.u64[pfn * 512 : pfn * 512 + len(part)] = part
        theirs, ours = [], []
        for _ in range(runs):
            theirs.append(self._time_unicorn(kind))
            start = perf_counter()
            assert self.space.mmu.run(vaddrs, kinds, values) == NR_ACCESSES
            ours.append(perf_counter() - start)
        return Rate(NR_ACCESSES / min(theirs), NR_ACCESSES / min(ours))

    def _time_unicorn(self, kind: str) -> float:
        begin, end = self.programs[kind]
        self.engine.reg_write(x86.UC_X86_REG_RSI, ARRAY)
        self.engine.reg_write(x86.UC_X86_REG_RCX, 0)
        self.engine.reg_write(x86.UC_X86_REG_RDI, NR_ACCESSES)
        start = perf_counter()
        self.engine.emu_start(begin, end)
        seconds = perf_counter() - start
        assert self.engine.reg_read(x86.UC_X86_REG_RCX) == NR_ACCESSES
        return seconds

    def gather(self, name: str) -> float:
        """Return how many words a second numpy gathers at the same distances, with no MMU at all."""
        flat = np.zeros(FOOTPRINT // 8, np.uint64)
        indexes = (self.stream(name) - np.uint64(DENSE)) // np.uint64(8) % np.uint64(len(flat))
        where = indexes.astype(np.int64)
        times = []
        for _ in range(5):
            start = perf_counter()
            flat.take(where)
            times.append(perf_counter() - start)
        return NR_ACCESSES / min(times)
