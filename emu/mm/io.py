"""IoQueue: block I/O that the emulated kernel submits and reaps at its boundaries.

Depth 0 does each job at once. Otherwise a small pool of threads works while the kernel goes on, so pages really
are under writeback meanwhile; completions are handed to the kernel's one thread when it reaps. Under a virtual
clock the job is done at submission and its completion becomes due at a modelled time, in order of submission.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from emu.mm_types.clock import Clock

# What a job returns: 0, or the errno it failed with.
Job = Callable[[], int]
Done = Callable[[int], None]

LATENCY_S = 100e-6
BYTES_PER_S = 200e6
"""The disk of virtual time: an assumption of the model, not a measurement."""


class IoQueue:
    """Jobs in flight; `reap` and the waits run completions on the caller's thread."""

    def __init__(self, clock: Clock, depth: int) -> None:
        self._clock = clock
        self.depth = depth
        self._pool = ThreadPoolExecutor(depth, "fremap-io") if depth and not clock.virtual else None
        self._running: dict[Future[int], Done] = {}
        self._due: deque[tuple[float, int, Done]] = deque()
        self._busy_until_s = 0.0

    @property
    def in_flight(self) -> int:
        """How many jobs are submitted and not reaped."""
        return len(self._running) + len(self._due)

    def submit(self, job: Job, done: Done, nbytes: int) -> None:
        """Start a job of `nbytes`; `done(errno)` is called when it is reaped."""
        if not self.depth:
            done(job())
        elif self._pool is None:
            error = job()
            start_s = max(self._busy_until_s, self._clock.now())
            self._busy_until_s = start_s + LATENCY_S + nbytes / BYTES_PER_S
            self._due.append((self._busy_until_s, error, done))
        else:
            while len(self._running) >= 2 * self.depth:
                self.wait_one()
            self._running[self._pool.submit(job)] = done

    def reap(self) -> int:
        """Run the completions of what is finished by now; return how many."""
        count = 0
        if self._due:
            now_s = self._clock.now()
            while self._due and self._due[0][0] <= now_s:
                _, error, done = self._due.popleft()
                done(error)
                count += 1
        if self._running:
            for future in [f for f in self._running if f.done()]:
                self._running.pop(future)(future.result())
                count += 1
        return count

    def wait_one(self) -> None:
        """Wait until at least one job is finished, and reap."""
        if self._due:
            self._clock.sleep_until(self._due[0][0])
        elif self._running:
            wait(self._running, return_when=FIRST_COMPLETED)
        self.reap()

    def wait_all(self) -> None:
        """Wait for every job, those that completions submit included."""
        while self.in_flight:
            self.wait_one()

    def abandon(self) -> None:
        """Forget all completions: the machine lost its power. What the disk was doing, it may still finish."""
        self._due.clear()
        running = list(self._running)
        self._running.clear()
        for future in running:
            future.cancel()
        self.close()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
