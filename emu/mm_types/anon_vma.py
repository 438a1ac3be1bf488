"""AnonVma: the VMAs in which a private page may be mapped, as i_mmap is for the pages of files.

Made at the first private page of a VMA, shared by its copies in forked processes, by the parts of a split and by what
mremap moves. A page says where it lies by `index`, its linear pgoff in each of these VMAs: for anonymous memory a VMA's
pgoff counts from its first address.

Source: Linux v2.6.20 include/linux/rmap.h: struct anon_vma; the interval tree came with v3.7.
"""

from typing import TYPE_CHECKING

from emu.mm_types.interval_tree import IntervalTree

if TYPE_CHECKING:
    from emu.mm_types.vma import VmArea


class AnonVma:
    """`ident` is what page->mapping holds for the pages of these VMAs; no address space has the same number."""

    __slots__ = ("ident", "vmas")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.vmas: IntervalTree[VmArea] = IntervalTree()

    def __repr__(self) -> str:
        return f"AnonVma({self.ident} {len(self.vmas)} VMAs)"
