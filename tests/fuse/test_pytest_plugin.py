"""The plugin as another project meets it: its own pytest run, its own five lines."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fuse

FIVE_LINES = """
import os

def test_my_fsync_logic(fremap_mount):
    disk = fremap_mount(caps="disk")
    with open(disk.path / "log", "wb") as log:
        log.write(b"synced"); log.flush(); os.fsync(log.fileno())
        log.write(b" not synced")
    assert disk.unsynced()
    disk.power_cut()
    assert (disk.path / "log").read_bytes() == b"synced"

def test_a_full_disk(fremap_mount):
    disk = fremap_mount(inject=["store.write error=ENOSPC"])
    fd = os.open(disk.path / "x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x")
    try:
        os.fsync(fd)
    except OSError as error:
        assert error.errno == 28
    else:
        raise AssertionError
    finally:
        disk.inject("clear")
    os.close(fd)
    assert disk.stats()["nr_errors"] == 1
"""


def test_five_lines(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(FIVE_LINES)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
