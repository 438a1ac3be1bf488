"""fio writes checksummed blocks through each of its engines and reads them back; what differs fails the run."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed (Debian: apt-get install fio)"),
]

MakeMount = Callable[..., TemporaryMount]
BUSY = DirtyParams(background_bytes=256 << 10, dirty_bytes=8 << 20, expire_s=0.05, periodic_s=0.02)
ENGINES = {
    "psync": ["--ioengine=psync", "--bsrange=512-70000", "--bs_unaligned=1"],
    "psync, fsync": ["--ioengine=psync", "--bsrange=4k-64k", "--fsync=16"],
    "mmap": ["--ioengine=mmap", "--bsrange=4k-64k"],
    "O_DIRECT": ["--ioengine=psync", "--direct=1", "--bsrange=4k-64k"],
    "O_DIRECT, queued": ["--ioengine=libaio", "--direct=1", "--bs=8k", "--iodepth=16"],
}


def verify(folder: Path, engine: list[str], megabytes: int, pattern: str) -> None:
    """Write blocks, read each back, compare."""
    command = [
        "fio",
        "--name=verify",
        f"--directory={folder}",
        f"--size={megabytes}m",
        f"--rw={pattern}",
        "--numjobs=2",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_backlog=64",
        "--randseed=7",
        "--fallocate=none",
        "--eta=never",
        *engine,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, cwd=folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "err= 0" in done.stdout
    assert "READ: bw=" in done.stdout, "nothing was verified"
    assert "verify:" not in done.stderr


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("pattern", ["randrw", "write"])
def test_verify(make_mount: MakeMount, engine: str, pattern: str) -> None:
    verify(make_mount("disk", params=BUSY).path, ENGINES[engine], 2, pattern)


@pytest.mark.parametrize("setting", ["stable_writes", "direct", "power_cut", "ramfs"])
def test_verify_settings(make_mount: MakeMount, setting: str) -> None:
    caps = {"stable_writes": "disk,stable_writes", "ramfs": "ramfs"}.get(setting, "disk")
    options = {setting: True} if caps == "disk" else {}
    mounted = make_mount(caps, params=BUSY, **options)
    verify(mounted.path, ENGINES["psync"], 2, "randwrite")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("caps", ["disk", "ramfs", "strict", "disk,stable_writes"])
def test_verify_long(make_mount: MakeMount, caps: str, engine: str) -> None:
    verify(make_mount(caps, params=BUSY).path, ENGINES[engine], 256, "randrw")
