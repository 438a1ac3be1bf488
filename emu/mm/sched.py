"""Time and turns: kernel threads at boundaries, and pauses of throttled processes.

`boundary` is called at the end of every fault, system call and quantum. It reaps finished I/O and gives kernel threads
that are due their turn. A throttled process is descheduled until its pause is over: meanwhile I/O is reaped, kernel
threads run, and other tasks, if there are any, go on.
"""

from emu.mm.audit import count_unaccounted_dirty
from emu.mm.flusher import wb_do_writeback
from emu.mm.kernel import Kernel
from emu.mm.page_writeback import global_dirty_limits
from emu.mm.trace import trace_dirty_state
from emu.mm.vmscan import kswapd
from emu.mm_types.events import EventKind
from emu.mm_types.mm import Mm

POLL_S = 0.002
"""Under the real clock: how long a paused process sleeps before the kernel looks after its threads again."""


def boundary(k: Kernel) -> None:
    """Reap I/O and run the kernel threads that are due; a fraction of a microsecond if there is nothing to do."""
    if k.io.in_flight:
        k.io.reap()
    kthreads = k.kthreads
    if kthreads.kswapd_wanted:
        kswapd(k)
    if kthreads.flusher_wanted or k.clock.now() >= kthreads.flusher_next_s:
        wb_do_writeback(k)
    if kthreads.audit_wanted and k.options.audit_dirty:
        audit(k)


def audit(k: Kernel) -> None:
    """Note the most pages yet that were dirty in a PTE and nowhere else."""
    k.kthreads.audit_wanted = False
    k.vmstat.unaccounted_dirty_max = max(k.vmstat.unaccounted_dirty_max, count_unaccounted_dirty(k))


def quantum_end(k: Kernel) -> None:
    """Do what the timer tick does."""
    k.clock.tick()
    k.kthreads.audit_wanted = True
    boundary(k)


def take_pause(k: Kernel, mm: Mm) -> float:
    """Return until when a process must pause (0: not at all), and account the pause."""
    pause_s, k.pause_s = k.pause_s, 0.0
    if pause_s <= 0:
        return 0.0
    k.vmstat.nr_throttled += 1
    k.vmstat.throttle_pause_us += int(pause_s * 1e6)
    if k.events is not None:
        mapping = trace_dirty_state(k, mm.pause_bdi, global_dirty_limits(k))
        k.emit(EventKind.THROTTLE, mm=mm.ident, mapping=mapping, arg=int(pause_s * 1e6))
    return k.clock.now() + pause_s


def schedule_until(k: Kernel, when_s: float) -> None:
    """Let kernel threads and I/O run until `when_s`, with nobody else to run."""
    while k.clock.now() < when_s:
        boundary(k)
        k.clock.sleep_until(when_s if k.clock.virtual else min(when_s, k.clock.now() + POLL_S))
    boundary(k)


def throttle(k: Kernel, mm: Mm) -> None:
    """Serve a process's pauses until the control law lets it go on."""
    while until_s := take_pause(k, mm):
        schedule_until(k, until_s)
        judge_again(k, mm)


def judge_again(k: Kernel, mm: Mm) -> None:
    """Ask the control law, after a pause, whether another is owed: above the limit nobody goes on."""
    bdi = mm.pause_bdi
    if bdi is not None:
        dirty = k.vmstat.nr_dirty + k.vmstat.nr_writeback
        k.pause_s = bdi.balance(k.clock.now(), 0, dirty, global_dirty_limits(k), mm.dirty_task)
        k.kthreads.flusher_wanted |= k.pause_s > 0
