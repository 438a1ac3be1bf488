"""Time for the emulated kernel: real by default, virtual in tests, injected into the machine."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the kernel asks of time; seconds, monotonic, from an arbitrary start."""

    virtual: bool

    def now(self) -> float:
        """Return the present time in seconds."""
        ...

    def tick(self) -> None:
        """Note that a quantum of user execution has passed."""
        ...

    def sleep_until(self, when_s: float) -> None:
        """Let time pass until `when_s`."""
        ...


class RealClock:
    """The host's monotonic clock."""

    virtual = False

    def now(self) -> float:
        """Return the present time in seconds."""
        return time.monotonic()

    def tick(self) -> None:
        """Do nothing: real time passes by itself."""

    def sleep_until(self, when_s: float) -> None:
        """Sleep until `when_s` has come."""
        remaining_s = when_s - time.monotonic()
        if remaining_s > 0:
            time.sleep(remaining_s)


class VirtualClock:
    """Time that moves only when told to: deterministic tests without a sleep.

    `tick_s` is what one quantum of user execution takes, as the timer interrupt of a real machine would count.
    """

    virtual = True

    def __init__(self, start_s: float = 0.0, tick_s: float = 0.004) -> None:
        self._now_s = start_s
        self.tick_s = tick_s

    def now(self) -> float:
        """Return the present virtual time in seconds."""
        return self._now_s

    def tick(self) -> None:
        """Move on by one quantum."""
        self._now_s += self.tick_s

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`; ValueError if that is backwards."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds} s")
        self._now_s += seconds

    def sleep_until(self, when_s: float) -> None:
        """Jump to `when_s` if it lies ahead."""
        self._now_s = max(self._now_s, when_s)
