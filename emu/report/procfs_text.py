"""The emulated counters in the formats of /proc, so that what reads /proc reads them: vmstat, meminfo, maps, smaps.

Source: Linux v6.12 mm/vmstat.c: vmstat_show(); fs/proc/meminfo.c: show_val_kb(); fs/proc/task_mmu.c:
show_vma_header_prefix(), show_smap(); the order of fields is theirs.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from emu.lab import procfs
from emu.units import KIB

if TYPE_CHECKING:
    from emu.mm.kernel import Kernel
    from emu.mm_types.mm import Mm
    from emu.mm_types.vma import VmArea

_NAME_COLUMN = 73


def vmstat_text(counters: Mapping[str, int]) -> str:
    """Return counters as /proc/vmstat prints them."""
    return "".join(f"{name} {value}\n" for name, value in counters.items())


def meminfo_text(fields: Mapping[str, int]) -> str:
    """Return fields in kB as /proc/meminfo prints them."""
    return "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in fields.items())


def maps_line(k: "Kernel", vma: "VmArea") -> str:
    """Return a VMA's line of /proc/PID/maps."""
    major, minor, ino, name = procfs.file_of(k, vma)
    first_byte = vma.pgoff << k.page_shift if vma.mapping is not None else 0
    head = (
        f"{vma.start:08x}-{vma.end:08x} {procfs.permissions(vma)} {first_byte:08x} {major:02x}:{minor:02x} {ino} "
    )
    return (f"{head:<{_NAME_COLUMN}}{name}" if name else head) + "\n"


def maps_text(k: "Kernel", mm: "Mm") -> str:
    """Return /proc/PID/maps of a process."""
    return "".join(maps_line(k, vma) for vma in mm.vmas)


def smaps_text(k: "Kernel", mm: "Mm") -> str:
    """Return /proc/PID/smaps of a process."""
    return "".join(_smaps_of(k, vma) for vma in mm.vmas)


def _smaps_of(k: "Kernel", vma: "VmArea") -> str:
    found = procfs.smaps(k, vma)
    page = k.page_size
    rows = {
        "Size": vma.end - vma.start,
        "KernelPageSize": page,
        "MMUPageSize": page,
        "Rss": found.rss,
        "Pss": found.pss,
        "Pss_Dirty": found.pss_dirty,
        "Shared_Clean": found.shared_clean,
        "Shared_Dirty": found.shared_dirty,
        "Private_Clean": found.private_clean,
        "Private_Dirty": found.private_dirty,
        "Referenced": found.referenced,
        "Anonymous": found.anonymous,
        "LazyFree": found.lazyfree,
        "AnonHugePages": found.anon_huge,
        "Swap": found.swap,
        "SwapPss": found.swap_pss,
        "Locked": found.pss if procfs.locked(vma) else 0,
    }
    if vma.nonlinear:
        rows["Nonlinear"] = found.nonlinear
    lines = [f"{name + ':':<16}{int(nbytes) // KIB:>8} kB\n" for name, nbytes in rows.items()]
    flags = "".join(f"{name} " for name in procfs.vm_flag_names(vma))
    return "".join([maps_line(k, vma), *lines, f"VmFlags: {flags}\n"])


def write_proc(k: "Kernel", directory: Path, *, pagemaps: bool = False) -> None:
    """Write vmstat, meminfo and for each process maps and smaps below a directory, laid out as /proc is.

    `pagemaps` adds each process's pagemap: a sparse file, in which the word of a page lies at 8 bytes times its page
    number, as programs seek it. Its length can be hundreds of GiB; what it takes is 8 bytes a mapped page.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vmstat").write_text(vmstat_text(procfs.vmstat(k)), encoding="utf-8")
    (directory / "meminfo").write_text(meminfo_text(procfs.meminfo(k)), encoding="utf-8")
    for pid, mm in procfs.processes(k).items():
        own = directory / str(pid)
        own.mkdir(exist_ok=True)
        (own / "maps").write_text(maps_text(k, mm), encoding="utf-8", errors="surrogateescape")
        (own / "smaps").write_text(smaps_text(k, mm), encoding="utf-8", errors="surrogateescape")
        if pagemaps:
            with (own / "pagemap").open("wb") as file:
                for first_byte, words in pagemap_parts(k, mm):
                    file.seek(first_byte)
                    file.write(words)


def pagemap_parts(k: "Kernel", mm: "Mm") -> Iterator[tuple[int, bytes]]:
    """Yield (place in the file, bytes) of a process's pagemap, a part for each VMA."""
    for vma in mm.vmas:
        yield (vma.start >> k.page_shift) * 8, procfs.pagemap(k, vma).astype("<u8").tobytes()


def pagemap_lines(process: Path) -> Iterator[str]:
    """Read a process's smaps and pagemap back and yield a line for each page that has a word: what and where it is."""
    start = end = 0
    with (process / "pagemap").open("rb") as pagemap:
        for line in (process / "smaps").read_text(encoding="utf-8", errors="replace").splitlines():
            name, *values = line.split()
            if not name.endswith(":"):
                start, end = (int(word, 16) for word in name.split("-"))
            elif name == "KernelPageSize:":
                yield from _page_lines(pagemap, start, end, (int(values[0]) * KIB).bit_length() - 1)


def _page_lines(pagemap: BinaryIO, start: int, end: int, shift: int) -> Iterator[str]:
    pagemap.seek((start >> shift) * 8)
    words = np.frombuffer(pagemap.read(((end - start) >> shift) * 8), "<u8")
    for place in np.flatnonzero(words).tolist():
        word = int(words[place])
        kinds = [name for bit, name in procfs.PAGEMAP_BITS if word >> bit & 1]
        pfn = f"pfn {word & procfs.PFN_MASK}" if word >> 63 else "-"
        yield f"{start + (place << shift):#x}  {pfn}  {', '.join(kinds)}"
