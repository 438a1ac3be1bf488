"""Make random calls in rounds with a seed each: ``python -m tests.stateful.differential_run DIRECTORY STEPS SEED``.

A process of its own, since hypothesis also draws constants of whatever modules are imported: so a seed means the same
calls in a whole test session, alone, and when somebody looks for what it found.
"""

import os
import sys
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.differential_more import Differential

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


def run(directory: Path, nr_steps: int, first_seed: int = 0, how: settings = ROUND) -> int:
    """Make at least so many steps, and return how many were made; what a seed gives is hypothesis's own business."""

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
        sys.stderr.write(f"{directory}: seed {number} done, {Run.nr_steps:,} of {nr_steps:,} steps\n")
    return Run.nr_steps


if __name__ == "__main__":
    sys.stdout.write(f"{run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))}\n")
