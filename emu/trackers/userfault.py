"""userfaultfd write-protection: PTEs are made read-only one by one, without VMAs, and stores into them are told.

Synchronously, the kernel holds the storing thread and sends a message; another thread notes the page, takes the
protection off and lets it go on. Asynchronously (Linux 6.7), the kernel takes the protection off by itself, and which
PTEs have lost it is read afterwards: from /proc/PID/pagemap, or with the ioctl PAGEMAP_SCAN, which also puts the
protection back in the same walk.
"""

import os
import signal
import threading
from typing import Any

import numpy as np

from emu.trackers import libc
from emu.trackers.base import Tracker
from emu.trackers.libc import PAGE_SIZE, Unavailable, Words, ioctl, words
from emu.trackers.native import LOG_AT, LOG_COUNT, LOG_ERROR, serve_userfaults, sigbus_handler
from emu.trackers.pagemap import read_bit
from emu.trackers.region import Pages

_POLLIN = 1
_REGIONS = 4096
"""How many struct page_region PAGEMAP_SCAN may fill in a call."""


class _Userfault(Tracker):
    """What all of them share: a descriptor with which the range is registered for write-protection."""

    features = libc.UFFD_FEATURE_PAGEFAULT_FLAG_WP
    takes = "userfaultfd takes anonymous memory and tmpfs only, unless asynchronous"

    _uffd = -1

    def attach(self) -> None:
        """Open the descriptor, agree on features, register the range."""
        try:
            self._uffd = libc.userfaultfd()
        except OSError as error:
            raise Unavailable(f"userfaultfd(2): {os.strerror(error.errno or 0)} (CONFIG_USERFAULTFD)") from None
        wanted = self.features
        if self.region.memory == "tmpfs":
            wanted |= libc.UFFD_FEATURE_WP_HUGETLBFS_SHMEM
        try:
            ioctl(self._uffd, libc.UFFDIO_API, words(libc.UFFD_API, wanted, 0), "UFFDIO_API")
        except OSError:
            raise Unavailable(f"this kernel's userfaultfd lacks features of {wanted:#x}: {self.needs()}") from None
        span = words(self.region.vaddr, self.region.nbytes, libc.UFFDIO_REGISTER_MODE_WP, 0)
        try:
            ioctl(self._uffd, libc.UFFDIO_REGISTER, span, "UFFDIO_REGISTER")
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise Unavailable(f"UFFDIO_REGISTER: {why}; {self.takes}") from None

    def needs(self) -> str:
        """Return what has the features."""
        return "Linux 5.7 has them for anonymous memory, 5.19 for tmpfs"

    def arm(self) -> None:
        """Write-protect every PTE of the range."""
        span = words(self.region.vaddr, self.region.nbytes, libc.UFFDIO_WRITEPROTECT_MODE_WP)
        ioctl(self._uffd, libc.UFFDIO_WRITEPROTECT, span, "UFFDIO_WRITEPROTECT")

    def detach(self) -> None:
        """Close the descriptor: the kernel unregisters the range and takes the protection off."""
        if self._uffd >= 0:
            os.close(self._uffd)
            self._uffd = -1


class UffdHandler(_Userfault):
    """Messages to a thread that notes and unprotects each page."""

    name = "uffd_wp"
    title = "userfaultfd write-protection, a thread that serves"

    _thread: threading.Thread | None = None
    _stop = -1

    def attach(self) -> None:
        """Register, and start the thread. It runs compiled code without the interpreter's lock."""
        super().attach()
        self._log: Words = np.full(LOG_AT + self.region.nr_pages, 0, np.uint64)
        self._scratch: Words = np.zeros(16 * 4 + 3, np.uint64)
        self._stop = os.eventfd(0)
        self._fds: Words = words(_POLLIN << 32 | self._uffd, _POLLIN << 32 | self._stop)
        pointers = [array.ctypes.data for array in (self._log, self._scratch, self._fds)]
        self._thread = threading.Thread(target=serve_userfaults, args=(self._uffd, self.region.vaddr, *pointers))
        self._thread.start()

    def arm(self) -> None:
        """Forget what was noted, and write-protect."""
        self._log[:LOG_AT] = 0
        super().arm()

    def collect(self) -> Pages:
        """Return what the thread noted."""
        count = int(self._log[LOG_COUNT])
        if self._log[LOG_ERROR]:
            raise OSError("UFFDIO_WRITEPROTECT of a page failed")
        self.user_bytes = 8 * count
        return np.sort(self._log[LOG_AT : LOG_AT + count].astype(np.int64))

    def detach(self) -> None:
        """Let the thread end, then close."""
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
            self._thread = None
        if self._stop >= 0:
            os.close(self._stop)
            self._stop = -1
        super().detach()


class UffdSigbus(_Userfault):
    """A signal in the storing thread itself, whose handler notes and unprotects the page: no VMA, no other thread."""

    name = "uffd_sigbus"
    title = "userfaultfd write-protection, a handler of SIGBUS"
    features = libc.UFFD_FEATURE_PAGEFAULT_FLAG_WP | libc.UFFD_FEATURE_SIGBUS

    _before: object = None
    _handler: Any = None

    def attach(self) -> None:
        """Register, compile the handler and have it called."""
        super().attach()
        self._log: Words = np.full(LOG_AT + self.region.nr_pages, 0, np.uint64)
        self._argument: Words = words(0, 0, 0)
        log, argument = self._log.ctypes.data, self._argument.ctypes.data
        self._handler = sigbus_handler(log, self.region.vaddr, self.region.nbytes, self._uffd, argument)
        self._before = libc.set_handler(signal.SIGBUS, self._handler.address)

    def arm(self) -> None:
        """Forget what was noted, and write-protect."""
        self._log[:LOG_AT] = 0
        super().arm()

    def collect(self) -> Pages:
        """Return what the handler noted."""
        count = int(self._log[LOG_COUNT])
        self.user_bytes = 8 * count
        return np.sort(self._log[LOG_AT : LOG_AT + count].astype(np.int64))

    def detach(self) -> None:
        """Close, and put the old handler back."""
        super().detach()
        if self._before is not None:
            libc.restore_handler(signal.SIGBUS, self._before)
            self._before = None


class UffdAsync(_Userfault):
    """The kernel takes the protection off; /proc/self/pagemap tells where."""

    name = "uffd_async"
    title = "userfaultfd WP_ASYNC, read from pagemap"
    features = libc.UFFD_FEATURE_PAGEFAULT_FLAG_WP | libc.UFFD_FEATURE_WP_ASYNC
    takes = "this memory cannot be write-protected by userfaultfd"

    def needs(self) -> str:
        """Return what has the features."""
        return "Linux 6.7 has WP_ASYNC"

    def collect(self) -> Pages:
        """Return the pages without bit 57 in /proc/self/pagemap."""
        protected, self.user_bytes = read_bit(self.region, libc.PAGEMAP_UFFD_WP_BIT)
        return np.flatnonzero(~protected)


class PagemapScan(UffdAsync):
    """The kernel takes the protection off; one ioctl finds where, and puts it back."""

    name = "pagemap_scan"
    title = "userfaultfd WP_ASYNC and the ioctl PAGEMAP_SCAN"

    _pagemap = -1
    _armed = False

    def attach(self) -> None:
        """Register, and see whether the ioctl is there."""
        super().attach()
        self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._armed = False
        self._regions: Words = np.zeros((_REGIONS, 3), np.uint64)

    def arm(self) -> None:
        """Write-protect, once: collect() does it from then on."""
        if not self._armed:
            super().arm()
            self._armed = True

    def settle(self) -> None:
        """Collect for nobody."""
        if self._armed:
            self.collect()

    def collect(self) -> Pages:
        """Return the written pages and write-protect them again: the region must not be stored to meanwhile twice."""
        start, end = self.region.vaddr, self.region.vaddr + self.region.nbytes
        found: list[Words] = []
        flags = libc.PM_SCAN_WP_MATCHING | libc.PM_SCAN_CHECK_WPASYNC
        written = libc.PAGE_IS_WRITTEN
        while start < end:
            argument = words(
                96, flags, start, end, 0, self._regions.ctypes.data, _REGIONS, 0, 0, written, 0, written
            )
            count = ioctl(self._pagemap, libc.PAGEMAP_SCAN, argument, "PAGEMAP_SCAN")
            found.append(self._regions[:count, :2].copy())
            start = int(argument[4])
        regions = np.concatenate(found)
        self.user_bytes = 24 * len(regions)
        firsts, ends = ((regions - np.uint64(self.region.vaddr)) // np.uint64(PAGE_SIZE)).astype(np.int64).T
        lengths = ends - firsts
        # Of each region its first page, and how far each page lies from the first of its region.
        steps = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        pages: Pages = np.repeat(firsts, lengths) + steps
        return pages

    def detach(self) -> None:
        """Close both descriptors."""
        if self._pagemap >= 0:
            os.close(self._pagemap)
            self._pagemap = -1
        super().detach()
