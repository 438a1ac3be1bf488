"""Named breaks: each takes one thing away that a correct kernel must do, for as long as its `with` block lasts.

The product has no switch for any of them: a break replaces one named function. A scenario that loses nothing must
lose something under its break, or it proves nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from emu.machine import Machine
from emu.mm import fork, fremap, memory, mkclean, mprotect, page_writeback
from emu.mm.kernel import Kernel
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VmArea


@contextmanager
def no_flush_in_mkclean() -> Iterator[None]:
    """page_mkclean_one() changes the PTE, but lets every TLB keep the writable translation."""
    real = mkclean.page_mkclean_one

    def page_mkclean_one(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
        with patch.object(k, "flush_tlb_page", lambda _mm, _vaddr: None):
            return real(k, mm, vma, vaddr, pte)

    with patch.object(mkclean, "page_mkclean_one", page_mkclean_one):
        yield


@contextmanager
def no_remote_flush_in_mkclean() -> Iterator[None]:
    """page_mkclean_one() flushes the TLB of the CPU that it runs on, and no other."""
    real = mkclean.page_mkclean_one

    def page_mkclean_one(k: Kernel, mm: Mm, vma: VmArea, vaddr: int, pte: int) -> bool:
        def flush_here(mm: Mm, vaddr: int) -> None:
            k.cpus[k.cpu].invalidate_page(vaddr, mm.asid)

        with patch.object(k, "flush_tlb_page", flush_here):
            return real(k, mm, vma, vaddr, pte)

    with patch.object(mkclean, "page_mkclean_one", page_mkclean_one):
        yield


@contextmanager
def no_index_at_fork() -> Iterator[None]:
    """The child's PTEs are copied without a word to the reverse map."""
    real = memory.copy_page_range

    def copy_page_range(k: Kernel, child: VmArea, parent: VmArea) -> None:
        hooks = child.pte_changed, child.ptes_changed
        child.pte_changed = child.ptes_changed = None
        real(k, child, parent)
        child.pte_changed, child.ptes_changed = hooks

    with patch.object(fork, "copy_page_range", copy_page_range):
        yield


@contextmanager
def no_index_at_mprotect(machine: Machine) -> Iterator[None]:
    """mprotect drops index entries as if only writable PTEs were indexed, and brings none back with the write bit."""
    real = mprotect.change_protection
    rmap, fmt = machine.kernel.rmap, machine.format

    def change_protection(k: Kernel, vma: VmArea) -> None:
        hooks = vma.pte_changed, vma.ptes_changed

        def ptes_changed(mm: Mm, vma: VmArea, vaddrs: Any, olds: Any, news: Any) -> None:
            # To read-only: an entry goes, though its PTE stays dirty. To read-write: nothing, as no fault comes.
            writable = np.uint64(fmt.write_mask)
            losing = (olds & writable != 0) & (news & writable == 0)
            rmap.ptes_changed(mm, vma, vaddrs[losing], olds[losing], np.zeros_like(news[losing]))

        if hooks[1] is not None:
            vma.ptes_changed = ptes_changed
        real(k, vma)
        vma.pte_changed, vma.ptes_changed = hooks

    with patch.object(mprotect, "change_protection", change_protection):
        yield


@contextmanager
def no_index_at_conversion(machine: Machine) -> Iterator[None]:
    """A linear VMA that becomes nonlinear brings none of its writable PTEs into the index."""
    with patch.object(machine.kernel.rmap, "vma_converted", lambda _vma: None):
        yield


@contextmanager
def forgetful_index(machine: Machine) -> Iterator[None]:
    """The index does not mind entries that it lacks, so that a break upstream loses writes and does not crash."""
    rmap = machine.kernel.rmap
    table = getattr(rmap, "_hash", None)
    if table is None:
        yield
        return
    real: Callable[[int, int], bool] = table.remove

    def remove(pfn: int, key: int) -> bool:
        real(pfn, key)
        return True

    with patch.object(table, "remove", remove):
        yield


@contextmanager
def msync_without_fsync() -> Iterator[None]:
    """msync hands the bytes to the host and does not make the host keep them."""
    with patch.object(page_writeback, "host_fsync", lambda _k, _mapping: 0):
        yield


@contextmanager
def no_dirty_bit_at_zap() -> Iterator[None]:
    """Pages are taken out of mappings without a look at the dirty bits of their PTEs."""
    with (
        patch("emu.mm.memory.transfer_dirty_bits", lambda _k, _ptes: None),
        patch.object(fremap, "transfer_dirty_bits", lambda _k, _ptes: None),
    ):
        yield


@contextmanager
def failing_writes(number: int, *, pages: range | None = None, page_size: int = 4096) -> Iterator[list[int]]:
    """Let writes to host files fail with an errno, those that touch `pages` or all; yields their first bytes."""
    real = os.pwritev
    failed: list[int] = []

    def pwritev(fd: int, buffers: list[memoryview], first_byte: int) -> int:
        touched = range(first_byte // page_size, (first_byte + sum(map(len, buffers)) - 1) // page_size + 1)
        if pages is None or set(touched) & set(pages):
            failed.append(first_byte)
            raise OSError(number, os.strerror(number))
        return real(fd, buffers, first_byte)

    with patch.object(os, "pwritev", pwritev):
        yield failed


LOSING: dict[str, Callable[[Machine], AbstractContextManager[None]]] = {
    "no TLB flush in mkclean": lambda _machine: no_flush_in_mkclean(),
    "no index entry at fork": lambda _machine: no_index_at_fork(),
    "none at mprotect": no_index_at_mprotect,
    "none at conversion": no_index_at_conversion,
}
"""The breaks inside the machine, by the names that the plan gives them; each takes the machine that it breaks."""
