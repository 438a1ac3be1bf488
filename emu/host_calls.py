"""HostCalls: the system calls of a HostProcess that need no file, its heap and its limits among them."""

import contextlib
import resource
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from emu.mapping import MS_SYNC

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MREMAP_MAYMOVE = 1


class HostCalls:
    """Numbers of more than 64 bits, and negative ones, reach the kernel as their lower 64 bits."""

    _limit: tuple[int, int] | None

    @abstractmethod
    def _ask(
        self, head: dict[str, object], payload: bytes = b"", fds: "Sequence[int]" = ()
    ) -> tuple[dict[str, Any], bytes]:
        """Have a command done; raise what it met."""

    def _call(self, name: str, *args: int, fds: "Sequence[int]" = ()) -> int:
        return int(self._ask({"do": "call", "name": name, "args": args}, fds=fds)[0]["value"])

    def munmap(self, vaddr: int, nbytes: int) -> None:
        """munmap(2)."""
        self._call("munmap", vaddr, nbytes)

    def mremap(
        self, old_vaddr: int, old_nbytes: int, new_nbytes: int, flags: int = MREMAP_MAYMOVE, new_vaddr: int = 0
    ) -> int:
        """mremap(2); returns where the mapping is now."""
        return self._call("mremap", old_vaddr, old_nbytes, new_nbytes, flags, new_vaddr)

    def mprotect(self, vaddr: int, nbytes: int, prot: int) -> None:
        """mprotect(2)."""
        self._call("mprotect", vaddr, nbytes, prot)

    def mlock(self, vaddr: int, nbytes: int) -> None:
        """mlock(2)."""
        self._call("mlock", vaddr, nbytes)

    def mlock2(self, vaddr: int, nbytes: int, flags: int) -> None:
        """mlock2(2)."""
        self._call("mlock2", vaddr, nbytes, flags)

    def munlock(self, vaddr: int, nbytes: int) -> None:
        """munlock(2)."""
        self._call("munlock", vaddr, nbytes)

    def mlockall(self, flags: int) -> None:
        """mlockall(2): the child's own memory is locked, too."""
        self._call("mlockall", flags)

    def munlockall(self) -> None:
        """munlockall(2)."""
        self._call("munlockall")

    def madvise(self, vaddr: int, nbytes: int, advice: int) -> None:
        """madvise(2)."""
        self._call("madvise", vaddr, nbytes, advice)

    def mincore(self, vaddr: int, nbytes: int) -> bytes:
        """mincore(2): a byte a page, whose lowest bit says that the page is in memory."""
        return self._ask({"do": "mincore", "args": [vaddr, nbytes]})[1]

    def msync(self, vaddr: int, nbytes: int, flags: int = MS_SYNC) -> None:
        """msync(2)."""
        self._call("msync", vaddr, nbytes, flags)

    def remap_file_pages(self, vaddr: int, nbytes: int, prot: int, pgoff: int, flags: int = 0) -> None:
        """remap_file_pages(2)."""
        self._call("remap_file_pages", vaddr, nbytes, prot, pgoff, flags)

    def brk(self, vaddr: int = 0) -> int:
        """brk(2), the system call itself: move the end of the heap if that can be; return where it is now.

        The heap begins where it ends at the first call: what lies below is the child's own, and does not count.
        """
        return int(self._ask({"do": "brk", "args": [vaddr]})[0]["value"])

    def drop_lock_privilege(self) -> None:
        """Give up CAP_IPC_LOCK, for good: RLIMIT_MEMLOCK holds from now on, for children, too."""
        self._ask({"do": "drop"})

    @contextlib.contextmanager
    def within_limit(self, which: int, nbytes: int) -> "Iterator[None]":
        """Have each call and access made under a soft limit of `nbytes` more than what the process uses then.

        mincore and whatever takes arrays are not limited. The child's own memory is what it uses already. Of
        RLIMIT_STACK the limit is `nbytes` itself.
        """
        if which not in {resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_MEMLOCK, resource.RLIMIT_STACK}:
            raise ValueError(f"limit {which} is none of RLIMIT_AS, DATA, STACK and MEMLOCK")
        self._limit = (which, nbytes)
        try:
            yield
        finally:
            self._limit = None
