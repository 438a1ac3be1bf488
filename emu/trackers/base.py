"""What a tracker does for a region: arm, let stores happen, tell which pages they went to; again and again."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from emu.trackers.region import Pages, Region


class Tracker(ABC):
    """One way to learn which pages of a region were stored to.

    Make it for a region, enter its `with` block, then for each round `arm`, stores, `collect`. `user_bytes` is what
    it used of its own memory for the last round. Raises Unavailable where this kernel does not have it.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, region: Region) -> None:
        self.region = region
        self.user_bytes = 0

    def __enter__(self) -> Self:
        try:
            self.attach()
        except BaseException:
            self.detach()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.detach()

    @abstractmethod
    def attach(self) -> None:
        """Get ready, once: descriptors, handlers, registration."""

    @abstractmethod
    def arm(self) -> None:
        """From now on, every page's first store shows."""

    def settle(self) -> None:
        """Forget stores made between two rounds. Where `arm` does it, there is nothing else to forget."""
        self.user_bytes = 0

    @abstractmethod
    def collect(self) -> Pages:
        """Return the pages stored to since `arm`, ascending, each once."""

    @abstractmethod
    def detach(self) -> None:
        """Undo `attach`, whatever of it was done."""
