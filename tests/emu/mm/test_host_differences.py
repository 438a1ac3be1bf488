"""What random calls to the kernel underneath have shown to be wrong in the emulated one, each on both."""

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.either import either_process

PAGE = 4096
BASE = 1 << 37
RW = mmap.PROT_READ | mmap.PROT_WRITE
SHARED, PRIVATE, ANON, FIXED = mmap.MAP_SHARED, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS, 0x10
WRAP = (1 << 64) - PAGE


@pytest.fixture(params=["linear_vmas", "host"])
def process(request: pytest.FixtureRequest) -> Iterator[Any]:
    with either_process(request.param) as process:
        yield process


@pytest.fixture(params=["linear_vmas", "dirty_index", "scan", "host"])
def remapper(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Give a process where remap_file_pages makes VMAs, nonlinear mappings, and on the host."""
    with either_process(request.param) as process:
        yield process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([65 + page]) * PAGE for page in range(8)))
    return path


def errno_of(call: Any) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def anonymous(process: Any, page: int, nr_pages: int, prot: int = RW, kind: int = PRIVATE) -> int:
    vaddr: int = process.sys_mmap(BASE + page * PAGE, nr_pages * PAGE, prot, kind | ANON | FIXED, -1, 0)
    return vaddr


def test_memory_that_may_only_be_written_can_be_read(process: Any) -> None:
    vaddr = anonymous(process, 0, 1)
    process.store(vaddr, b"x")
    process.mprotect(vaddr, PAGE, mmap.PROT_WRITE)
    assert process.load(vaddr, 1) == b"x"


def test_a_descriptor_for_reading_gives_no_right_to_write(process: Any, path: Path) -> None:
    fds = [os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)]
    try:
        process.sys_mmap(BASE, PAGE, RW, SHARED | FIXED, fds[0], 0)
        process.sys_mmap(BASE + PAGE, PAGE, mmap.PROT_READ, SHARED | FIXED, fds[1], 0)
        assert errno_of(lambda: process.mprotect(BASE + PAGE, PAGE, RW)) == "EACCES"
        assert errno_of(lambda: process.remap_file_pages(BASE + PAGE, PAGE, 0, 1)) == "EINVAL"
        assert errno_of(lambda: process.ftruncate(fds[1], PAGE)) == "EINVAL"
        assert errno_of(lambda: process.sys_mmap(0, 0, RW, SHARED, fds[1], 0)) == "EINVAL"
        assert errno_of(lambda: process.sys_mmap(0, PAGE, RW, SHARED, fds[1], 0)) == "EACCES"
    finally:
        for fd in fds:
            os.close(fd)


def test_lengths_wrap_as_machine_words(process: Any) -> None:
    vaddr = anonymous(process, 0, 2)
    for nbytes, expected in (((1 << 64) - 1, ""), (WRAP, "ENOMEM")):
        assert errno_of(lambda nbytes=nbytes: process.msync(vaddr, nbytes, 4)) == expected
    assert errno_of(lambda: process.mlock(vaddr, (1 << 64) - 1)) == ""
    assert errno_of(lambda: process.mlock(vaddr, WRAP)) == "EINVAL"
    assert errno_of(lambda: process.madvise(vaddr, (1 << 64) - 1, mmap.MADV_DONTNEED)) == "EINVAL"
    assert errno_of(lambda: process.mprotect(vaddr, (1 << 64) - 1, 1 << 20)) == "ENOMEM"
    assert errno_of(lambda: process.mprotect(vaddr, 0, 1 << 20)) == ""
    assert errno_of(lambda: process.mprotect(vaddr, PAGE, 8)) == ""


def test_mremap_refuses_before_it_unmaps(process: Any) -> None:
    anonymous(process, 0, 2)
    target = anonymous(process, 8, 4)
    process.store(target, b"kept")
    assert errno_of(lambda: process.mremap(BASE + 4 * PAGE, PAGE, 2 * PAGE, 3, target)) == "EFAULT"
    assert errno_of(lambda: process.mremap(BASE, 4 * PAGE, 3 * PAGE, 3, target)) == "EFAULT"
    assert process.load(target, 4) == b"kept"
    assert process.mremap(BASE, 4 * PAGE, PAGE, 3, target) == target


def test_a_move_whose_old_range_wraps_may_unmap_its_own_mapping(process: Any) -> None:
    """A wrapped range ends below the new one, so nobody sees that they overlap: Linux v6.17 mremap_to()."""
    anonymous(process, 2, 4)
    assert errno_of(lambda: process.mremap(BASE + 2 * PAGE, WRAP, 2 * PAGE, 3, BASE + PAGE)) == "EFAULT"
    assert errno_of(lambda: process.msync(BASE + 2 * PAGE, PAGE, 1)) == "ENOMEM"
    anonymous(process, 2, 4)
    assert errno_of(lambda: process.mremap(BASE + 2 * PAGE, WRAP, 8 * PAGE, 3, BASE)) == "EINVAL"


@pytest.mark.parametrize("locked", [0, 1])
@pytest.mark.parametrize("kind", [PRIVATE, SHARED])
def test_munlockall_merges_what_it_makes_alike(process: Any, locked: int, kind: int) -> None:
    vaddr = anonymous(process, 0, 2, kind=kind)
    process.mlock(vaddr + locked * PAGE, PAGE)
    process.munlockall()
    assert len([vma for vma in process.vmas if BASE <= vma.start < BASE + 8 * PAGE]) == 1


def test_a_private_page_that_could_not_be_made_keeps_mappings_apart_all_the_same(process: Any, path: Path) -> None:
    """The store beyond the file gave the second mapping an anon_vma of its own: Linux v3.15 do_cow_fault()."""
    process.sys_mmap(BASE, 8 * PAGE, RW, PRIVATE | FIXED, path, 0)
    process.store(BASE, b"x")
    process.sys_mmap(BASE + 8 * PAGE, 2 * PAGE, RW, PRIVATE | FIXED | 0x2000, path, 8 * PAGE)
    process.mlockall(1)
    assert len([vma for vma in process.vmas if BASE <= vma.start < BASE + 16 * PAGE]) == 2


def test_locked_memory_that_becomes_writable_is_there(process: Any, path: Path) -> None:
    anonymous(process, 0, 2, prot=0)
    process.mlockall(1)
    assert process.mincore(BASE, 2 * PAGE) == b"\0\0"
    process.mprotect(BASE, PAGE, RW)
    assert process.mincore(BASE, 2 * PAGE) == b"\1\0"
    process.sys_mmap(BASE, 12 * PAGE, mmap.PROT_READ, PRIVATE | FIXED | 0x2000, path, 0)
    process.mprotect(BASE, 12 * PAGE, RW)
    assert process.load(BASE, 1) == b"A"


def test_a_hint_is_rounded_down(process: Any) -> None:
    assert process.sys_mmap(BASE + 5 * PAGE + 100, PAGE, RW, PRIVATE | ANON, -1, 0) == BASE + 5 * PAGE


def test_mlock_up_to_a_hole_brings_nothing_in(process: Any) -> None:
    vaddr = anonymous(process, 0, 1)
    assert errno_of(lambda: process.mlock(vaddr, 2 * PAGE)) == "ENOMEM"
    assert process.mincore(vaddr, PAGE) == b"\0"
    assert errno_of(lambda: process.madvise(vaddr, PAGE, mmap.MADV_DONTNEED)) == "EINVAL"


def test_munlockall_leaves_alone_what_was_not_locked(process: Any) -> None:
    vaddr = anonymous(process, 0, 2, kind=SHARED)
    process.mlock(vaddr, PAGE)
    child = process.fork()
    child.munlockall()
    assert len([vma for vma in child.vmas if BASE <= vma.start < BASE + 8 * PAGE]) == 2
    child.exit()


def test_mlock_of_memory_without_access_fails(process: Any) -> None:
    vaddr = anonymous(process, 0, 1, prot=0)
    assert errno_of(lambda: process.mlock(vaddr, PAGE)) == "ENOMEM"


def test_a_hole_leaves_private_copies(process: Any, path: Path) -> None:
    shared = process.sys_mmap(BASE, 2 * PAGE, RW, SHARED | FIXED, path, 0)
    private = process.sys_mmap(BASE + 4 * PAGE, 2 * PAGE, RW, PRIVATE | FIXED, path, 0)
    process.store(private, b"mine")
    process.madvise(shared, 2 * PAGE, 9)
    assert process.load(private, 5) == b"mineA"
    assert process.load(private + PAGE, 1) == process.load(shared, 1) == b"\0"


def test_file_offsets_have_a_limit(process: Any, path: Path) -> None:
    offset = (1 << 63) - PAGE
    assert errno_of(lambda: process.sys_mmap(0, PAGE, RW, SHARED, path, offset)) == "EOVERFLOW"
    assert errno_of(lambda: process.sys_mmap(0, PAGE, RW, SHARED, 12345, 1)) == "EINVAL"
    assert process.sys_mmap(BASE, PAGE, RW, 3 | FIXED, path, 0) == BASE
    assert errno_of(lambda: process.remap_file_pages(BASE, PAGE, 0, (1 << 64) - 1)) == "EINVAL"


def test_mincore_tells_which_anonymous_pages_are_there(process: Any) -> None:
    vaddr = anonymous(process, 0, 3)
    process.store(vaddr + PAGE, b"x")
    assert process.mincore(vaddr, 3 * PAGE) == b"\0\1\0"
    assert errno_of(lambda: process.mincore(vaddr + 1, PAGE)) == "EINVAL"
    assert errno_of(lambda: process.mincore(vaddr, 4 * PAGE)) == "ENOMEM"
    process.mlock(vaddr, 3 * PAGE)
    assert process.mincore(vaddr, 3 * PAGE) == b"\1\1\1"
    process.munlockall()


def test_a_cache_of_1024_units_seen_through_a_window_of_16(remapper: Any, tmp_path: Path) -> None:
    """The use that remap_file_pages was made for: each unit is shown, changed and found again, twice."""
    cache = tmp_path / "cache"
    cache.write_bytes(b"".join(unit.to_bytes(8, "little").ljust(PAGE, b"u") for unit in range(1024)))
    window = remapper.sys_mmap(BASE, 16 * PAGE, RW, SHARED | FIXED, cache, 0)
    for turn in range(2):
        for first in range(0, 1024, 16):
            for slot in range(16):
                remapper.remap_file_pages(window + slot * PAGE, PAGE, 0, first + 15 - slot)
            for slot in range(16):
                unit = first + 15 - slot
                assert remapper.load_word(window + slot * PAGE) == unit + 5000 * turn
                remapper.store_word(window + slot * PAGE, unit + 5000 * (turn + 1))
            remapper.msync(window, 16 * PAGE)
    words = cache.read_bytes()
    assert [int.from_bytes(words[at : at + 8], "little") for at in range(0, len(words), PAGE)] == [
        unit + 10000 for unit in range(1024)
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prot": mmap.PROT_READ}, "EINVAL"),
        ({"nbytes": 0}, "EINVAL"),
        ({"nbytes": PAGE - 1}, "EINVAL"),
        ({"vaddr": BASE + 8 * PAGE}, "EINVAL"),
        ({"vaddr": BASE + 20 * PAGE}, "EINVAL"),
        ({"nbytes": 5 * PAGE}, "EINVAL"),
        ({"vaddr": WRAP}, "EINVAL"),
        ({"flags": 1 << 30}, ""),
        ({"vaddr": BASE + 1}, ""),
    ],
)
def test_what_remap_file_pages_refuses(remapper: Any, path: Path, change: dict[str, int], expected: str) -> None:
    remapper.sys_mmap(BASE, 4 * PAGE, RW, SHARED | FIXED, path, 0)
    remapper.sys_mmap(BASE + 8 * PAGE, 4 * PAGE, RW, PRIVATE | FIXED, path, 0)
    args = {"vaddr": BASE, "nbytes": PAGE, "prot": 0, "pgoff": 3, "flags": 0} | change
    assert errno_of(lambda: remapper.remap_file_pages(*args.values())) == expected


def test_one_call_spans_what_earlier_calls_split(remapper: Any, path: Path) -> None:
    remapper.sys_mmap(BASE, 4 * PAGE, RW, SHARED | FIXED, path, 0)
    for slot, pgoff in enumerate((3, 1, 7, 0)):
        remapper.remap_file_pages(BASE + slot * PAGE, PAGE, 0, pgoff)
    assert [remapper.load(BASE + slot * PAGE, 1) for slot in range(4)] == [b"D", b"B", b"H", b"A"]
    remapper.remap_file_pages(BASE, 4 * PAGE, 0, 4)
    assert [remapper.load(BASE + slot * PAGE, 1) for slot in range(4)] == [b"E", b"F", b"G", b"H"]
    assert len([vma for vma in remapper.vmas if BASE <= vma.start < BASE + 8 * PAGE]) == 1


def test_which_flags_shared_validate_knows(process: Any, path: Path) -> None:
    """LEGACY_MAP_MASK, with the sizes of huge pages."""

    def outcome(bit: int) -> str:
        flags = mmap.MAP_SHARED | mmap.MAP_PRIVATE | 1 << bit
        return errno_of(lambda: process.sys_mmap(0, PAGE, mmap.PROT_READ, flags, str(path), 0))

    outcomes = {bit: outcome(bit) for bit in [6, 7, 9, 10, 11, 12, 14, 17, 19, *range(21, 31)]}
    assert {bit for bit, error in outcomes.items() if error} == {9, 10, 19, *range(21, 26)}
    assert set(outcomes.values()) == {"", errno.errorcode[errno.EOPNOTSUPP]}
