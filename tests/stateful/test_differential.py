"""Random system calls and accesses to the emulated machine and to the kernel underneath: they must not differ."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from fsbackend.mount import temporary_mount
from tests.stateful.differential_more import Differential


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


QUICK = settings(
    derandomize=True,
    database=None,
    max_examples=50,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Making a failure smaller takes minutes: FREMAP_SHRINK=1 asks for it.
    phases=(Phase.generate, Phase.shrink) if os.environ.get("FREMAP_SHRINK") else (Phase.generate,),
    print_blob=False,
)
LONG_STEPS = int(os.environ.get("FREMAP_DIFFERENTIAL_STEPS", "20000"))
"""How many steps the slow test makes on each ground."""


def run(directory: Path, how: settings) -> int:
    class Run(Differential):
        nr_steps = 0

    Run.directory = directory
    run_state_machine_as_test(Run, settings=how)
    return Run.nr_steps


def test_no_difference(directory: Path) -> None:
    """More than 10,000 steps on the three grounds together."""
    assert run(directory, QUICK) > 3400


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_difference_for_long(directory: Path) -> None:
    left = LONG_STEPS
    while left > 0:
        left -= run(directory, settings(QUICK, max_examples=200, derandomize=False))
