"""Twins: one process on the emulated machine, one on the kernel underneath, kept alike and compared.

Both live in one arena of addresses. The emulated machine is a linear_vmas one: so does Linux since 4.0 serve
remap_file_pages. Each has files of its own with equal content.
"""

import errno
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emu.check import check
from emu.errors import Signal
from emu.host import HostProcess
from emu.host_state import PM_FILE, PM_PRESENT, PM_SWAP, read_flags, read_maps
from emu.machine import Machine
from emu.mm.inode import Inode
from emu.mm_types.clock import VirtualClock
from emu.mm_types.page import PG_ANON
from emu.mm_types.vma import (
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
)
from emu.process import Process
from tests.stateful.differences import merge_where_emulated_did, within_file

PAGE = 4096
RW = mmap.PROT_READ | mmap.PROT_WRITE
BASE = 1 << 37
ARENA_PAGES = 40
END = BASE + ARENA_PAGES * PAGE
FILE_NBYTES = (12 * PAGE + 1240, 5 * PAGE)
CHECK_EVERY = 8
"""The emulated machine's own invariants and the flags of all VMAs are looked at after every so many steps."""
FLAGS = {
    VM_READ: "rd", VM_WRITE: "wr", VM_EXEC: "ex", VM_SHARED: "sh", VM_MAYREAD: "mr", VM_MAYWRITE: "mw",
    VM_MAYEXEC: "me", VM_MAYSHARE: "ms", VM_LOCKED: "lo", VM_SEQ_READ: "sr", VM_RAND_READ: "rr", VM_DONTCOPY: "dc",
    VM_WIPEONFORK: "wf", VM_DONTDUMP: "dd", VM_HUGEPAGE: "hg", VM_NOHUGEPAGE: "nh", VM_MERGEABLE: "mg",
    VM_ACCOUNT: "ac", VM_NORESERVE: "nr", VM_GROWSDOWN: "gd",
}  # fmt: skip
"""What /proc/PID/smaps calls the flags that both kernels have."""

Call = Callable[[Any], Any]
Vma = tuple[int, int, int, bool, int, str]
"""(start, end, PROT_*, shared, pgoff, file): file is a number, "zero" (shared anonymous) or empty."""


def content(number: int) -> bytes:
    """Return the first bytes of a file: each word tells where it lies."""
    nbytes = FILE_NBYTES[number]
    return b"".join((at << 8 | number + 1).to_bytes(8, "little") for at in range(0, nbytes, 8))[:nbytes]


@dataclass
class Twins:
    """The same process twice; `nr_forks` is how many forks it is away from the first one."""

    emulated: Process
    host: HostProcess
    nr_forks: int = 0

    def fork(self) -> "Twins":
        """Fork both."""
        return Twins(self.emulated.fork(), self.host.fork(), self.nr_forks + 1)


class TwinMachines:
    """An emulated machine and this one, with the same files and the same processes."""

    def __init__(self, directory: Path) -> None:
        self.on_tmpfs = directory.is_relative_to("/dev/shm")
        self.on_mount = (directory / ".bdi").is_dir()
        self.paths: dict[str, list[Path]] = {}
        self.fds: dict[str, list[int]] = {}
        for side in ("emulated", "host"):
            self.paths[side] = [directory / f"{side}{number}" for number in range(len(FILE_NBYTES))]
            for number, path in enumerate(self.paths[side]):
                path.write_bytes(content(number))
            # Of each file a descriptor for reading and writing, and one for reading only.
            self.fds[side] = [os.open(path, how) for path in self.paths[side] for how in (os.O_RDWR, os.O_RDONLY)]
        self.machine = Machine(
            "x86_64", 1024 * PAGE, "linear_vmas", clock=VirtualClock(), io_depth=0, readahead=0
        )
        self.pairs = [Twins(self.machine.spawn(), HostProcess())]
        self.nr_steps = 0
        self.alike = True

    def close(self) -> None:
        for pair in self.pairs:
            pair.host.exit()
        self.machine.power_off()
        for fds in self.fds.values():
            for fd in fds:
                os.close(fd)
        for paths in self.paths.values():
            for path in paths:
                path.unlink()

    # Doing the same on both

    def both(self, pair: Twins, call: Callable[[Any, list[int]], Any]) -> Any:
        """Do a call on both, compare how it ends, and return that: ("value", x), ("errno", name) or ("signal", ...)."""
        emulated = outcome(lambda: call(pair.emulated, self.fds["emulated"]))
        host = outcome(lambda: call(pair.host, self.fds["host"]))
        self.nr_steps += 1
        self.alike = emulated == host
        assert self.alike, f"emulated {emulated}, host {host}"
        return host

    def both_mapping(self, pair: Twins, nbytes: int, call: Callable[[Any, list[int]], int]) -> Any:
        """Do a call that returns an address; what ends up outside the arena is unmapped again, wherever it is."""

        def placed(process: Any, fds: list[int]) -> int | str:
            vaddr = call(process, fds)
            if BASE <= vaddr < END:
                return vaddr
            process.munmap(vaddr, nbytes)
            return "elsewhere"

        return self.both(pair, placed)

    def compare(self, *, pages: bool) -> None:
        """Compare all VMAs and what is resident, and the bytes of all pages if asked for.

        Not again where a difference is known already.
        """
        was_alike, self.alike = self.alike, False
        if not was_alike:
            return
        every = pages or not self.nr_steps % CHECK_EVERY
        if every:
            check(self.machine)
        for pair in self.pairs:
            emulated, host = self.vmas_emulated(pair), self.vmas_host(pair)
            forked = pair is not self.pairs[0]
            merged = merge_where_emulated_did(host, emulated, forked=forked, closes=self.on_mount)
            assert emulated == merged, f"emulated\n{told(emulated)}\nhost\n{told(host)}"
            self.compare_residency(pair, host)
            if every:
                self.compare_flags(pair)
            if pages:
                self.compare_pages(pair, host)
        self.alike = True

    def compare_residency(self, pair: Twins, vmas: list[Vma]) -> None:
        """Compare which pages of private mappings have anonymous pages; those of files are each page cache's own."""
        words = pair.host.pagemap(BASE, ARENA_PAGES).tolist()
        k, table = pair.emulated.kernel, pair.emulated.mm.pt
        for start, end, _prot, shared, _pgoff, file in vmas:
            for vaddr in range(start, min(end, END), PAGE) if not shared else ():
                word = words[(vaddr - BASE) // PAGE]
                host = bool(word & PM_SWAP or (word & PM_PRESENT and not word & PM_FILE))
                pte = table.get(vaddr)
                emulated = k.fmt.pte_present(pte)
                if file:
                    emulated = emulated and bool(k.mem_map.flags[k.fmt.pte_pfn(pte)] & PG_ANON)
                elif emulated and not host and pair.nr_forks > 1 and k.fmt.pte_pfn(pte) == k.zero_pfn:
                    # Copied with a mapping that the host has apart from one with an anon_vma (anon_vma).
                    continue
                assert emulated == host, f"{vaddr:#x} resident: emulated {emulated}, host {host}\n{told(vmas)}"

    def compare_flags(self, pair: Twins) -> None:
        """Compare VM_LOCKED, VM_MAY* and the like, page by page."""
        host: dict[int, set[str]] = {}
        for start, end, names in read_flags(pair.host.pid, BASE, END):
            for vaddr in range(start, end, PAGE):
                host[vaddr] = names & set(FLAGS.values())
        emulated: dict[int, set[str]] = {}
        for vma in pair.emulated.mm.vmas:
            if BASE <= vma.start < END:
                names = {name for flag, name in FLAGS.items() if vma.flags & flag}
                emulated |= dict.fromkeys(range(vma.start, vma.end, PAGE), names)
        for vaddr, names in emulated.items():
            assert names == host[vaddr], f"{vaddr:#x}: emulated {sorted(names)}, host {sorted(host[vaddr])}"

    def compare_pages(self, pair: Twins, vmas: list[Vma]) -> None:
        places = [(vma, vaddr) for vma in vmas for vaddr in range(vma[0], vma[1], PAGE)]
        looked = pair.host.look([vaddr for _vma, vaddr in places])
        for (vma, vaddr), found in zip(places, looked, strict=True):
            host = found
            try:
                emulated: bytes | None = pair.emulated.load(vaddr, PAGE)
            except Signal:
                emulated = None
            pgoff = vma[4] + (vaddr - vma[0]) // PAGE
            if vma[5].isdigit():
                nbytes = self.paths["host"][int(vma[5])].stat().st_size
                emulated, host = within_file(emulated, pgoff, nbytes), within_file(host, pgoff, nbytes)
            assert emulated == host, f"{vaddr:#x}: {difference(emulated, host)}\n{told(vmas)}"

    def ends_in(self, pair: Twins, vaddr: int, nbytes: int) -> bool:
        """Tell whether a range shows the last page of a file, whose end lies within the page."""
        for start, end, _prot, _shared, pgoff, file in self.vmas_host(pair):
            if file.isdigit() and max(start, vaddr) < min(end, vaddr + nbytes):
                tail, rest = divmod(self.paths["host"][int(file)].stat().st_size, PAGE)
                at = start + (tail - pgoff) * PAGE
                if rest and at < vaddr + nbytes and vaddr < at + PAGE:
                    return True
        return False

    def moves_many(self, pair: Twins, vaddr: int, old_nbytes: int, new_nbytes: int, *, fixed: bool) -> bool:
        """Tell whether mremap would move a range that is not one VMA on both (mremap_many, anon_vma)."""
        same = -(-old_nbytes // PAGE) == -(-new_nbytes // PAGE)
        end = vaddr + min(-(-old_nbytes // PAGE), -(-new_nbytes // PAGE)) * PAGE

        def parts(vmas: list[Vma]) -> list[Vma]:
            return [(max(vma[0], vaddr), min(vma[1], end), *vma[2:]) for vma in vmas if vma[0] < end and vma[1] > vaddr]

        emulated, host = parts(self.vmas_emulated(pair)), parts(self.vmas_host(pair))
        inside = [vma for vma in host if vma[0] <= vaddr and end <= vma[1]]
        return emulated != host or (fixed and same and not inside) or self.merged_before_written(pair, vaddr)

    def merged_before_written(self, pair: Twins, vaddr: int) -> bool:
        """Tell whether anonymous memory of a child has an anon_vma from its parent, and on the host perhaps none.

        Without one it gets a new pgoff where it is moved, and merges there with other neighbours (anon_vma).
        """
        vma = pair.emulated.mm.vmas.find(vaddr)
        if not pair.nr_forks or vma is None or vma.mapping is not None or vma.anon_vma is None:
            return False
        k, table = pair.emulated.kernel, pair.emulated.mm.pt
        ranges = [range(one[0], one[1], PAGE) for one in self.vmas_host(pair) if one[0] <= vaddr < one[1]]
        ptes = [table.get(page) for pages in ranges for page in pages]
        return not any(k.fmt.pte_present(pte) and k.mem_map.flags[k.fmt.pte_pfn(pte)] & PG_ANON for pte in ptes)

    def compare_synced(self, pair: Twins, vaddr: int, nbytes: int) -> None:
        """Compare what is in the files, of the pages that msync was to write."""
        end = vaddr + nbytes
        for start, stop, _prot, shared, pgoff, file in self.vmas_host(pair):
            low, high = max(start, vaddr), min(stop, end)
            if shared and file.isdigit() and low < high:
                first = (pgoff << 12) + low - start
                emulated, host = (
                    self.paths[side][int(file)].read_bytes()[first : first + high - low] for side in self.paths
                )
                assert emulated == host, f"file {file}: {difference(emulated, host)}"

    def compare_files(self) -> None:
        if not self.alike:
            return
        self.machine.sync()
        for emulated, host in zip(self.paths["emulated"], self.paths["host"], strict=True):
            assert emulated.read_bytes() == host.read_bytes(), f"{host.name} after sync"

    # What is mapped

    def vmas_emulated(self, pair: Twins) -> list[Vma]:
        found = []
        for vma in pair.emulated.mm.vmas:
            if BASE <= vma.start < END:
                prot = sum(bit for bit, flag in ((1, VM_READ), (2, VM_WRITE), (4, VM_EXEC)) if vma.flags & flag)
                file = ""
                if vma.mapping is not None:
                    inode = vma.mapping.host
                    assert isinstance(inode, Inode)
                    file = "zero" if inode.anonymous else str(self.paths["emulated"].index(Path(inode.name)))
                shared = bool(vma.flags & VM_MAYSHARE)
                found.append((vma.start, vma.end, prot, shared, vma.pgoff if file else 0, file))
        return found

    def vmas_host(self, pair: Twins) -> list[Vma]:
        names = {str(path): str(number) for number, path in enumerate(self.paths["host"])}
        names |= {"/dev/zero (deleted)": "zero", "": ""}
        return [
            (vma.start, vma.end, vma.prot, vma.shared, vma.pgoff if vma.name else 0, names[vma.name])
            for vma in read_maps(pair.host.pid, BASE, END)
        ]

    def mapped(self, pair: Twins) -> list[int]:
        """Return the mapped pages of the arena, by address."""
        return [vaddr for vma in self.vmas_emulated(pair) for vaddr in range(vma[0], vma[1], PAGE)]


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """Return how a call ended."""
    try:
        return "value", call()
    except OSError as error:
        return "errno", errno.errorcode[error.errno or 0]
    except Signal as signal:
        return "signal", type(signal).__name__, signal.vaddr & -PAGE


def told(vmas: list[Vma]) -> str:
    lines = []
    for start, end, prot, shared, pgoff, file in vmas:
        mode = f"{prot:03b}{'s' if shared else 'p'}"
        lines.append(f"  page {(start - BASE) // PAGE:2} to {(end - BASE) // PAGE:2} {mode} pgoff={pgoff} {file!r}")
    return "\n".join(lines)


def difference(emulated: bytes | None, host: bytes | None) -> str:
    if emulated is None or host is None:
        return f"emulated {'cannot' if emulated is None else 'can'}, host {'cannot' if host is None else 'can'} load it"
    if len(emulated) != len(host):
        return f"emulated {len(emulated)} bytes, host {len(host)}"
    at = next(at for at in range(len(host)) if emulated[at] != host[at])
    return f"byte {at}: emulated {emulated[at : at + 8].hex()}, host {host[at : at + 8].hex()}"
