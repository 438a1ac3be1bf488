"""RAM: frames handed out and taken back."""

import os

import numpy as np
import pytest

from emu.errors import KernelBug
from emu.hw.physmem import PhysMem


@pytest.mark.parametrize("page_shift", [12, 14, 16])
def test_frames_come_lowest_first_then_last_freed_first(page_shift: int) -> None:
    ram = PhysMem(8 << page_shift, page_shift)
    assert ram.nr_free == 7
    assert [ram.alloc_frame() for _ in range(3)] == [1, 2, 3]
    ram.free_frame(1)
    ram.free_frame(3)
    assert [ram.alloc_frame() for _ in range(3)] == [3, 1, 4]
    assert ram.nr_free == 3


def test_frame_0_is_never_handed_out_and_the_end_is_minus_1() -> None:
    ram = PhysMem(4 << 12, 12)
    assert sorted(ram.alloc_frame() for _ in range(3)) == [1, 2, 3]
    assert ram.alloc_frame() == -1
    assert ram.nr_free == 0
    with pytest.raises(KernelBug, match="frame 0"):
        ram.free_frame(0)


def test_a_double_free_is_a_bug_with_its_number() -> None:
    ram = PhysMem(8 << 12, 12)
    pfn = ram.alloc_frame()
    assert ram.is_allocated(pfn)
    ram.free_frame(pfn)
    assert not ram.is_allocated(pfn)
    for bad in (pfn, 8, -1, 5):
        with pytest.raises(KernelBug, match=f"frame {bad},"):
            ram.free_frame(bad)


def test_frames_are_junk_when_handed_out_and_when_taken_back() -> None:
    ram = PhysMem(8 << 12, 12, seed=3)
    pfn = ram.alloc_frame()
    fresh = bytes(ram.frame(pfn))
    assert len(set(fresh)) > 100
    ram.zero_frame(pfn)
    assert not any(ram.frame(pfn))
    ram.free_frame(pfn)
    assert any(ram.frame(pfn))
    again = PhysMem(8 << 12, 12, seed=3)
    assert bytes(again.frame(again.alloc_frame())) == fresh


def test_without_junk_fresh_frames_are_zero() -> None:
    ram = PhysMem(8 << 12, 12, junk=False)
    assert not any(ram.frame(ram.alloc_frame()))


def test_a_frame_takes_file_data_in_place_and_all_views_see_it() -> None:
    ram = PhysMem(8 << 12, 12)
    pfn = ram.alloc_frame()
    reader, writer = os.pipe()
    os.write(writer, b"\x01\x02\x03\x04\x05\x06\x07\x08")
    os.readv(reader, [ram.frame(pfn)[:8]])
    os.close(reader)
    os.close(writer)
    assert ram.u64[pfn << 9] == 0x0807060504030201
    assert ram.u32[pfn << 10] == 0x04030201
    assert ram.u8[pfn << 12] == 1


def test_huge_ram_is_only_reserved() -> None:
    ram = PhysMem(64 << 30, 12)
    assert ram.nr_frames == 1 << 24
    assert ram.alloc_frame() == 1
    ram.close()
    assert ram.u64.dtype == np.uint64


def test_too_little_ram_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        PhysMem(4096, 12)
