"""Each of these breaks of the emulated kernel is found by the random calls: what they compare, they do compare."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings

from emu import process
from emu.errors import KernelBug
from emu.mm import filemap, fork, fremap, madvise, memory, mincore, mmap, mprotect, mremap, syscalls, truncate
from tests.stateful.differential_run import ROUND, run
from tests.stateful.test_differential import QUICK_STEPS

Break = Callable[[], AbstractContextManager[Any]]


def replaced(place: Any, name: str, value: Any) -> Break:
    return lambda: patch.object(place, name, value)


def as_it_is(_k: Any, _mm: Any, vma: Any) -> Any:
    """Merge nothing (merge_around)."""
    return vma


def nothing(*_args: Any, **_more: Any) -> int:
    return 0


def with_another_page(k: Any, mm: Any, vaddr: int, nbytes: int, prot: int, pgoff: int, flags: int) -> None:
    real_remap(k, mm, vaddr, nbytes, prot, pgoff ^ 1, flags)


def all_there(k: Any, mm: Any, vaddr: int, nbytes: int) -> bytes:
    return b"\1" * len(real_mincore(k, mm, vaddr, nbytes))


def far_beyond(k: Any, mapping: Any) -> int:
    return real_max_pgoff(k, mapping) + 4


real_remap, real_mincore, real_max_pgoff = fremap.remap_file_pages, mincore.do_mincore, filemap.max_pgoff

BREAKS: dict[str, Break] = {
    "mmap merges nothing": replaced(mmap, "merge_around", as_it_is),
    "mprotect merges nothing": replaced(mprotect, "merge_around", as_it_is),
    "munlockall merges nothing": replaced(syscalls, "merge_around", as_it_is),
    "DONTNEED keeps the pages": replaced(madvise, "zap_page_range", nothing),
    "fork leaves private pages writable": replaced(memory, "VM_MAYWRITE", 1 << 40),
    "WIPEONFORK is forgotten": replaced(fork, "VM_WIPEONFORK", 0),
    "mremap leaves the pages behind": replaced(mremap, "_move_page_tables", nothing),
    "truncate leaves pages mapped": replaced(truncate, "unmap_mapping_range", nothing),
    "mlock brings nothing in": replaced(syscalls, "make_pages_present", nothing),
    "msync writes nothing": replaced(syscalls, "vfs_fsync_range", nothing),
    "mprotect leaves the page table alone": replaced(mprotect, "change_protection", nothing),
    "FIXED_NOREPLACE replaces": replaced(mmap, "MAP_FIXED_NOREPLACE", 0),
    "no SIGBUS beyond the end": replaced(filemap, "max_pgoff", far_beyond),
    "mincore says that all is there": replaced(process, "do_mincore", all_there),
    "remap_file_pages takes another page": replaced(process, "remap_file_pages", with_another_page),
}


QUICKLY_FOUND = frozenset({
    "mmap merges nothing", "munlockall merges nothing", "mlock brings nothing in", "msync writes nothing",
    "no SIGBUS beyond the end", "FIXED_NOREPLACE replaces", "mremap leaves the pages behind", "mprotect merges nothing",
    "mprotect leaves the page table alone", "mincore says that all is there", "DONTNEED keeps the pages",
})  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in QUICKLY_FOUND else pytest.param(name, marks=pytest.mark.slow) for name in BREAKS]
)
def test_a_break_is_found(name: str) -> None:
    how = settings(ROUND, max_examples=75, phases=(Phase.generate,), report_multiple_bugs=False)
    # Differences are assertions; a break may also trip the emulated kernel's own.
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_mount() else None) as directory,
        BREAKS[name](),
        pytest.raises((AssertionError, KernelBug, IndexError)),
    ):
        run(Path(directory), QUICK_STEPS, how=how)
