"""What every test may need: facilities (FUSE, KVM, loop devices) that skip with a reason, or fail if required.

``FREMAP_REQUIRE=fuse,disk`` turns a missing facility that it names from a skip into a failure.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest


def _missing_fuse() -> str:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is missing or may not be opened"
    if shutil.which("fusermount") is None:
        return "fusermount is not installed"
    try:
        import fsbackend.lowlevel  # noqa: F401, PLC0415 - importing it is the question
    except OSError as error:
        return str(error)
    return ""


def _missing_kvm() -> str:
    return "" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "/dev/kvm is missing or may not be opened"


def _missing_disk() -> str:
    if os.geteuid() != 0:
        return "loop devices need root"
    if not Path("/dev/loop-control").exists():
        return "/dev/loop-control is missing"
    return "" if shutil.which("mkfs.ext4") else "mkfs.ext4 is not installed"


def _missing_valgrind() -> str:
    return "" if shutil.which("valgrind") else "valgrind is not installed"


_FACILITIES = {"fuse": _missing_fuse, "kvm": _missing_kvm, "disk": _missing_disk, "valgrind": _missing_valgrind}
_found: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _facilities(request: pytest.FixtureRequest) -> None:
    required = set(filter(None, os.environ.get("FREMAP_REQUIRE", "").split(",")))
    for name, look in _FACILITIES.items():
        if request.node.get_closest_marker(name) is None:
            continue
        reason = _found.setdefault(name, look())
        if reason and name in required:
            pytest.fail(f"FREMAP_REQUIRE asks for {name}, but {reason}")
        if reason:
            pytest.skip(f"needs {name}: {reason}")


def pytest_configure() -> None:
    """Have signals that a shell ignores for what it starts in the background (&, nohup) end processes, as ever."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out unless -m speaks of them."""
    if "slow" in (config.getoption("-m") or ""):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
