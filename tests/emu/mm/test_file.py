"""What a descriptor allows a mapping, as the kernel underneath has it; each on both."""

import errno
import fcntl
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.host import HostProcess
from tests.either import Either, either_process

PAGE = 4096
BASE = 1 << 37
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
SHARED, PRIVATE, ANON, FIXED = mmap.MAP_SHARED, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS, 0x10
F_ADD_SEALS, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 1033, 8, 16


@pytest.fixture(params=["linear_vmas", "host"])
def process(request: pytest.FixtureRequest) -> Iterator[Either]:
    with either_process(request.param) as process:
        yield process


@pytest.fixture
def opened() -> Iterator[Callable[..., int]]:
    """Open what is closed again at the end."""
    fds: list[int] = []

    def open_(path: Path | str, flags: int) -> int:
        fds.append(os.open(path, flags))
        return fds[-1]

    yield open_
    for fd in fds:
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2 * PAGE)
    return path


def errno_of(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def tried(process: Either, fd: int, prot: int, kind: int, nbytes: int = PAGE, offset: int = 0) -> str:
    return errno_of(lambda: process.sys_mmap(BASE, nbytes, prot, kind | FIXED, fd, offset))


def test_each_mapping_needs_a_descriptor_that_may_read(process: Either, path: Path, opened: Callable[..., int]) -> None:
    fd = opened(path, os.O_WRONLY)
    for kind in (SHARED, PRIVATE, SHARED | PRIVATE):
        for prot in (0, READ, WRITE, READ | WRITE):
            assert tried(process, fd, prot, kind) == "EACCES"
    assert tried(process, fd, READ, 0) == "EINVAL"
    assert tried(process, fd, READ, SHARED, nbytes=0) == "EINVAL"
    process.ftruncate(fd, PAGE)
    assert path.stat().st_size == PAGE


def test_a_place_is_no_open_file(process: Either, path: Path, opened: Callable[..., int]) -> None:
    fd = opened(path, os.O_PATH)
    assert tried(process, fd, READ, SHARED) == "EBADF"
    assert tried(process, fd, READ, SHARED, offset=1) == "EINVAL"
    assert errno_of(lambda: process.ftruncate(fd, 0)) == "EBADF"
    assert errno_of(lambda: process.ftruncate(12345, -1)) == "EINVAL"


def test_what_is_no_file_is_refused_last(process: Either, tmp_path: Path, opened: Callable[..., int]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for fd in (opened(tmp_path, os.O_RDONLY), opened(tmp_path / "pipe", os.O_RDWR), opened("/dev/null", os.O_RDONLY)):
        assert tried(process, fd, READ, SHARED) == tried(process, fd, READ, PRIVATE) == "ENODEV"
        assert tried(process, fd, READ, SHARED, nbytes=0) == "EINVAL"
        assert tried(process, fd, READ, 0) == "EINVAL"
        assert errno_of(lambda fd=fd: process.ftruncate(fd, 0)) == "EINVAL"  # type: ignore[misc]
    assert tried(process, opened(tmp_path, os.O_RDONLY), WRITE, SHARED) == "EACCES"


def test_appending_only_concerns_write(process: Either, path: Path, opened: Callable[..., int]) -> None:
    fd = opened(path, os.O_RDWR | os.O_APPEND)
    process.sys_mmap(BASE, 2 * PAGE, READ | WRITE, SHARED | FIXED, fd, 0)
    process.store(BASE + PAGE, b"here")
    process.msync(BASE, 2 * PAGE)
    assert path.read_bytes() == b"x" * PAGE + b"here" + b"x" * (PAGE - 4)


@pytest.mark.parametrize("seal", [F_SEAL_WRITE, F_SEAL_FUTURE_WRITE])
def test_seals_against_writing(process: Either, seal: int) -> None:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE)
        fcntl.fcntl(fd, F_ADD_SEALS, seal)
        assert tried(process, fd, READ | WRITE, SHARED) == "EPERM"
        assert tried(process, fd, READ | WRITE, PRIVATE) == ""
        if seal == F_SEAL_WRITE and isinstance(process, HostProcess) and tried(process, fd, READ, SHARED):
            pytest.skip("this kernel is older than Linux 6.7")
        assert tried(process, fd, READ, SHARED) == ""
        assert errno_of(lambda: process.mprotect(BASE, PAGE, READ | WRITE)) == "EACCES"
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a tmpfs")
def test_a_mount_may_forbid_to_execute(process: Either, tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        (tmp_path / "file").write_bytes(bytes(PAGE))
        fd = os.open(tmp_path / "file", os.O_RDWR)
        assert tried(process, fd, READ | EXEC, PRIVATE) == tried(process, fd, EXEC, SHARED) == "EPERM"
        assert tried(process, fd, READ, PRIVATE) == ""
        assert errno_of(lambda: process.mprotect(BASE, PAGE, READ | EXEC)) == "EACCES"
        process.munmap(BASE, PAGE)
        os.close(fd)
    finally:
        process.exit()
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_offsets_are_machine_words(process: Either) -> None:
    """Of anonymous memory they mean nothing, unless they are odd or wrap."""
    for kind in (SHARED | ANON, PRIVATE | ANON):
        assert tried(process, -1, READ, kind, offset=-PAGE) == ""
        assert tried(process, -1, READ, kind, offset=-1) == "EINVAL"
    assert errno_of(lambda: process.sys_mmap(0, 1 << 47, READ, PRIVATE | ANON, -1, -PAGE)) == "ENOMEM"


def test_32bit_maps_below_two_gigabytes(process: Either) -> None:
    where = process.sys_mmap(BASE, PAGE, READ, PRIVATE | ANON | 0x40, -1, 0)
    assert 1 << 30 <= where < 1 << 31
    assert process.sys_mmap(BASE, PAGE, READ, PRIVATE | ANON | 0x40 | FIXED, -1, 0) == BASE
    assert errno_of(lambda: process.sys_mmap(0, 1 << 30 | PAGE, READ, PRIVATE | ANON | 0x4040, -1, 0)) == "ENOMEM"
