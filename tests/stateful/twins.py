"""Twins: one process on the emulated machine, one on the kernel underneath, kept alike and compared.

Both live in one arena of addresses, and have a heap, the emulated one where the host's is. The emulated machine is a
linear_vmas one: so does Linux since 4.0 serve remap_file_pages. Each has files of its own with equal content.
"""

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emu.check import check
from emu.errors import Signal
from emu.host import HostProcess
from emu.host_state import PM_FILE, PM_PRESENT, PM_SWAP, read_flags, read_maps
from emu.hw.swapops import is_swap_pte
from emu.machine import Machine
from emu.mm.inode import Inode
from emu.mm.rlimit import data_vm
from emu.mm_types.clock import VirtualClock
from emu.mm_types.mm import Mm
from emu.mm_types.page import PG_ANON
from emu.mm_types.vma import VM_EXEC, VM_MAYSHARE, VM_READ, VM_WRITE
from emu.process import Process
from tests.stateful.differences import merge_private, merge_where_emulated_did, within_file
from tests.stateful.twin_words import (
    BASE,
    END,
    FILE_NBYTES,
    FLAGS,
    PAGE,
    Vma,
    content,
    difference,
    outcome,
    told,
)

HEAP_PAGES = 12
CHECK_EVERY = 8
"""The emulated machine's own invariants and the flags of all VMAs are looked at after every so many steps."""
SQUEEZE_EVERY = 3
"""A machine that swaps sends all out that it can before each of so many steps."""
SHARED_ANONYMOUS = 0x21
FIXED = 0x10


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

    def __init__(self, directory: Path, *, swapping: bool = False, privileged: bool = True) -> None:
        self.swapping = swapping
        self.limit: tuple[int, int] | None = None
        """RLIMIT_* and how many bytes more than now it allows: for the next call."""
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
        ram, swap = (232, 320 * PAGE) if swapping else (1024, None)
        self.machine = Machine(
            "x86_64", ram * PAGE, "linear_vmas", clock=VirtualClock(), io_depth=0, readahead=0, swap=swap
        )
        first = Twins(self.machine.spawn(privileged=privileged), HostProcess())
        self.pairs = [first]
        if not privileged:
            first.host.drop_lock_privilege()
        first.emulated.mm.rlim[resource.RLIMIT_MEMLOCK] = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        self.heap = self.heap_alike(first)
        self.regions = [(BASE, END), (self.heap, self.heap + HEAP_PAGES * PAGE)][: 2 if self.heap else 1]
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

    def heap_alike(self, pair: Twins) -> int:
        """Have both heaps begin at one address, over a page without access; return that, or 0 if it cannot be."""
        try:
            start = pair.host.brk()
        except OSError:
            return 0
        pair.emulated.mm.start_brk = pair.emulated.mm.brk = start
        pair.emulated.sys_mmap(start - PAGE, PAGE, 0, SHARED_ANONYMOUS | FIXED, -1, 0)
        return start

    def room(self, vaddr: int) -> int:
        """Return how many bytes lie between an address and the end of the arena, or of the heap; 0 for other places."""
        return next((end - vaddr for start, end in self.regions if start <= vaddr < end), 0)

    # Doing the same on both

    def both(self, pair: Twins, call: Callable[[Any, list[int]], Any]) -> Any:
        """Do a call on both, compare how it ends, and return that: ("value", x), ("errno", name) or ("signal", ...)."""
        if self.swapping and not self.nr_steps % SQUEEZE_EVERY:
            self.squeeze()
        with self.limited(pair):
            emulated = outcome(lambda: call(pair.emulated, self.fds["emulated"]))
            host = outcome(lambda: call(pair.host, self.fds["host"]))
        self.nr_steps += 1
        self.alike = emulated == host
        assert self.alike, f"emulated {emulated}, host {host}"
        return host

    def squeeze(self) -> None:
        """Send out all that can go: what only the emulated machine does must not show."""
        kernel = self.machine.kernel
        for _ in range(2):
            kernel.try_to_free_pages(kernel, kernel.ram.nr_frames)

    @contextlib.contextmanager
    def limited(self, pair: Twins) -> Iterator[None]:
        """Set the limit that is asked for on both, counted from what each uses now."""
        limit, self.limit = self.limit, None
        if limit is None:
            yield
            return
        which, nbytes = limit
        mm = pair.emulated.mm
        soft, hard = mm.rlim[which]
        mm.rlim[which] = (used(mm, which) + nbytes, hard)
        try:
            with pair.host.within_limit(which, nbytes):
                yield
        finally:
            mm.rlim[which] = (soft, hard)

    def both_mapping(self, pair: Twins, nbytes: int, call: Callable[[Any, list[int]], int]) -> Any:
        """Do a call that returns an address; what ends up outside the arena is unmapped again, wherever it is."""

        def placed(process: Any, fds: list[int]) -> int | str:
            vaddr = call(process, fds)
            if self.room(vaddr):
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
            merged = merge_where_emulated_did(host, emulated, closes=self.on_mount)
            if self.on_mount:
                emulated, merged = merge_private(emulated), merge_private(merged)
            assert emulated == merged, f"emulated\n{told(emulated)}\nhost\n{told(host)}"
            self.compare_residency(pair, host)
            if every:
                self.compare_flags(pair)
            if pages:
                self.compare_pages(pair, host)
        self.alike = True

    def compare_residency(self, pair: Twins, vmas: list[Vma]) -> None:
        """Compare which pages of private mappings have anonymous pages; those of files are each page cache's own."""
        words = {
            start + place * PAGE: word
            for start, end in self.regions
            for place, word in enumerate(pair.host.pagemap(start, (end - start) // PAGE).tolist())
        }
        k, table = pair.emulated.kernel, pair.emulated.mm.pt
        for start, end, _prot, shared, _pgoff, file in vmas:
            for vaddr in range(start, end, PAGE) if not shared else ():
                word = words[vaddr]
                host = bool(word & PM_SWAP or (word & PM_PRESENT and not word & PM_FILE))
                pte = table.get(vaddr)
                emulated = k.fmt.pte_present(pte) or is_swap_pte(k.fmt, pte)
                if file and k.fmt.pte_present(pte):
                    emulated = bool(k.mem_map.flags[k.fmt.pte_pfn(pte)] & PG_ANON)
                assert emulated == host, f"{vaddr:#x} resident: emulated {emulated}, host {host}\n{told(vmas)}"

    def compare_flags(self, pair: Twins) -> None:
        """Compare VM_LOCKED, VM_MAY* and the like, page by page."""
        host: dict[int, set[str]] = {}
        for start, end, names in read_flags(pair.host.pid, BASE, self.regions[-1][1]):
            for vaddr in range(start, end, PAGE) if self.room(start) else ():
                host[vaddr] = names & set(FLAGS.values())
        emulated: dict[int, set[str]] = {}
        for vma in pair.emulated.mm.vmas:
            if self.room(vma.start):
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
        """Tell whether mremap would move a range that is not one VMA on both (mremap_many, vm_close)."""
        same = -(-old_nbytes // PAGE) == -(-new_nbytes // PAGE)
        end = vaddr + min(-(-old_nbytes // PAGE), -(-new_nbytes // PAGE)) * PAGE

        def parts(vmas: list[Vma]) -> list[Vma]:
            return [(max(vma[0], vaddr), min(vma[1], end), *vma[2:]) for vma in vmas if vma[0] < end and vma[1] > vaddr]

        emulated, host = parts(self.vmas_emulated(pair)), parts(self.vmas_host(pair))
        inside = [vma for vma in host if vma[0] <= vaddr and end <= vma[1]]
        return emulated != host or (fixed and same and not inside)

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
            if self.room(vma.start):
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
        names |= {"/dev/zero (deleted)": "zero", "": "", "[heap]": ""}
        return [
            (vma.start, vma.end, vma.prot, vma.shared, vma.pgoff if vma.name else 0, names[vma.name])
            for vma in read_maps(pair.host.pid, BASE, self.regions[-1][1])
            if self.room(vma.start)
        ]

    def mapped(self, pair: Twins) -> list[int]:
        """Return the mapped pages of the arena, by address."""
        return [vaddr for vma in self.vmas_emulated(pair) for vaddr in range(vma[0], vma[1], PAGE)]


def used(mm: Mm, which: int) -> int:
    """Return how many bytes of what a limit limits an emulated process has now; of the stack it is always 0."""
    if which == resource.RLIMIT_DATA:
        soft, hard = mm.rlim[which]
        mm.rlim[which] = (0, hard)
        nr_pages = data_vm(mm)
        mm.rlim[which] = (soft, hard)
        return nr_pages * PAGE
    return {resource.RLIMIT_AS: mm.total_vm, resource.RLIMIT_MEMLOCK: mm.locked_vm}.get(which, 0) * PAGE
