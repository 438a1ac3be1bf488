"""From user mode into the kernel and back: run, fault, handle, resume.

The MMU runs until an access faults or a quantum is over; then the kernel has its say, and the process goes on.

Source: Linux v2.6.23 arch/i386/mm/fault.c: do_page_fault().
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emu.errors import SegmentationFault
from emu.hw.mmu import R_CR2, R_ERROR, R_FAULT, Mmu
from emu.mm.fault import handle_mm_fault
from emu.mm.kernel import Kernel
from emu.mm.sched import boundary, judge_again, quantum_end, schedule_until, take_pause, throttle
from emu.mm.stack import expand_stack
from emu.mm_types.events import EventKind
from emu.mm_types.mm import Mm
from emu.mm_types.vma import VM_EXEC, VM_READ, VM_WRITE

QUANTUM = 1 << 18
"""Accesses between two timer ticks."""

U64Array = npt.NDArray[np.uint64]
U8Array = npt.NDArray[np.uint8]


def do_page_fault(k: Kernel, mm: Mm, vaddr: int, *, write: bool, execute: bool) -> None:
    """Handle one fault, or raise the signal that the process gets for it."""
    begin_s = k.clock.now() if k.events is not None else 0.0
    mm.mmap_sem.down_read()
    try:
        vma = mm.vmas.find(vaddr)
        # Under mmap_sem: the way down the VMA tree, and the PTE.
        k.locks.visits.total += mm.map_count.bit_length() + 1
        if vma is None or (vaddr < vma.start and not expand_stack(k, mm, vma, vaddr)):
            raise SegmentationFault(vaddr, "nothing is mapped there")
        if write:
            if not vma.flags & VM_WRITE:
                raise SegmentationFault(vaddr, "the mapping is not writable")
        elif execute:
            if not vma.flags & VM_EXEC:
                raise SegmentationFault(vaddr, "the mapping is not executable")
        elif not vma.flags & (VM_READ | VM_WRITE) and not (vma.flags & VM_EXEC and k.fmt.exec_implies_read):
            raise SegmentationFault(vaddr, "the mapping is not readable")
        protected = k.events is not None and k.fmt.pte_present(mm.pt.get(vaddr))
        major = handle_mm_fault(k, mm, vma, vaddr, write=write)
    finally:
        mm.mmap_sem.up_read()
    if k.events is not None:
        duration_ns = int((k.clock.now() - begin_s) * 1e9)
        flags = write | major << 1 | vma.nonlinear << 2 | protected << 3 | execute << 4
        k.emit(
            EventKind.FAULT, mm=mm.ident, vaddr=vaddr, flags=flags, arg=duration_ns, duration_ns=duration_ns
        )


def _page_fault(k: Kernel, mm: Mm, mmu: Mmu) -> None:
    """Enter the kernel with what the CPU reports."""
    regs = mmu.regs
    code = regs[R_ERROR]
    fmt = k.fmt
    do_page_fault(k, mm, regs[R_CR2], write=fmt.fault_is_write(code), execute=fmt.fault_is_exec(code))
    boundary(k)
    if k.pause_s:
        throttle(k, mm)


def _enter_user(k: Kernel, mm: Mm) -> Mmu:
    """Return the present CPU with the mm loaded; ESRCH if it is no more."""
    if mm.dead:
        raise OSError(errno.ESRCH, "the process has exited, or its machine is off")
    return k.switch_mm(mm)


def access(k: Kernel, mm: Mm, vaddr: int, kind: int, value: int) -> int:
    """Do one access of user mode; returns what was loaded."""
    mmu = k.cpus[k.cpu] if k.current[k.cpu] is mm else _enter_user(k, mm)
    try:
        result = mmu.access(vaddr, kind, value)
    except OverflowError:
        _check_vaddr(vaddr)
        raise
    while mmu.regs[R_FAULT]:
        _page_fault(k, mm, mmu)
        mmu = k.switch_mm(mm)
        result = mmu.access(vaddr, kind, value)
    return result


def _check_vaddr(vaddr: int) -> None:
    """Refuse a number that no address register holds."""
    if vaddr >> 64:
        raise SegmentationFault(vaddr, "that is no address")


def load_bytes(k: Kernel, mm: Mm, vaddr: int, buffer: U8Array) -> None:
    """Fill a buffer from user memory, page by page through the MMU."""
    _copy(k, mm, vaddr, buffer, lambda mmu: mmu.load_bytes)


def store_bytes(k: Kernel, mm: Mm, vaddr: int, buffer: U8Array) -> None:
    """Store a buffer to user memory, page by page through the MMU; what lies before a signal has been stored."""
    _copy(k, mm, vaddr, buffer, lambda mmu: mmu.store_bytes)


def _copy(
    k: Kernel, mm: Mm, vaddr: int, buffer: U8Array, operation: Callable[[Mmu], Callable[[int, U8Array], int]]
) -> None:
    _check_vaddr(vaddr)
    done = 0
    nbytes = len(buffer)
    while done < nbytes:
        mmu = k.switch_mm(mm)
        upto = min(nbytes, done + QUANTUM)
        done += operation(mmu)(vaddr + done, buffer[done:upto])
        if mmu.regs[R_FAULT]:
            _page_fault(k, mm, mmu)
        elif done < nbytes:
            quantum_end(k)


@dataclass(slots=True)
class Task:
    """A batch of accesses of one process and how far it got: the unit that the scheduler runs.

    `vaddrs` and `values` are uint64, `kinds` uint8, all of shape (n,). `wake_at_s`: paused until then.
    """

    mm: Mm
    vaddrs: U64Array
    kinds: U8Array
    values: U64Array
    position: int = 0
    wake_at_s: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether all accesses are done."""
        return self.position >= len(self.vaddrs)


def run_quantum(k: Kernel, task: Task) -> None:
    """Run a task for at most one quantum, or until it is throttled."""
    mm, fmt = task.mm, k.fmt
    if task.wake_at_s:
        judge_again(k, mm)
        task.wake_at_s = take_pause(k, mm)
        if task.wake_at_s:
            return
    stop = min(len(task.vaddrs), task.position + QUANTUM)
    while task.position < stop:
        mmu = _enter_user(k, mm)
        task.position = mmu.run(task.vaddrs, task.kinds, task.values, task.position, stop)
        if task.position >= stop:
            break
        # What the CPU reports, not what the access was: without NX a fetch is a read.
        code = mmu.regs[R_ERROR]
        do_page_fault(k, mm, mmu.regs[R_CR2], write=fmt.fault_is_write(code), execute=fmt.fault_is_exec(code))
        boundary(k)
        if k.pause_s:
            task.wake_at_s = take_pause(k, mm)
            return
    quantum_end(k)


def run_tasks(k: Kernel, tasks: list[Task]) -> None:
    """Run tasks in turns of one quantum until all are finished; a signal ends the call, with the others unfinished."""
    waiting = list(tasks)
    while waiting:
        ran = False
        for task in waiting:
            if task.wake_at_s <= k.clock.now():
                run_quantum(k, task)
                ran = True
        waiting = [task for task in waiting if not task.finished]
        if waiting and not ran:
            schedule_until(k, min(task.wake_at_s for task in waiting))
