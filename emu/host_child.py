"""The process behind a HostProcess: it makes system calls and accesses on command, one at a time.

main() gets a socket's descriptor as the only argument. Of what is not the standard library this imports
emu.host_confine alone, so that it starts fast and its address space stays small. Each message is two lengths, a JSON
head and raw bytes.

An access must not kill it, so it is tried first: write(2) of the bytes to a pipe loads them in the kernel through
this process's own page table, with faults and protections as for its own load; read(2) stores likewise. Only when
that answers EFAULT does a throw-away fork make the access itself, and its end tells which signal it is. What
survives is then done here by a real load or store.
"""

import array
import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

from emu.host_confine import CAP_IPC_LOCK, brk, drop_capability, heap_of_its_own, limited

Head = dict[str, object]

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_LENGTHS = struct.Struct("<QQ")
_MAX_FDS = 1
_U64 = (1 << 64) - 1
_MAX_VECTOR = 1 << 24
_FETCH = 2
_MADV_DONTNEED = 4
_SPARE_MAPPINGS = 64

_LIBC = ctypes.CDLL(None, use_errno=True)
_WORD = ctypes.c_uint64
_CALLS = {
    "mmap": 6, "munmap": 2, "mprotect": 3, "mremap": 5, "msync": 3, "mlock": 2, "mlock2": 3, "munlock": 2,
    "mlockall": 1, "munlockall": 0, "madvise": 3, "remap_file_pages": 5,
}  # fmt: skip
"""System calls by how many arguments they have, all machine words."""
for _name, _count in _CALLS.items():
    getattr(_LIBC, _name).argtypes = [_WORD] * _count
    getattr(_LIBC, _name).restype = _WORD
_LIBC.mincore.argtypes = [_WORD, _WORD, ctypes.c_char_p]
for _name in ("read", "write"):
    getattr(_LIBC, _name).argtypes = [ctypes.c_int, _WORD, ctypes.c_size_t]
    getattr(_LIBC, _name).restype = ctypes.c_ssize_t


def send_message(sock: socket.socket, head: Head, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send one message, descriptors with it."""
    text = json.dumps(head).encode()
    lengths = _LENGTHS.pack(len(text), len(payload))
    if fds:
        socket.send_fds(sock, [lengths], fds)
        sock.sendall(text + payload)
    else:
        sock.sendall(lengths + text + payload)


def receive_message(sock: socket.socket) -> tuple[Head, bytes, list[int]]:
    """Receive one message; EOFError if the other side is gone."""
    lengths, fds, _flags, _source = socket.recv_fds(sock, _LENGTHS.size, _MAX_FDS)
    lengths += _receive(sock, _LENGTHS.size - len(lengths))
    text_nbytes, payload_nbytes = _LENGTHS.unpack(lengths)
    head: Head = json.loads(_receive(sock, text_nbytes))
    return head, _receive(sock, payload_nbytes), fds


def _receive(sock: socket.socket, nbytes: int) -> bytes:
    parts = []
    while nbytes:
        part = sock.recv(nbytes)
        if not part:
            raise EOFError
        parts.append(part)
        nbytes -= len(part)
    return b"".join(parts)


class FaultError(Exception):
    """An access would end this process with `signal`."""

    def __init__(self, vaddr: int, number: int) -> None:
        super().__init__(vaddr, number)
        self.vaddr = vaddr
        self.signal = number


class Child:
    """Serves one HostProcess until it says exit or its socket closes."""

    def __init__(self, sock: socket.socket, start_brk: int = 0) -> None:
        self.sock = sock
        self.pipe = os.pipe()
        self.forked: list[int] = []
        self.start_brk = start_brk

    def serve(self) -> None:
        """Answer commands."""
        handlers: dict[str, Callable[[Head, bytes, list[int]], tuple[Head, bytes]]] = {
            "call": self._call, "mincore": self._mincore, "load": self._load, "store": self._store,
            "run": self._run, "look": self._look, "fork": self._fork, "remap": self._remap, "faults": self._faults,
            "brk": self._brk, "drop": self._drop,
        }  # fmt: skip
        while True:
            try:
                head, payload, fds = receive_message(self.sock)
            except (EOFError, ConnectionError):
                return
            if head["do"] == "exit":
                return
            try:
                with limited(*_ints(head["limit"])) if "limit" in head else contextlib.nullcontext():
                    answer, data = handlers[str(head["do"])](head, payload, fds)
            except FaultError as fault:
                answer, data = {"vaddr": fault.vaddr, "signal": fault.signal}, b""
            except OSError as error:
                answer, data = {"errno": error.errno}, b""
            finally:
                for fd in fds:
                    os.close(fd)
            self.forked = [pid for pid in self.forked if not os.waitpid(pid, os.WNOHANG)[0]]
            send_message(self.sock, answer, data)

    def _call(self, head: Head, _payload: bytes, fds: list[int]) -> tuple[Head, bytes]:
        name = str(head["name"])
        args = [value & _U64 for value in _ints(head["args"])]
        if fds:
            args[4] = fds[0]
        got = int(getattr(_LIBC, name)(*args))
        # int and pointer results both: -1 as a word, or its lower half.
        failed = got == _U64 or (name not in {"mmap", "mremap"} and got & 0xFFFFFFFF == 0xFFFFFFFF)
        return ({"errno": ctypes.get_errno()} if failed else {"value": got}), b""

    def _mincore(self, head: Head, _payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        vaddr, nbytes = (value & _U64 for value in _ints(head["args"]))
        nr_pages = min(-(-nbytes // PAGE_SIZE), _MAX_VECTOR)
        try:
            vector = ctypes.create_string_buffer(nr_pages + 1)
        except MemoryError:
            # So much is not mapped, either; but the address is looked at first.
            return {"errno": errno.EINVAL if vaddr % PAGE_SIZE else errno.ENOMEM}, b""
        if _LIBC.mincore(vaddr, nbytes, vector):
            return {"errno": ctypes.get_errno()}, b""
        return {}, vector.raw[:nr_pages]

    def _brk(self, head: Head, _payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        """Move the end of the heap, but not below what malloc has of it."""
        if not self.start_brk:
            self.start_brk = heap_of_its_own()
        vaddr = _ints(head["args"])[0]
        return {"value": brk(vaddr if vaddr >= self.start_brk else 0)}, b""

    def _drop(self, _head: Head, _payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        drop_capability(CAP_IPC_LOCK)
        return {}, b""

    # Many calls at once, timed here: a message for each would cost more than the call

    def _remap(self, head: Head, payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        """Remap single pages in turn until one fails; of the last ones before ENOMEM some are put back.

        A process with as many mappings as it may have could not even allocate memory any more.
        """
        count, flags, start = _ints(head["args"])
        vaddrs, pgoffs = array.array("Q"), array.array("Q")
        vaddrs.frombytes(payload[: 8 * count])
        pgoffs.frombytes(payload[8 * count :])
        remap = _LIBC.remap_file_pages
        done, number = 0, 0
        began_s = time.perf_counter()
        for place in range(count):
            if remap(vaddrs[place], PAGE_SIZE, 0, pgoffs[place], flags):
                number = ctypes.get_errno()
                break
            done += 1
        seconds = time.perf_counter() - began_s
        if number == errno.ENOMEM and start:
            for _ in range(min(_SPARE_MAPPINGS, done)):
                done -= 1
                remap(vaddrs[done], PAGE_SIZE, 0, (vaddrs[done] - start) // PAGE_SIZE, flags)
        return {"done": done, "seconds": seconds, "failed": number}, b""

    def _faults(self, _head: Head, payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        """Drop each page and load from it, twice: tell the medians of the load that faults and of the one that hits."""
        vaddrs = array.array("Q")
        vaddrs.frombytes(payload)
        missed, hit = [], []
        now = time.perf_counter
        for vaddr in vaddrs:
            if _LIBC.madvise(vaddr, PAGE_SIZE, _MADV_DONTNEED):
                return {"errno": ctypes.get_errno()}, b""
            times = [now()]
            for _ in range(2):
                ctypes.string_at(vaddr, 8)
                times.append(now())
            missed.append(times[1] - times[0])
            hit.append(times[2] - times[1])
        middle = len(vaddrs) // 2
        return {"missed": sorted(missed)[middle], "hit": sorted(hit)[middle]}, b""

    # Accesses

    def _probe(self, vaddr: int, nbytes: int, data: bytes | None) -> None:
        """Try a load (no data) or a store within one page; FaultError if it would end this process."""
        if self._passes(vaddr, nbytes, data):
            return
        pid = os.fork()
        if not pid:
            _access(vaddr, nbytes, data)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            ended = os.WTERMSIG(status)
            # A mapping that is not copied at fork is missing there; here it is mapped, and fails as such.
            raise FaultError(vaddr, signal.SIGBUS if _allows_but_not_forked(vaddr, store=data is not None) else ended)
        if not self._passes(vaddr, nbytes, data):
            # A mapping that is not copied at fork stands in the way of a stack that would grow, here but not there.
            raise FaultError(vaddr, signal.SIGSEGV)

    def _passes(self, vaddr: int, nbytes: int, data: bytes | None) -> bool:
        """Have the kernel load the bytes (no data), or store them; tell whether it could."""
        readable, writable = self.pipe
        if data is None:
            done = _LIBC.write(writable, vaddr, nbytes)
            number = ctypes.get_errno()
            if done > 0:
                os.read(readable, done)
        else:
            os.write(writable, data)
            done = _LIBC.read(readable, vaddr, nbytes)
            number = ctypes.get_errno()
            if done < nbytes:
                os.read(readable, nbytes - max(done, 0))
        if done < 0 and number != errno.EFAULT:
            raise OSError(number, "the pipe of the probe failed")
        return bool(done == nbytes)

    def _load(self, head: Head, _payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        vaddr, nbytes = _ints(head["args"])
        parts = []
        for place, count in within_pages(vaddr, nbytes):
            self._probe(place, count, None)
            parts.append(_access(place, count, None))
        return {}, b"".join(parts)

    def _store(self, head: Head, payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        vaddr = _ints(head["args"])[0]
        for place, count in within_pages(vaddr, len(payload)):
            data = payload[place - vaddr : place - vaddr + count]
            self._probe(place, count, data)
            _access(place, count, data)
        return {}, b""

    def _run(self, head: Head, payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        """Do a batch; a page is probed at its first load and its first store, as nothing changes between them."""
        count = _ints(head["args"])[0]
        vaddrs, values = array.array("Q"), array.array("Q")
        vaddrs.frombytes(payload[: 8 * count])
        values.frombytes(payload[8 * count : 16 * count])
        kinds = payload[16 * count :]
        known: set[tuple[int, int]] = set()
        for place in range(count):
            vaddr, kind = vaddrs[place], kinds[place] & 3
            if kind == _FETCH:
                raise OSError(errno.ENOTSUP, "instructions are not fetched on the host")
            nbytes = 8 >> (kinds[place] >> 2 & 3)
            data = (values[place] & (1 << 8 * nbytes) - 1).to_bytes(nbytes, sys.byteorder) if kind else None
            for start, part in within_pages(vaddr, nbytes):
                page = (start // PAGE_SIZE, kind)
                if page not in known:
                    self._probe(start, part, None if data is None else data[start - vaddr : start - vaddr + part])
                    known.add(page)
            got = _access(vaddr, nbytes, data)
            if not kind:
                values[place] = int.from_bytes(got, sys.byteorder)
        return {}, values.tobytes()

    def _look(self, head: Head, _payload: bytes, _fds: list[int]) -> tuple[Head, bytes]:
        """Load many pages; of each say whether it can be loaded, and append its bytes if so."""
        readable, writable = self.pipe
        told, parts = "", []
        for vaddr in _ints(head["args"]):
            loaded = _LIBC.write(writable, vaddr, PAGE_SIZE) == PAGE_SIZE
            if loaded:
                parts.append(os.read(readable, PAGE_SIZE))
            told += "1" if loaded else "0"
        return {"told": told}, b"".join(parts)

    def _fork(self, _head: Head, _payload: bytes, fds: list[int]) -> tuple[Head, bytes]:
        pid = os.fork()
        if pid:
            self.forked.append(pid)
            return {"value": pid}, b""
        self.sock.close()
        for fd in self.pipe:
            os.close(fd)
        # The only descriptor of its end of the socket: a copy would keep the socket open in its own children.
        Child(socket.socket(fileno=fds[0]), self.start_brk).serve()
        os._exit(0)


def _ints(value: object) -> list[int]:
    assert isinstance(value, list)
    return [int(one) for one in value]


def within_pages(vaddr: int, nbytes: int) -> list[tuple[int, int]]:
    """Cut a range at the page borders: (vaddr, nbytes) of each part."""
    end, parts = vaddr + nbytes, []
    while vaddr < end:
        upto = min(end, (vaddr // PAGE_SIZE + 1) * PAGE_SIZE)
        parts.append((vaddr, upto - vaddr))
        vaddr = upto
    return parts


def _allows_but_not_forked(vaddr: int, *, store: bool) -> bool:
    """Tell whether a VMA with MADV_DONTFORK is there that allows the access (on x86 all that is mapped can be read)."""
    inside = allowed = False
    with os.fdopen(os.open("/proc/self/smaps", os.O_RDONLY), errors="surrogateescape") as smaps:
        for line in smaps:
            first, *rest = line.split()
            if first[-1] != ":":
                start, end = (int(part, 16) for part in first.split("-"))
                inside = start <= vaddr < end
                allowed = rest[0][1] == "w" if store else rest[0][:3] != "---"
            elif inside and first == "VmFlags:":
                return allowed and "dc" in rest
    return False


def _access(vaddr: int, nbytes: int, data: bytes | None) -> bytes:
    if data is None:
        return ctypes.string_at(vaddr, nbytes)
    ctypes.memmove(vaddr, data, nbytes)
    return b""


def main() -> None:
    """Serve the socket whose descriptor is the argument."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Child(socket.socket(fileno=int(sys.argv[1]))).serve()
