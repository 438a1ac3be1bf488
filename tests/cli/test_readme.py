"""Every command and program of the README runs as printed there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = "".join(text for kind, text in BLOCKS if kind == "sh")
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]

# The set-up scripts run the tests; the large comparison is made small.
COMMANDS = [
    line.split("#")[0].strip().replace("--pages 65536", "--pages 512")
    for line in SHELL.splitlines()
    if line.strip() and not line.startswith("scripts/")
]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "touch.py").write_text(next(text for text in PROGRAMS if "def touch" in text))
    yield tmp_path
    # A command that failed between mount and umount must not leave the mount behind.
    if os.path.ismount(tmp_path / "mnt"):
        subprocess.run(["fusermount", "-uz", str(tmp_path / "mnt")], check=False)


@pytest.mark.fuse
def test_every_command_runs(place: Path) -> None:
    assert any("fremap mount" in command for command in COMMANDS)
    for command in COMMANDS:
        here = command.replace(".venv/bin/fremap", f"{shlex.quote(sys.executable)} -m emu.cli")
        here = here.replace("/tmp/store", str(place / "store")).replace("/tmp/mnt", str(place / "mnt"))
        result = subprocess.run(
            here, shell=True, capture_output=True, text=True, check=False, timeout=120, cwd=place
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def test_the_program_runs(tmp_path: Path) -> None:
    program = next(text for text in PROGRAMS if "Machine(" in text)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr


def test_every_strategy_is_explained() -> None:
    from emu.mm.rmap import STRATEGIES  # noqa: PLC0415 - the other tests need no machine

    for name in STRATEGIES:
        assert f"| `{name}` |" in README
