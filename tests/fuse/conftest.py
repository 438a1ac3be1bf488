"""A mount for a test; whatever its daemon logs as a warning or worse fails the test."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fsbackend.mount import TemporaryMount, temporary_mount
from tests.fuse.posix import Script, differences, run_script

_BAD = re.compile(r" (WARNING|ERROR|CRITICAL) |Traceback|fuse:")

MakeMount = Callable[..., TemporaryMount]


def _check_log(path: Path, expected: str | None) -> None:
    bad = [line for line in path.read_text().splitlines() if _BAD.search(line)]
    if expected is not None:
        bad = [line for line in bad if not re.search(expected, line)]
    assert not bad, "the daemon logged:\n" + "\n".join(bad)


@pytest.fixture
def make_mount() -> Iterator[MakeMount]:
    """Return a function that mounts; `expect_log` is a pattern of log lines that are right."""
    with ExitStack() as stack:
        logs: list[tuple[Path, str | None]] = []

        def make(caps: str = "disk", *, expect_log: str | None = None, **options: Any) -> TemporaryMount:
            mounted = stack.enter_context(temporary_mount(caps, **options))
            logs.append((mounted.log, expect_log))
            stack.callback(_check_log, mounted.log, expect_log)
            return mounted

        yield make


@pytest.fixture(params=["disk", "ramfs"])
def mounted(request: pytest.FixtureRequest, make_mount: MakeMount) -> TemporaryMount:
    """Return a mount of each kind: what ordinary programs see must be the same."""
    return make_mount(request.param)


@pytest.fixture
def disk(make_mount: MakeMount) -> TemporaryMount:
    """Return a mount of real files."""
    return make_mount("disk")


@pytest.fixture(params=["ext4", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return a directory on a filesystem of 16 MiB of its own."""
    image, folder = tmp_path / "image", tmp_path / "small"
    folder.mkdir()
    if request.param == "ext4":
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    store = folder / "store"
    store.mkdir()
    try:
        yield str(store)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session", params=["disk", "ramfs"])
def shared_mount(request: pytest.FixtureRequest) -> Iterator[TemporaryMount]:
    """Return a mount of each kind that others may use, shared by the scripts of `same`."""
    if os.geteuid() != 0:
        pytest.skip("needs root to be somebody else")
    with temporary_mount(request.param, allow_other=True) as mounted:
        mounted.base.chmod(0o755)
        yield mounted
        _check_log(mounted.log, None)


_numbers = itertools.count()


@pytest.fixture
def same(shared_mount: TemporaryMount) -> Callable[[Script], None]:
    """Return a function that runs a script on the mount and beside it, and compares what the calls said."""

    def compare(script: Script) -> None:
        name = f"script-{next(_numbers)}"
        theirs = shared_mount.base / "host"
        theirs.mkdir(exist_ok=True)
        theirs.chmod(0o755)
        found = differences(run_script(shared_mount.path / name, script), run_script(theirs / name, script))
        for root in (shared_mount.path, theirs):
            shutil.rmtree(root / name)
        assert not found, "\n".join(found[:40])

    return compare
