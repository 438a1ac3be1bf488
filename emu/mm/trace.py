"""What the rooms of the kernel put into the event log beside plain events: counters, and the meaning of numbers.

Called only where `events` is not None. A counter's record is written when its value has changed, so a trace can draw
it as a line. The points are those of the kernel's own tracepoints: a run of pages goes under writeback or comes back,
a dirtier is judged (Linux v6.12 include/trace/events/writeback.h: global_dirty_state, bdi_dirty_ratelimit,
balance_dirty_pages).
"""

import errno
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from emu.mm.kernel import Kernel
from emu.mm_types.events import Counter, EventKind
from fsbackend.throttle import Thresholds

if TYPE_CHECKING:
    from emu.mm_types.address_space import AddressSpace
    from emu.mm_types.mm import Mm
    from fsbackend.bdi import BackingDevInfo

P = ParamSpec("P")
R = TypeVar("R")


class _Caller(Protocol):
    kernel: Kernel
    mm: "Mm"


S = TypeVar("S", bound=_Caller)


def traced(number: int) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Record a SYSCALL event each time a method of Process is called; `number` is the call's on x86-64."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            k = self.kernel
            if k.events is None:
                return method(self, *args, **kwargs)
            begin_s, failed = k.clock.now(), 0
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                failed = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
                raise
            finally:
                vaddr = args[0] if args and isinstance(args[0], int) and 0 <= args[0] < 1 << 64 else 0
                duration_ns = int((k.clock.now() - begin_s) * 1e9)
                mm = self.mm.ident
                k.emit(EventKind.SYSCALL, mm=mm, flags=number, vaddr=vaddr, arg=failed, duration_ns=duration_ns)

        return call

    return decorate


def bdi_number(k: Kernel, bdi: "BackingDevInfo | None") -> int:
    """Return the number by which events name a backing device: its place in the kernel's list, from 1; 0 for none."""
    return next((number for number, known in enumerate(k.bdis.values(), 1) if known is bdi), 0)


def trace_dirty_state(k: Kernel, bdi: "BackingDevInfo | None", limits: Thresholds) -> int:
    """Note the machine's dirty counts and limits, and one device's rates; return the device's number."""
    log = k.events
    assert log is not None
    now_s, vmstat = k.clock.now(), k.vmstat
    log.count(Counter.NR_DIRTY, vmstat.nr_dirty, now_s)
    log.count(Counter.NR_WRITEBACK, vmstat.nr_writeback, now_s)
    log.count(Counter.NR_FREE, k.ram.nr_free, now_s)
    log.count(Counter.BACKGROUND_THRESH, limits.background, now_s)
    log.count(Counter.DIRTY_THRESH, limits.dirty, now_s)
    log.count(Counter.NR_DIRTIED, vmstat.nr_dirtied, now_s)
    log.count(Counter.NR_WRITTEN, vmstat.nr_written, now_s)
    number = bdi_number(k, bdi)
    if bdi is not None:
        law = bdi.throttle
        log.count(Counter.BDI_DIRTY, bdi.nr_reclaimable_and_writeback, now_s, number)
        log.count(Counter.BDI_THRESH, bdi.thresholds(limits).dirty, now_s, number)
        log.count(Counter.WRITE_BANDWIDTH, int(law.avg_write_bandwidth), now_s, number)
        log.count(Counter.DIRTY_RATELIMIT, int(law.dirty_ratelimit), now_s, number)
        log.count(Counter.TASK_RATELIMIT, int(law.dirty_ratelimit * law.pos_ratio), now_s, number)
    return number


def name_mapping(k: Kernel, mapping: "AddressSpace", dev: int, ino: int) -> None:
    """Enter a file into the book of names; `dev` 0: shared anonymous memory."""
    if k.events is not None:
        k.events.name(
            "mapping",
            mapping.ident,
            name=mapping.host.name,
            dev=[os.major(dev), os.minor(dev)],
            ino=ino,
            bdi=mapping.bdi.name,
            bdi_number=bdi_number(k, mapping.bdi),
        )


def name_mm(k: Kernel, mm: "Mm", parent: "Mm | None" = None) -> None:
    """Enter a process into the book of names."""
    if k.events is not None:
        k.events.name("mm", mm.ident, parent=parent.ident if parent is not None else 0, started_s=k.clock.now())


def note_machine(k: Kernel, rmap: str) -> None:
    """Enter what a reader of the events must know of the machine."""
    if k.events is not None:
        k.events.names["machine"] = {
            "format": k.fmt.name,
            "page_size": k.page_size,
            "cpus": len(k.cpus),
            "rmap": rmap,
            "virtual_clock": k.clock.virtual,
        }
