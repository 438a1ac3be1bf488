"""A small run whose page table is shown: a file of 8 pages, mapped in reverse order, partly touched."""

import mmap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from emu.hw.pte_format import PteFormat
from emu.machine import Machine
from emu.mm.mmap import MAP_NONBLOCK
from emu.process import Process
from emu.report.tables_dump import as_lines, dump_rows, walk_rows

NR_PAGES = 8


def process_lines(process: Process, fmt: PteFormat, vaddrs: tuple[int, ...] = ()) -> list[str]:
    """Return a process's page table, read from RAM and explained; with `vaddrs`, only what walks of those read."""
    ram, root = process.kernel.ram, process.mm.pt.root_pfn
    if not vaddrs:
        return as_lines(fmt, dump_rows(ram, fmt, root))
    lines = []
    for vaddr in vaddrs:
        lines += [f"walk of {vaddr:#x}", *as_lines(fmt, walk_rows(ram, fmt, root, vaddr))]
    return lines


def live_example(name: str, vaddrs: tuple[int, ...] = ()) -> list[str]:
    """Run the example on the format called `name` and return what its page table says, as lines."""
    with TemporaryDirectory(prefix="fremap-tables-") as directory, Machine(name, ram=256 << 16, io_depth=0) as machine:
        fmt = machine.format
        size = fmt.page_size
        path = Path(directory) / "file"
        path.write_bytes(np.arange(NR_PAGES * size, dtype=np.uint8).tobytes())
        process = machine.spawn()
        mapping = process.mmap(str(path), NR_PAGES * size)
        base = mapping.vaddr
        for page in range(NR_PAGES):
            process.remap_file_pages(base + page * size, size, 0, NR_PAGES - 1 - page, MAP_NONBLOCK)
        process.load(base, 1)
        process.store(base + size, b"x")
        process.store(base + 2 * size, b"x")
        process.mprotect(base + 2 * size, size, mmap.PROT_READ)
        process.load(base + 3 * size, 1)
        process.mprotect(base + 3 * size, size, 0)
        lines = [
            "",
            f"A process maps {NR_PAGES} pages at {base:#x} in reverse order; page 0 was loaded, 1 stored into,",
            "2 stored into and made read-only, 3 loaded and forbidden; the others were never touched.",
            "",
            *process_lines(process, fmt, vaddrs),
        ]
        process.exit()
        return lines
