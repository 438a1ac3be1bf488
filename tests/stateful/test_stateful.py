"""Random system calls against a naive model, for each strategy, format, capability and depth of I/O."""

from itertools import product
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.ground import Config
from tests.stateful.rules import KernelRules

QUICK = settings(
    derandomize=True,
    database=None,
    max_examples=24,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
    print_blob=False,
)
LONG = settings(QUICK, max_examples=320, stateful_step_count=80, derandomize=False)

CONFIGS = [
    Config(rmap, fmt, caps, io_depth)
    for rmap, fmt, caps, io_depth in product(
        ("none", "scan", "dirty_index"), ("x86_64", "i386"), ("disk", "ramfs"), (0, 2)
    )
]
# The strategies of the comparison: on the capability that they are about.
CONFIGS += [
    Config(rmap, fmt, "disk", io_depth)
    for rmap in ("pte_chain", "slot_chain", "range_tree", "shadow", "linear_vmas", "linear_vmas_accounted")
    for fmt, io_depth in (("x86_64", 2), ("i386", 0))
]


def run(config: Config, tmp_path: Path, how: settings) -> None:
    class Machine(KernelRules):
        def __init__(self) -> None:
            super().__init__(config, Path(mkdtemp(dir=tmp_path)))

    run_state_machine_as_test(Machine, settings=how)


def name(config: Config) -> str:
    return f"{config.rmap}-{config.format}-{config.caps}-depth{config.io_depth}"


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_machine_against_the_model(config: Config, tmp_path: Path) -> None:
    run(config, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_machine_against_the_model_for_long(config: Config, tmp_path: Path) -> None:
    run(config, tmp_path, LONG)
