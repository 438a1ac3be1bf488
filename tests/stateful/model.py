"""The naive model: what loads must return, and what the disk may hold after a power cut.

A file is a row of pages. Each page has its bytes now, and the versions that its place on the disk may hold: the
last one that was promised (msync, sync) and every newer one, since writeback may run at any time. An address
space is a dictionary from virtual page to what is mapped there.
"""

from dataclasses import dataclass
from pathlib import Path

PAGE = 4096


class FileModel:
    """One file: its bytes as all processes must see them, and what a power cut may leave of it."""

    def __init__(self, path: Path, *, written_back: bool) -> None:
        self.path = path
        self.written_back = written_back
        self.reset()

    def reset(self) -> None:
        """Take over what the disk holds now."""
        self.content = bytearray(self.path.read_bytes())
        self.versions = {page: [self.page(page)] for page in range(self.nr_pages)}
        self.ever = {page: {self.page(page)} for page in range(self.nr_pages)}

    @property
    def nr_pages(self) -> int:
        return -(-len(self.content) // PAGE)

    def page(self, pgoff: int) -> bytes:
        """Return a whole page; beyond the end of the file there are zeroes."""
        return bytes(self.content[pgoff * PAGE : (pgoff + 1) * PAGE]).ljust(PAGE, b"\0")

    def store(self, pgoff: int, at: int, data: bytes) -> None:
        start = pgoff * PAGE + at
        assert start + len(data) <= len(self.content), "the model does not store beyond the end"
        self.content[start : start + len(data)] = data
        if self.written_back:
            self.versions[pgoff].append(self.page(pgoff))
            self.ever[pgoff].add(self.page(pgoff))

    def promise(self, pgoff: int) -> None:
        """Say that this page, as it is now, is on the disk."""
        if self.written_back and pgoff in self.versions:
            self.versions[pgoff] = [self.page(pgoff)]

    def truncate(self, nbytes: int) -> None:
        """Change the length, which takes effect on the disk at once."""
        if nbytes < len(self.content):
            del self.content[nbytes:]
            kept = self.nr_pages
            self.versions = {page: old for page, old in self.versions.items() if page < kept}
            self.ever = {page: old for page, old in self.ever.items() if page < kept}
            tail = nbytes % PAGE
            if tail:
                self.versions[kept - 1] = [old[:tail].ljust(PAGE, b"\0") for old in self.versions[kept - 1]]
                self.ever[kept - 1] = {old[:tail].ljust(PAGE, b"\0") for old in self.ever[kept - 1]}
        else:
            self.content.extend(bytes(nbytes - len(self.content)))
            for page in range(self.nr_pages):
                self.versions.setdefault(page, [bytes(PAGE)])
                self.ever.setdefault(page, {bytes(PAGE)})

    def check_after_power_cut(self, *, may_lose: bool) -> None:
        """Compare with the disk: each page holds what was promised or something newer."""
        disk = self.path.read_bytes()
        assert len(disk) == len(self.content), f"{self.path.name}: {len(disk)} bytes, not {len(self.content)}"
        for pgoff in range(self.nr_pages):
            found = disk[pgoff * PAGE : (pgoff + 1) * PAGE].ljust(PAGE, b"\0")
            allowed = self.ever[pgoff] if may_lose else self.versions[pgoff]
            lost = f"{self.path.name} page {pgoff} lost a write"
            assert found in allowed, f"{lost}: {_where(found, self.versions[pgoff])}"

    def check_after_shutdown(self) -> None:
        assert self.path.read_bytes() == bytes(self.content), f"{self.path.name} after an orderly shutdown"


def _where(found: bytes, versions: list[bytes]) -> str:
    wanted = versions[-1]
    at = next(i for i in range(PAGE) if found[i] != wanted[i])
    return f"{len(versions)} versions allowed; byte {at} is {found[at]}, newest {wanted[at]}"


@dataclass
class Slot:
    """What one virtual page maps."""

    file: FileModel
    pgoff: int
    writable: bool = True
    locked: bool = False
