"""What the tests of the emulated kernel share: files of stamped pages, machines on virtual time, expected errnos."""

import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emu.machine import Machine
from emu.mapping import Mapping
from emu.mm.sched import boundary
from emu.mm_types.clock import VirtualClock
from emu.process import Process

PAGE = 4096
RW = mmap.PROT_READ | mmap.PROT_WRITE
RO = mmap.PROT_READ
NR_PAGES = 16


def stamp(pgoff: int, generation: int = 0) -> bytes:
    """Return the 8 bytes that stand at the start of a page."""
    return (generation << 32 | pgoff + 1).to_bytes(8, "little")


def page_bytes(pgoff: int, generation: int = 0) -> bytes:
    """Return a whole stamped page."""
    return stamp(pgoff, generation) * (PAGE // 8)


def make_file(path: Path, nr_pages: int, tail: int = 0) -> Path:
    """Write a file of stamped pages and `tail` bytes more."""
    path.write_bytes(b"".join(page_bytes(page) for page in range(nr_pages)) + page_bytes(nr_pages)[:tail])
    return path


def on_disk(path: Path, pgoff: int) -> bytes:
    """Read the first 8 bytes of a page as an ordinary program does."""
    with path.open("rb") as file:
        file.seek(pgoff * PAGE)
        return file.read(8)


def virtual_machine(**options: object) -> tuple[Machine, VirtualClock]:
    """Boot a machine of 4 MiB on virtual time, without read-ahead unless asked for."""
    clock = VirtualClock()
    merged: dict[str, object] = {"ram": 1024 * PAGE, "clock": clock, "io_depth": 0, "readahead": 0, **options}
    return Machine(**merged), clock  # type: ignore[arg-type]


def map_nonlinear(process: Process, path: Path, nr_pages: int, order: list[int] | None = None) -> Mapping:
    """Map a file's first pages shared, and remap them: reversed, or in `order`."""
    mapping = process.mmap(str(path), nr_pages * PAGE)
    order = list(range(nr_pages))[::-1] if order is None else order
    process.remap_file_pages_bulk([mapping.vaddr + place * PAGE for place in range(nr_pages)], order)
    return mapping


def settle(machine: Machine) -> None:
    """Give kernel threads their turn, as any system call does."""
    boundary(machine.kernel)


@contextmanager
def fails_with(number: int) -> Iterator[None]:
    """Expect an OSError with this errno."""
    try:
        yield
    except OSError as error:
        if error.errno != number:
            raise
        return
    raise AssertionError(f"no {errno.errorcode[number]}")


class Lab:
    """A machine, a process, a file of 16 pages, a shared mapping of all of it."""

    def __init__(self, directory: Path, fmt: str = "x86_64", **options: object) -> None:
        self.path = make_file(directory / "file", NR_PAGES)
        self.machine, self.clock = virtual_machine(format=fmt, **options)
        self.process: Process = self.machine.spawn()
        self.mapping: Mapping = self.process.mmap(str(self.path), NR_PAGES * PAGE)

    def at(self, page: int) -> int:
        return self.mapping.vaddr + page * PAGE

    def pte(self, page: int) -> int:
        return self.process.mm.pt.get(self.at(page))

    def shown(self, page: int) -> bytes:
        return self.process.load(self.at(page), 8)
