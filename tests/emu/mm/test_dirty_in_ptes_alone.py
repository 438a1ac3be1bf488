"""What only a PTE knows to be dirty: each way out of a page table tells the page, or the bytes are lost.

On a disk that does not account, page_mkclean is not called: after a writeback the PTEs stay writable and dirty, so that
the stores that follow are known to them alone.
"""

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.mm.mremap import MREMAP_FIXED, MREMAP_MAYMOVE
from emu.mm.truncate import invalidate_inode_pages2
from emu.mm.unmap import try_to_unmap
from emu.mm.vmscan import reclaim_page
from tests.emu.mm.helpers import NR_PAGES, PAGE, RW, Lab, on_disk, stamp

FIXED = mmap.MAP_SHARED | 0x10
HERE = 5
"""The page that is stored to, by its place in the mapping."""


class Stored(Lab):
    """A mapping, nonlinear if asked for, that was stored to, written back, and stored to again."""

    def __init__(self, directory: Path, fmt: str, *, nonlinear: bool) -> None:
        super().__init__(directory, fmt, plain_caps="disk,no_acct_dirty", rmap="scan")
        self.pgoff = NR_PAGES - 1 - HERE if nonlinear else HERE
        if nonlinear:
            vaddrs = [self.at(page) for page in range(NR_PAGES)]
            self.process.remap_file_pages_bulk(vaddrs, list(range(NR_PAGES))[::-1])
        self.process.store(self.at(HERE), stamp(self.pgoff, 1))
        self.machine.sync()
        self.process.store(self.at(HERE), stamp(self.pgoff, 2))
        self.machine.sync()
        assert on_disk(self.path, self.pgoff) == stamp(self.pgoff, 1), "the kernel was told after all"
        assert self.machine.format.pte_dirty(self.pte(HERE))

    @property
    def pfn(self) -> int:
        return self.machine.format.pte_pfn(self.pte(HERE))

    def unmap_by_reclaim(self) -> None:
        k, pfn = self.machine.kernel, self.pfn
        mapping = k.mappings[k.mem_map.mapping[pfn]]
        # Young at the first try.
        try_to_unmap(k, mapping, pfn)
        try_to_unmap(k, mapping, pfn)
        assert not k.mem_map.mapcount[pfn]

    def pageout(self) -> None:
        pfn = self.pfn
        self.process.madvise(self.at(HERE), PAGE, 20)
        assert reclaim_page(self.machine.kernel, pfn)


WAYS: dict[str, Callable[[Stored], object]] = {
    "munmap of the page": lambda lab: lab.process.munmap(lab.at(HERE), PAGE),
    "munmap of all": lambda lab: lab.process.munmap(lab.at(0), NR_PAGES * PAGE),
    "exit": lambda lab: lab.process.exit(),
    "remap": lambda lab: lab.process.remap_file_pages(lab.at(HERE), PAGE, 0, 1),
    "remap to a file PTE": lambda lab: lab.process.remap_file_pages(lab.at(HERE), PAGE, 0, 1, 0x10000),
    "bulk remap": lambda lab: lab.process.remap_file_pages_bulk([lab.at(HERE), lab.at(HERE + 1)], [1, 2]),
    "DONTNEED of the page": lambda lab: lab.process.madvise(lab.at(HERE), PAGE, mmap.MADV_DONTNEED),
    "DONTNEED of all": lambda lab: lab.process.madvise(lab.at(0), NR_PAGES * PAGE, mmap.MADV_DONTNEED),
    "a mapping over it": lambda lab: lab.process.sys_mmap(lab.at(HERE), PAGE, RW, FIXED, str(lab.path), 0),
    "mremap to fewer pages": lambda lab: lab.process.mremap(lab.at(0), NR_PAGES * PAGE, 2 * PAGE),
    "mremap over it": lambda lab: lab.process.mremap(
        lab.at(0), PAGE, PAGE, MREMAP_FIXED | MREMAP_MAYMOVE, lab.at(HERE)
    ),
    "reclaim": Stored.unmap_by_reclaim,
    "reclaim and write-out": Stored.pageout,
    "invalidation": lambda lab: invalidate_inode_pages2(
        lab.machine.kernel, lab.machine.kernel.mappings[lab.machine.kernel.mem_map.mapping[lab.pfn]]
    ),
}


@pytest.mark.parametrize("fmt", ["x86_64", "arm64_4k"])
@pytest.mark.parametrize("nonlinear", [False, True], ids=["linear", "nonlinear"])
@pytest.mark.parametrize("way", WAYS)
def test_the_dirty_bit_of_a_pte_that_goes_is_handed_over(
    way: str, fmt: str, tmp_path: Path, *, nonlinear: bool
) -> None:
    lab = Stored(tmp_path, fmt, nonlinear=nonlinear)
    WAYS[way](lab)
    lab.machine.sync()
    assert on_disk(lab.path, lab.pgoff) == stamp(lab.pgoff, 2)
    lab.machine.power_off()
