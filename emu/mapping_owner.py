"""What a Mapping asks of the process that it belongs to, and of its file: any process that gives it will do."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from emu.mapping import Mapping


class MappedFile(Protocol):
    """The file behind a mapping, as far as Mapping.size() needs it."""

    @property
    def i_size(self) -> int:
        """Its length in bytes, now."""


class MappingOwner(Protocol):
    """The process: what a Mapping asks of it. Every access goes through the MMU of that process's CPU."""

    def load(self, vaddr: int, nbytes: int) -> bytes:
        """Load bytes."""

    def store(self, vaddr: int, data: "Buffer") -> None:
        """Store bytes."""

    def load_byte(self, vaddr: int) -> int:
        """Load one byte."""

    def store_byte(self, vaddr: int, value: int) -> None:
        """Store one byte."""

    def munmap(self, vaddr: int, nbytes: int) -> None:
        """munmap(2)."""

    def mremap(self, old_vaddr: int, old_nbytes: int, new_nbytes: int) -> int:
        """mremap(2) with MREMAP_MAYMOVE; returns where the mapping is now."""

    def msync(self, vaddr: int, nbytes: int, flags: int) -> None:
        """msync(2)."""

    def madvise(self, vaddr: int, nbytes: int, advice: int) -> None:
        """madvise(2)."""

    def remap_file_pages(self, vaddr: int, nbytes: int, prot: int, pgoff: int, flags: int) -> None:
        """remap_file_pages(2)."""

    def ftruncate(self, file: "Mapping", nbytes: int) -> None:
        """ftruncate(2) on the file behind a mapping."""
