"""Random system calls and accesses to the emulated machine and to the kernel underneath: they must not differ."""

import logging
import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
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


ROUND = settings(
    database=None,
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Making a failure smaller takes minutes: FREMAP_SHRINK=1 asks for it.
    phases=(Phase.generate, Phase.shrink) if os.environ.get("FREMAP_SHRINK") else (Phase.generate,),
    print_blob=False,
)
QUICK_STEPS = 10_000
LONG_STEPS = int(os.environ.get("FREMAP_DIFFERENTIAL_STEPS", "1_000_000"))
"""How many steps the two tests make on the three grounds together."""
FIRST_SEED = os.environ.get("FREMAP_DIFFERENTIAL_SEED")
GROUNDS = {"disk": 0, "tmpfs": 100_000, "mount": 200_000}
"""The grounds, with the seed that each begins with, so that no two see the same calls."""


def run(directory: Path, nr_steps: int, first_seed: int = 0, how: settings = ROUND) -> int:
    """Make at least so many steps, in rounds with a seed each, and return how many were made.

    How many steps a seed gives is hypothesis's own business: it moves with its version, and with what is imported.
    """

    class Run(Differential):
        nr_steps = 0

    Run.directory = directory
    for number in count(first_seed):
        if Run.nr_steps >= nr_steps:
            break
        try:
            run_state_machine_as_test(seed(number)(Run), settings=how)
        except BaseException as error:
            error.add_note(f"FREMAP_DIFFERENTIAL_SEED={number}, after {Run.nr_steps:,} steps")
            raise
        say(f"{directory}: seed {number} done, {Run.nr_steps:,} of {nr_steps:,} steps")
    return Run.nr_steps


def say(line: str) -> None:
    """Tell who asked for it (-s, --log-cli-level=INFO) how far a long run is."""
    logging.getLogger(__name__).info(line)


def on_this_ground(request: pytest.FixtureRequest, directory: Path, nr_steps: int) -> int:
    """Make this ground's part of so many steps; return how many that would be on all."""
    first_seed = int(FIRST_SEED or GROUNDS[request.node.callspec.params["directory"]])
    return run(directory, -(-nr_steps // len(GROUNDS)), first_seed) * len(GROUNDS)


def test_no_difference(request: pytest.FixtureRequest, directory: Path) -> None:
    assert on_this_ground(request, directory, QUICK_STEPS) >= QUICK_STEPS


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_difference_for_long(request: pytest.FixtureRequest, directory: Path) -> None:
    """A million steps; about an hour."""
    assert on_this_ground(request, directory, LONG_STEPS) >= LONG_STEPS
