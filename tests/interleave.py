"""Two emulated processes interleaved at named preemption points, without sleeps and without chance.

The other one runs in a thread of its own, but never at the same time: a baton goes back and forth. It starts when the
kernel reaches the point for the first time, and runs until it is done or would block on a page lock; then the kernel
goes on, and at its next point, or at the end, the other one does.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from emu.mm.kernel import Kernel
from emu.mm_types.page import PG_LOCKED

TIMEOUT_S = 20.0


class Interleave:
    """Run `other` when `k` reaches `point`; a context manager around what the kernel does meanwhile."""

    def __init__(self, k: Kernel, point: str, other: Callable[[], None]) -> None:
        self._k = k
        self._point = point
        self._other = other
        self._theirs = threading.Semaphore(0)
        self._ours = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._waits_for = 0
        self.done = False
        self.blocked = 0
        self.error: BaseException | None = None

    def _run(self) -> None:
        self._theirs.acquire()
        try:
            self._other()
        except BaseException as error:  # noqa: BLE001 - handed over to the test's thread
            self.error = error
        self.done = True
        self._ours.release()

    def _give_turn(self) -> None:
        self._theirs.release()
        assert self._ours.acquire(timeout=TIMEOUT_S), "the other process neither ended nor blocked"

    def _at_point(self, name: str) -> None:
        if threading.current_thread() is self._thread or self.done:
            return
        if not self._thread.is_alive():
            if name == self._point:
                self._thread.start()
                self._give_turn()
        elif not self._k.mem_map.flags[self._waits_for] & PG_LOCKED:
            self._give_turn()

    def _block_on_page(self, pfn: int) -> None:
        assert threading.current_thread() is self._thread, "the first process waits for a page it holds"
        self.blocked += 1
        self._waits_for = pfn
        self._ours.release()
        assert self._theirs.acquire(timeout=TIMEOUT_S), "the page was never unlocked"

    def __enter__(self) -> Self:
        self._k.preempt = self._at_point
        self._k.block_on_page = self._block_on_page
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._thread.is_alive():
            self._give_turn()
        self._k.preempt = None
        self._k.block_on_page = None
        if kind is None:
            assert self.done, f"the kernel never reached {self._point}"
            if self.error is not None:
                raise self.error
