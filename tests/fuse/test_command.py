"""The subcommands as a user types them: what they print, and one clear line for each mistake."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsbackend import mount as mounts

pytestmark = pytest.mark.fuse


def fremap(*words: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "emu.cli", *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    store, mountpoint = tmp_path / "store", tmp_path / "mnt"
    store.mkdir()
    mountpoint.mkdir()
    yield store, mountpoint
    if any(found.mountpoint == str(mountpoint) for found in mounts.find_mounts()):
        mounts.umount(mountpoint, force=True)


def test_a_session(folders: tuple[Path, Path], tmp_path: Path) -> None:
    store, mountpoint = folders
    log = tmp_path / "log"
    code, said = fremap("mount", store, mountpoint, "--override", "*.tmp=ramfs", "--power-cut", "--log", log)
    assert (code, f"mounted at {mountpoint}" in said) == (0, True), said
    (mountpoint / "file").write_bytes(b"x" * 100)
    code, said = fremap("status", mountpoint)
    assert code == 0
    assert "4.0 KiB" in said
    assert fremap("sync", mountpoint) == (0, "")
    assert (store / "file").read_bytes() == b"x" * 100
    os.truncate(mountpoint / "file", 10)
    code, said = fremap("power-cut", mountpoint, "--report")
    assert "file: 0 pages in RAM" in said
    assert fremap("power-cut", mountpoint) == (0, "")
    assert (mountpoint / "file").read_bytes() == b"x" * 100
    assert fremap("inject", mountpoint, "mkdir error=EROFS") == (0, "")
    assert "mkdir error=EROFS" in fremap("inject", mountpoint)[1]
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "folder").mkdir()
    assert fremap("umount", mountpoint) == (0, "")
    assert "INFO" in log.read_text()


def test_mistakes_are_one_line(folders: tuple[Path, Path]) -> None:
    store, mountpoint = folders
    for words, says in (
        (("mount", store / "no", mountpoint), "mkdir -p"),
        (("mount", store, mountpoint / "no"), "mkdir -p"),
        (("mount", store, mountpoint, "--caps", "ramfs,strictlimit"), "contradict"),
        (("mount", store, mountpoint, "--dirty-ratio", "101"), "percentage"),
        (("umount", mountpoint), "no mount of fremap"),
        (("status", mountpoint), "no mount of fremap"),
        (("sync", mountpoint), "no mount of fremap"),
        (("power-cut", mountpoint), "--power-cut"),
    ):
        code, said = fremap(*words)
        assert code != 0, words
        assert says in said, said
        assert said.count("\n") == 1, said
        assert "Traceback" not in said
