"""HostProcess: the interface of Process on the real kernel, through libc.

A child process of its own holds the mappings (emu.host_child) and makes each system call and access on command; what
would kill it comes back as SegmentationFault or BusError, as from the emulated machine.

Its own code lies in the same address space: MAP_FIXED and munmap belong where the caller knows that nothing of the
child's is, such as between 64 GiB and 16 TiB, which Linux leaves free on x86-64 and arm64.
"""

import contextlib
import errno
import mmap as host_mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from emu.errors import BusError, OutOfMemory, SegmentationFault
from emu.host_calls import HostCalls
from emu.host_child import PAGE_SIZE, receive_message, send_message
from emu.host_state import HostMm, HostVma, read_maps, read_pagemap, read_smaps_rollup
from emu.mapargs import apply_access, check_signs, length_within
from emu.mapping import Mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

MAP_NONBLOCK = 0x10000
_CHILD = "import sys; sys.path.append(sys.argv.pop(1)); from emu.host_child import main; main()"
_LIMITED = frozenset({"call", "brk", "load", "store"})
"""Commands for which the child needs no memory of its own."""
_EXIT_TIMEOUT_S = 10.0
_SIGNALS = {signal.SIGSEGV: SegmentationFault, signal.SIGBUS: BusError, signal.SIGKILL: OutOfMemory}


class HostFile:
    """A host file behind a mapping, open as long as somebody knows it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.close = weakref.finalize(self, _close, fd)

    @property
    def i_size(self) -> int:
        """The length in bytes, now."""
        return os.fstat(self.fd).st_size


class HostProcess(HostCalls):
    """One process on this kernel, with an address space of its own; leave its `with` block, or exit() it.

    Addresses and lengths are in bytes, page offsets in pages of the host. Negative numbers and those of more than 64
    bits reach the kernel as their lower 64 bits.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            root = Path(__file__).parent.parent
            command = [sys.executable, "-I", "-S", "-c", _CHILD, str(root), str(theirs.fileno())]
            child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: S603 - own
        self._start(ours, child.pid, child)

    def _start(self, sock: socket.socket, pid: int, child: "subprocess.Popen[bytes] | None") -> None:
        self.pid = pid
        self.mm = HostMm(pid)
        self.files: weakref.WeakSet[HostFile] = weakref.WeakSet()
        self._sock = sock
        self._limit = None
        self._end = weakref.finalize(self, _end, sock, child)

    @property
    def page_size(self) -> int:
        """Bytes in a page of the host."""
        return PAGE_SIZE

    @property
    def vmas(self) -> list[HostVma]:
        """The mappings from /proc/PID/maps, in order of address, the child's own code among them."""
        self._alive()
        return read_maps(self.pid)

    def pagemap(self, vaddr: int, nr_pages: int) -> npt.NDArray[np.uint64]:
        """Return the words of /proc/PID/pagemap for pages from `vaddr` on."""
        self._alive()
        return read_pagemap(self.pid, vaddr, nr_pages)

    def smaps_rollup(self) -> dict[str, int]:
        """Return /proc/PID/smaps_rollup in bytes, by name."""
        self._alive()
        return read_smaps_rollup(self.pid)

    # Mapping files

    def mmap(
        self,
        fileno: int | str | os.PathLike[str],
        length: int,
        flags: int = host_mmap.MAP_SHARED,
        prot: int = host_mmap.PROT_READ | host_mmap.PROT_WRITE,
        access: int = host_mmap.ACCESS_DEFAULT,
        offset: int = 0,
        *,
        vaddr: int = 0,
    ) -> Mapping:
        """Map a file, or anonymous memory (-1), with the arguments and errors of Python's mmap.mmap."""
        self._alive()
        flags, prot = apply_access(flags, prot, access)
        check_signs(length, offset)
        file: HostFile | None = None
        if fileno == -1:
            flags |= host_mmap.MAP_ANONYMOUS
        elif not flags & host_mmap.MAP_ANONYMOUS:
            file = HostFile(_open(fileno, prot, flags))
            self.files.add(file)
            if not stat.S_ISREG(os.fstat(file.fd).st_mode):
                raise OSError(errno.ENODEV, "only regular files can be mapped")
            length = length_within(file, length, offset)
        where = self._mmap(vaddr, length, prot, flags, -1 if file is None else file.fd, offset)
        return Mapping(self, where, length, prot=prot, flags=flags, offset=offset, file=file, access=access)

    def sys_mmap(
        self, vaddr: int, nbytes: int, prot: int, flags: int, fileno: int | str | os.PathLike[str], offset: int
    ) -> int:
        """mmap(2) itself: returns the address; a file may be mapped beyond its end."""
        if flags & host_mmap.MAP_ANONYMOUS or fileno == -1:
            return self._mmap(vaddr, nbytes, prot, flags, -1, offset)
        try:
            fd = _open(fileno, prot, flags)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # The kernel may find something else wrong first.
            return self._mmap(vaddr, nbytes, prot, flags, -1, offset)
        try:
            return self._mmap(vaddr, nbytes, prot, flags, fd, offset)
        finally:
            os.close(fd)

    def _mmap(self, vaddr: int, nbytes: int, prot: int, flags: int, fd: int, offset: int) -> int:
        return self._call("mmap", vaddr, nbytes, prot, flags, -1, offset, fds=() if fd < 0 else (fd,))

    def remap_file_pages_bulk(self, vaddrs: npt.ArrayLike, pgoffs: npt.ArrayLike) -> None:
        """Remap many single pages, one call each: the kernel has no call for many."""
        done, _seconds, failed = self.remap_in_turn(vaddrs, pgoffs)
        if failed:
            raise OSError(failed, f"remap_file_pages of page {done}: {os.strerror(failed)}")

    def remap_in_turn(
        self, vaddrs: npt.ArrayLike, pgoffs: npt.ArrayLike, flags: int = MAP_NONBLOCK, start: int = 0
    ) -> tuple[int, float, int]:
        """Remap single pages until one call fails; returns how many are remapped, the seconds, and the errno or 0.

        With the `start` of a mapping of the file from page 0, a few of the last ones before ENOMEM are put back.
        """
        places, pages = (np.ascontiguousarray(one, dtype=np.uint64) for one in (vaddrs, pgoffs))
        if len(places) != len(pages):
            raise ValueError("as many addresses as pages, please")
        head, _ = self._ask({"do": "remap", "args": [len(places), flags, start]}, places.tobytes() + pages.tobytes())
        return int(head["done"]), float(head["seconds"]), int(head["failed"])

    def time_faults(self, vaddrs: npt.ArrayLike) -> tuple[float, float]:
        """Drop pages and load from them: the medians, in seconds, of the load that faults and of one that does not."""
        head, _ = self._ask({"do": "faults"}, np.ascontiguousarray(vaddrs, dtype=np.uint64).tobytes())
        return float(head["missed"]), float(head["hit"])

    def ftruncate(self, file: "int | Mapping", nbytes: int) -> None:
        """ftruncate(2) of a descriptor, or of the file behind a mapping."""
        self._alive()
        if isinstance(file, Mapping):
            if not isinstance(file.file, HostFile):
                raise OSError(errno.EINVAL, "anonymous memory has no length to change")
            file = file.file.fd
        os.ftruncate(file, nbytes)

    def fork(self) -> "HostProcess":
        """fork(2): a process with a copy of this address space."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = int(self._ask({"do": "fork"}, fds=[theirs.fileno()])[0]["value"])
            except OSError:
                ours.close()
                raise
        child = HostProcess.__new__(HostProcess)
        child._start(ours, pid, None)  # noqa: SLF001 - of this very class
        return child

    def exit(self) -> None:
        """End the process, and let go of the files that it mapped; a second call does nothing."""
        self._end()
        for file in list(self.files):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.exit()

    # Accesses

    def run(
        self, vaddrs: npt.ArrayLike, kinds: npt.ArrayLike, values: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.uint64]:
        """Do a whole array of accesses; returns the values, with what was loaded in the place of the loads."""
        where = np.ascontiguousarray(vaddrs, dtype=np.uint64)
        count = len(where)
        what = np.ascontiguousarray(np.broadcast_to(np.asarray(kinds, dtype=np.uint8), count))
        data = np.zeros(count, np.uint64) if values is None else np.asarray(values, dtype=np.uint64)
        payload = where.tobytes() + np.broadcast_to(data, count).tobytes() + what.tobytes()
        return np.frombuffer(self._ask({"do": "run", "args": [count]}, payload)[1], np.uint64).copy()

    def load(self, vaddr: int, nbytes: int) -> bytes:
        """Load bytes."""
        return self._ask({"do": "load", "args": [vaddr, nbytes]})[1]

    def store(self, vaddr: int, data: "Buffer | npt.NDArray[np.uint8]") -> None:
        """Store bytes; what lies on pages before a signal has been stored."""
        self._ask({"do": "store", "args": [vaddr]}, bytes(data))

    def load_byte(self, vaddr: int) -> int:
        """Load one byte."""
        return self.load(vaddr, 1)[0]

    def store_byte(self, vaddr: int, value: int) -> None:
        """Store one byte."""
        self.store(vaddr, bytes([value & 0xFF]))

    def load_word(self, vaddr: int) -> int:
        """Load 8 bytes as an unsigned number."""
        return int.from_bytes(self.load(vaddr, 8), sys.byteorder)

    def store_word(self, vaddr: int, value: int) -> None:
        """Store an unsigned number of 8 bytes."""
        self.store(vaddr, value.to_bytes(8, sys.byteorder))

    def look(self, vaddrs: "Sequence[int]") -> list[bytes | None]:
        """Load many whole pages; None in the place of those that cannot be loaded."""
        head, data = self._ask({"do": "look", "args": list(vaddrs)})
        pages = iter(range(0, len(data), PAGE_SIZE))
        return [data[(at := next(pages)) : at + PAGE_SIZE] if told == "1" else None for told in str(head["told"])]

    # Inside

    def _alive(self) -> None:
        if not self._end.alive:
            raise OSError(errno.ESRCH, "the process has exited")

    def _ask(
        self, head: dict[str, object], payload: bytes = b"", fds: "Sequence[int]" = ()
    ) -> tuple[dict[str, Any], bytes]:
        """Have a command done; raise what it met."""
        self._alive()
        if self._limit is not None and head["do"] in _LIMITED:
            head["limit"] = self._limit
        try:
            send_message(self._sock, head, payload, fds)
            answer, data, _none = receive_message(self._sock)
        except (EOFError, ConnectionError):
            self._end()
            raise OSError(errno.ESRCH, f"process {self.pid} has died: its own memory was unmapped?") from None
        told: dict[str, Any] = dict(answer)
        if "errno" in told:
            what = head.get("name", head["do"])
            raise OSError(told["errno"], f"{what}: {os.strerror(told['errno'])}")
        if "signal" in told:
            raise _SIGNALS[told["signal"]](told["vaddr"], "the kernel says so")
        return told, data


def _close(fd: int) -> None:
    # What a close may have to tell, msync has told; the file's mount may be gone.
    with contextlib.suppress(OSError):
        os.close(fd)


def _end(sock: socket.socket, child: "subprocess.Popen[bytes] | None") -> None:
    """Let the process end: its socket closes. The first one is our child and is waited for."""
    sock.close()
    if child is None:
        return
    try:
        child.wait(_EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _open(fileno: int | str | os.PathLike[str], prot: int, flags: int) -> int:
    """Return a descriptor of our own: a duplicate, or a path opened for what is asked."""
    if isinstance(fileno, int):
        return os.dup(fileno)
    shared_write = prot & host_mmap.PROT_WRITE and flags & host_mmap.MAP_SHARED
    return os.open(Path(fileno), (os.O_RDWR if shared_write else os.O_RDONLY) | os.O_CLOEXEC)
