"""Random system calls and accesses to the emulated machine and to the kernel underneath: they must not differ."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsbackend.mount import temporary_mount


@pytest.fixture(params=["disk", "tmpfs", pytest.param("mount", marks=pytest.mark.fuse)])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
    elif request.param == "mount":
        with temporary_mount(caps="disk") as mount:
            yield Path(mount.path)
    elif not os.path.ismount("/dev/shm"):
        pytest.skip("needs tmpfs: /dev/shm is no mount")
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            yield Path(name)


ROOT = Path(__file__).parents[2]
QUICK_STEPS = 10_000
LONG_STEPS = int(os.environ.get("FREMAP_DIFFERENTIAL_STEPS", "1_000_000"))
"""How many steps the two tests make on the three grounds together."""
FIRST_SEED = os.environ.get("FREMAP_DIFFERENTIAL_SEED")
GROUNDS = {"disk": 0, "tmpfs": 100_000, "mount": 200_000}
"""The grounds, with the seed that each begins with, so that no two see the same calls."""


def on_this_ground(request: pytest.FixtureRequest, directory: Path, nr_steps: int) -> int:
    """Make this ground's part of so many steps; return how many that would be on all. -s shows how far it is."""
    first_seed = FIRST_SEED or str(GROUNDS[request.node.callspec.params["directory"]])
    command = [sys.executable, "-m", "tests.stateful.differential_run", str(directory)]
    command += [str(-(-nr_steps // len(GROUNDS))), first_seed]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, "what differs is told on standard error"
    return int(done.stdout) * len(GROUNDS)


def test_no_difference(request: pytest.FixtureRequest, directory: Path) -> None:
    assert on_this_ground(request, directory, QUICK_STEPS) >= QUICK_STEPS


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_difference_for_long(request: pytest.FixtureRequest, directory: Path) -> None:
    """A million steps; about an hour."""
    assert on_this_ground(request, directory, LONG_STEPS) >= LONG_STEPS
