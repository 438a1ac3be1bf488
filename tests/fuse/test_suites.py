"""Suites of others, run with all their files in the mount: CPython's own tests, stress-ng's verifying stressors."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(1800)]

BUSY = DirtyParams(background_bytes=1 << 20, dirty_bytes=64 << 20, expire_s=0.2, periodic_s=0.1)
MakeMount = Callable[..., TemporaryMount]

OF_CPYTHON = [
    "test_os",
    "test_posix",
    "test_shutil",
    "test_mmap",
    "test_fileio",
    "test_io",
    "test_largefile",
    "test_tempfile",
    "test_pathlib",
    "test_glob",
    "test_zipfile",
    "test_tarfile",
    "test_dbm",
    "test_shelve",
    "test_fcntl",
    "test_posixpath",
    "test_file",
    "test_bufio",
    "test_filecmp",
    "test_sqlite3",
    "test_mailbox",
    "test_fileinput",
]
OF_STRESS_NG = [
    "access",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "dup",
    "fallocate",
    "fcntl",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "hdd",
    "inode-flags",
    "inotify",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "rename",
    "seek",
    "sendfile",
    "splice",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "aio",
    "mmap",
    "revio",
    "readahead",
    "msync",
    "msyncmany",
    "dnotify",
]


@pytest.mark.skipif(importlib.util.find_spec("test.test_os") is None, reason="this Python comes without its tests")
@pytest.mark.parametrize("caps", ["disk", "ramfs"])
def test_cpython(make_mount: MakeMount, caps: str) -> None:
    mounted = make_mount(caps, params=BUSY)
    folders = [mounted.path / "tmp", mounted.path / "work"]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-m", "test", "--tempdir", str(folders[1]), "-j1", "--timeout", "600", *OF_CPYTHON]
    environment = dict(os.environ, TMPDIR=str(folders[0]))
    done = subprocess.run(command, env=environment, cwd=folders[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.skipif(shutil.which("stress-ng") is None, reason="not installed (Debian: apt-get install stress-ng)")
@pytest.mark.parametrize("caps", ["disk", "ramfs"])
def test_stress_ng(make_mount: MakeMount, caps: str) -> None:
    mounted = make_mount(caps, params=BUSY)
    failed = {}
    for name in OF_STRESS_NG:
        command = ["stress-ng", f"--{name}", "2", "--timeout", "2s", "--temp-path", str(mounted.path), "--verify"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode not in {0, 3}:  # 3: it says itself that it cannot run here
            failed[name] = done.stderr[-500:]
    assert not failed
