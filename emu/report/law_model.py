"""Writers, a disk and the control law under virtual time: the curves that explain the law come from its own code.

The disk writes at a constant rate as long as there is something to write above the background limit. Each writer
dirties pages at its own rate, faster than the disk, asks the law after each step, and sleeps as long as it is told.
Amounts are pages, times seconds.
"""

from dataclasses import dataclass, field

from fsbackend.throttle import DirtyParams, DirtyTask, Thresholds, WbThrottle

STEP_S = 0.001
_UPDATE_EVERY_S = 0.2
_STAGGER_S = 0.037


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated: the limits, the disk's pages a second, and how many writers dirty how many each."""

    params: DirtyParams
    limits: Thresholds
    disk_rate: float
    writers: int = 1
    writer_rate: float = 40_000.0
    seconds: float = 10.0


@dataclass(slots=True)
class Course:
    """What happened: a value each millisecond in `times_s` and `dirty`, and (when, how long) of each pause."""

    times_s: list[float] = field(default_factory=list)
    dirty: list[float] = field(default_factory=list)
    pauses: list[tuple[float, float]] = field(default_factory=list)
    nr_dirtied: int = 0
    nr_written: float = 0.0


@dataclass(slots=True)
class _Writer:
    task: DirtyTask = field(default_factory=DirtyTask)
    asleep_until_s: float = 0.0
    must_ask: bool = False


def simulate(setting: Setting) -> Course:
    """Let the writers run against the disk and return what became of the dirty pages."""
    course, throttle = Course(), WbThrottle(setting.params)
    # They begin one after another: writers in lockstep would beat against the law's own period.
    writers = [_Writer(asleep_until_s=number * _STAGGER_S) for number in range(setting.writers)]
    chunk = max(1, round(setting.writer_rate * STEP_S))
    dirty, told, writing = 0.0, 0, False
    updated_s = 0.0
    for step in range(round(setting.seconds / STEP_S)):
        now_s = step * STEP_S
        for writer in writers:
            if now_s < writer.asleep_until_s:
                continue
            nr_pages = 0 if writer.must_ask else chunk
            dirty += nr_pages
            course.nr_dirtied += nr_pages
            throttle.account_dirtied(nr_pages)
            pause_s = throttle.balance(now_s, nr_pages, int(dirty), int(dirty), setting.limits, task=writer.task)
            writer.must_ask = pause_s > 0
            if pause_s > 0:
                writer.asleep_until_s = now_s + pause_s
                course.pauses.append((now_s, pause_s))
        writing = dirty > setting.limits.background or (writing and dirty > 0)
        done = min(dirty, setting.disk_rate * STEP_S) if writing else 0.0
        dirty -= done
        course.nr_written += done
        throttle.account_written(int(course.nr_written) - told)
        told = int(course.nr_written)
        if now_s - updated_s >= _UPDATE_EVERY_S:
            throttle.update(now_s, busy=writing)
            updated_s = now_s
        course.times_s.append(now_s)
        course.dirty.append(dirty)
    return course
