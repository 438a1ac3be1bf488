"""Random system calls on a mount and on a plain directory beside it: same results, same errnos, same tree."""

import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsbackend.mount import TemporaryMount, temporary_mount
from fsbackend.throttle import DirtyParams

pytestmark = pytest.mark.fuse

NAMES = st.sampled_from(["a", "b", "d", "d/a", "d/b", "d/e", "x" * 256, "a/b", "d/.."])
SIZES = st.sampled_from([0, 1, 100, 4096, 5000, 70_000])


def read_all(path: Path) -> bytes:
    return path.read_bytes()


def write_at(path: Path, offset: int, data: bytes, flags: int) -> int:
    fd = os.open(path, os.O_RDWR | flags, 0o644)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def unlinked_use(path: Path, data: bytes) -> tuple[int, int, bytes]:
    with path.open("r+b", buffering=0) as file:
        path.unlink()
        file.write(data)
        file.seek(0)
        info = os.fstat(file.fileno())
        return info.st_nlink, info.st_size, file.read()


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "read": (read_all, (NAMES,)),
    "write": (
        lambda path, at, size, flags: write_at(path, at, b"w" * size, flags),
        (NAMES, SIZES, SIZES, st.sampled_from([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND])),
    ),
    "truncate": (os.truncate, (NAMES, SIZES)),
    "mkdir": (os.mkdir, (NAMES,)),
    "rmdir": (os.rmdir, (NAMES,)),
    "unlink": (os.unlink, (NAMES,)),
    "rename": (os.rename, (NAMES, NAMES)),
    "link": (os.link, (NAMES, NAMES)),
    "symlink": (lambda path, target: os.symlink(target, path), (NAMES, st.sampled_from(["a", "d", "nowhere"]))),
    "readlink": (os.readlink, (NAMES,)),
    "chmod": (os.chmod, (NAMES, st.sampled_from([0o600, 0o755, 0o4711, 0o2755]))),
    "utime": (lambda path, ns: os.utime(path, ns=(ns, ns)), (NAMES, st.sampled_from([0, 1, 10**18 + 7]))),
    "mkfifo": (os.mkfifo, (NAMES,)),
    "listdir": (lambda path: sorted(os.listdir(path)), (NAMES,)),
    "unlinked": (lambda path: unlinked_use(path, b"ghost"), (NAMES,)),
}

STEPS = st.lists(
    st.one_of([st.tuples(st.just(name), *arguments) for name, (_, arguments) in CALLS.items()]),
    min_size=10,
    max_size=40,
)


def outcome(root: Path, name: str, arguments: tuple[Any, ...]) -> Any:
    """Do one call under a root; return its result, or its errno."""
    call, strategies = CALLS[name]
    given_ = [root / value if what is NAMES else value for value, what in zip(arguments, strategies, strict=True)]
    first = given_[0]
    if name in {"read", "write", "unlinked"} and stat.S_ISFIFO(mode_of(first)):
        return "a FIFO would block"
    try:
        return call(*given_)
    except OSError as error:
        return os.strerror(error.errno or 0)


def mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def tree(root: Path) -> dict[str, Any]:
    """Return everything about a tree but inode numbers and clocks."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder) / name
            info = path.lstat()
            size = info.st_size if not stat.S_ISDIR(info.st_mode) else 0
            data = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[str(path.relative_to(root))] = (info.st_mode, info.st_nlink, size, data)
    return found


@pytest.fixture(scope="module", params=["disk", "ramfs"])
def shared_mount(request: pytest.FixtureRequest) -> Iterator[TemporaryMount]:
    busy = DirtyParams(background_bytes=64 << 10, dirty_bytes=4 << 20, expire_s=0.05, periodic_s=0.02)
    with temporary_mount(request.param, params=busy) as mounted:
        yield mounted
        assert "bug" not in mounted.log.read_text()


_numbers = itertools.count()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_same_as_a_plain_directory(shared_mount: TemporaryMount, steps: list[tuple[Any, ...]]) -> None:
    ours = shared_mount.path / f"run-{next(_numbers)}"
    ours.mkdir()
    theirs = Path(tempfile.mkdtemp(prefix="fremap-host-", dir=shared_mount.base))
    theirs.chmod(0o755)
    for root in (ours, theirs):
        (root / "d").mkdir()
        (root / "a").write_bytes(b"a" * 5000)
        (root / "d" / "a").write_bytes(b"b" * 100)
    try:
        done: list[str] = []
        for name, *arguments in steps:
            got, want = (outcome(root, name, tuple(arguments)) for root in (ours, theirs))
            done.append(f"{name}{tuple(arguments)} -> {want!r:.60}")
            assert got == want, "\n".join(done)
        assert tree(ours) == tree(theirs), "\n".join(done)
    finally:
        shutil.rmtree(theirs, ignore_errors=True)
        shutil.rmtree(ours, ignore_errors=True)
