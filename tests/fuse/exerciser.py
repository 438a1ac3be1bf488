"""A file exerciser: random operations through every way in, checked against plain bytes.

Reads, writes, O_DIRECT, mapped reads and writes, truncate, punched holes, append, fsync, close and reopen.
"""

import mmap
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

from fsbackend.mount import TemporaryMount
from fsbackend.storeio import fallocate

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 4096


class Exerciser:
    """One file, its model, and the last operations for the report of a failure."""

    def __init__(self, path: Path, seed: int, max_bytes: int = 300_000) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.max_bytes = max_bytes
        self.model = bytearray()
        self.log: list[str] = []
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self.direct_fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, 64 * PAGE)
        self.operations: list[Callable[[], None]] = [
            self.read,
            self.read,
            self.write,
            self.write,
            self.write,
            self.direct_read,
            self.direct_write,
            self.mapped_read,
            self.mapped_write,
            self.truncate,
            self.append,
            self.fsync,
            self.reopen,
            self.punch,
        ]

    def close(self) -> None:
        self.buffer.close()
        os.close(self.fd)
        os.close(self.direct_fd)

    def run(self, nr_operations: int) -> None:
        for number in range(nr_operations):
            operation = self.random.choice(self.operations)
            try:
                operation()
            except AssertionError:
                tail = "\n".join(self.log[-30:])
                raise AssertionError(f"operation {number} failed; the last ones were:\n{tail}") from None
        self.verify()

    def verify(self) -> None:
        assert self.path.stat().st_size == len(self.model)
        assert self.path.read_bytes() == self.model

    def _range(self, limit: int | None = None) -> tuple[int, int]:
        start = self.random.randrange(self.max_bytes if limit is None else max(limit, 1))
        if self.random.random() < 0.3:
            start = start // PAGE * PAGE
        nbytes = self.random.choice([1, 7, 512, PAGE, 2 * PAGE, 10_000, 70_000])
        nbytes = min(self.random.randint(1, nbytes), self.max_bytes - start)
        return start, nbytes

    def _same(self, what: str, start: int, got: bytes, nbytes: int) -> None:
        self.log.append(f"{what} {start} {nbytes}")
        want = bytes(self.model[start : start + nbytes])
        if got != want:
            at = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), -1)
            raise AssertionError(f"{what} at {start}: {len(got)} of {len(want)} bytes, first wrong at {at}")

    def _put(self, what: str, start: int, data: bytes) -> None:
        self.log.append(f"{what} {start} {len(data)}")
        if len(self.model) < start:
            self.model.extend(bytes(start - len(self.model)))
        self.model[start : start + len(data)] = data

    def read(self) -> None:
        start, nbytes = self._range()
        self._same("read", start, os.pread(self.fd, nbytes, start), nbytes)

    def write(self) -> None:
        start, nbytes = self._range()
        data = self.random.randbytes(nbytes)
        assert os.pwrite(self.fd, data, start) == nbytes
        self._put("write", start, data)

    def append(self) -> None:
        data = self.random.randbytes(self.random.randint(1, 3000))
        if len(self.model) + len(data) > self.max_bytes:
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        self._put("append", len(self.model), data)

    def direct_read(self) -> None:
        start = self.random.randrange(self.max_bytes // PAGE) * PAGE
        nbytes = self.random.randint(1, 16) * PAGE
        done = os.preadv(self.direct_fd, [memoryview(self.buffer)[:nbytes]], start)
        self._same("direct_read", start, self.buffer[:done], nbytes)

    def direct_write(self) -> None:
        start = self.random.randrange(self.max_bytes // PAGE) * PAGE
        nbytes = min(self.random.randint(1, 16) * PAGE, (self.max_bytes - start) // PAGE * PAGE)
        if nbytes:
            self.buffer[:nbytes] = self.random.randbytes(nbytes)
            assert os.pwritev(self.direct_fd, [memoryview(self.buffer)[:nbytes]], start) == nbytes
            self._put("direct_write", start, self.buffer[:nbytes])

    def mapped_read(self) -> None:
        if self.model:
            start, nbytes = self._range(len(self.model))
            with mmap.mmap(self.fd, len(self.model), prot=mmap.PROT_READ) as mapped:
                self._same("mapped_read", start, mapped[start : start + nbytes], nbytes)

    def mapped_write(self) -> None:
        if self.model:
            start, nbytes = self._range(len(self.model))
            data = self.random.randbytes(min(nbytes, len(self.model) - start))
            with mmap.mmap(self.fd, len(self.model)) as mapped:
                mapped[start : start + len(data)] = data
                if self.random.random() < 0.5:
                    mapped.flush()
            self._put("mapped_write", start, data)

    def truncate(self) -> None:
        nbytes = self.random.randrange(self.max_bytes)
        self.log.append(f"truncate {nbytes}")
        os.ftruncate(self.fd, nbytes)
        del self.model[nbytes:]
        self.model.extend(bytes(nbytes - len(self.model)))

    def fsync(self) -> None:
        self.log.append("fsync")
        if self.random.random() < 0.5:
            os.fsync(self.fd)
        else:
            os.fdatasync(self.fd)

    def reopen(self) -> None:
        self.log.append("reopen")
        os.close(self.fd)
        os.close(self.direct_fd)
        self.fd = os.open(self.path, os.O_RDWR)
        self.direct_fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        assert os.fstat(self.fd).st_size == len(self.model)

    def punch(self) -> None:
        start, nbytes = self._range()
        nbytes = min(nbytes, len(self.model) - start)
        if nbytes > 0:
            fallocate(self.fd, 3, start, nbytes)
            self._put("punch", start, bytes(nbytes))


def exercise(mounted: TemporaryMount, seed: int, nr_operations: int) -> None:
    one = Exerciser(mounted.path / "file", seed)
    try:
        one.run(nr_operations)
    finally:
        one.close()
    mounted.umount()
    mounted.remount()
    if mounted.store.joinpath("file").exists():
        one.verify()
        assert (mounted.store / "file").read_bytes() == one.model
