"""Memory pressure while a program has dirtied mapped pages of a mount: the daemon still writes them back.

The program and the daemon are held to one memory control group, much smaller than what the program dirties. So
reclaim has to write the mount's pages back through the daemon, while the daemon itself must get memory for it.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(180)]

LIMIT_BYTES = 96 << 20
FILE_BYTES = 256 << 20
PARAMS = DirtyParams(background_bytes=4 << 20, dirty_bytes=16 << 20)

DIRTIER = """
import mmap, sys
pages = int(sys.argv[2]) // 4096
with open(sys.argv[1], "w+b") as file:
    file.truncate(pages * 4096)
    with mmap.mmap(file.fileno(), 0) as mapped:
        print("ready", flush=True)
        sys.stdin.readline()
        for turn in range(2):
            for page in range(pages):
                mapped[page * 4096 : page * 4096 + 8] = (page + turn).to_bytes(8, "little")
        mapped.flush()
        print("done", flush=True)
"""


class MemoryGroup:
    """A memory control group, of either version, with a limit."""

    def __init__(self, limit_nbytes: int) -> None:
        one, two = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        try:
            if "memory" in (two / "cgroup.controllers").read_text().split():
                base, name = two, "memory.max"
            else:
                pytest.skip("the control groups have no memory controller")
        except OSError:
            base, name = one, "memory.limit_in_bytes"
        self.path = base / f"fremap-test-{time.monotonic_ns()}"
        try:
            self.path.mkdir()
        except OSError as error:
            pytest.skip(f"no memory control group can be made: {error}")
        try:
            (self.path / name).write_text(str(limit_nbytes))
        except OSError as error:
            self.path.rmdir()
            pytest.skip(f"the memory limit cannot be set: {error}")

    def add(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def failures(self) -> int:
        """Return how often the limit was hit."""
        counts = self.path / "memory.failcnt"
        if counts.exists():
            return int(counts.read_text())
        events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        return int(events["max"])

    def close(self) -> None:
        until_s = time.monotonic() + 20
        while True:
            try:
                self.path.rmdir()
            except OSError:
                assert time.monotonic() < until_s, "the control group is still in use"
                time.sleep(0.05)
            else:
                return


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    made = MemoryGroup(LIMIT_BYTES)
    yield made
    made.close()


@pytest.mark.parametrize("caps", ["disk", "strict"])
def test_no_deadlock_with_mapped_dirty_pages(
    group: MemoryGroup, make_mount: Callable[..., TemporaryMount], caps: str
) -> None:
    mounted = make_mount(caps, params=PARAMS)
    path = mounted.path / "file"
    command = [sys.executable, "-c", DIRTIER, str(path), str(FILE_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        group.add(mounted.pid)
        group.add(program.pid)
        try:
            said, _ = program.communicate("go\n", timeout=100)
        except subprocess.TimeoutExpired:
            mounted.kill()  # which frees whoever waits for it
            program.kill()
            pytest.fail("the program and the daemon wait for each other")
    assert program.returncode == 0
    assert said == "ready\ndone\n"
    assert group.failures() > 0, "the limit was never hit: nothing was tried"
    mounted.umount()
    with (mounted.store / "file").open("rb") as file:
        for page in range(0, FILE_BYTES // 4096, 97):
            file.seek(page * 4096)
            assert int.from_bytes(file.read(8), "little") == page + 1
