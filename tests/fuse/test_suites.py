"""Suites of others, run with all their files in the mount: CPython's, stress-ng's, dbench; and Redis."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
    "aiol",
    "handle",
    "file-ioctl",
    "fanotify",
    "fault",
    "madvise",
    "mincore",
    "mmapfork",
    "mremap",
    "remap",
    "tee",
    "vm-splice",
    "loop",
    "exec",
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


@pytest.mark.skipif(shutil.which("dbench") is None, reason="not installed (Debian: apt-get install dbench)")
@pytest.mark.parametrize("caps", ["disk", "ramfs", "power_cut"])
def test_dbench(make_mount: MakeMount, caps: str) -> None:
    """The requests of a file server's clients; each that is not answered as it was then ends the run."""
    if caps == "power_cut":
        mounted = make_mount("disk", params=BUSY, power_cut=True, metadata=True, xattrs=True)
    else:
        mounted = make_mount(caps, params=BUSY)
    command = ["dbench", "-t", "10", "-c", "/usr/share/dbench/client.txt", "-D", str(mounted.path), "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
    assert "Throughput" in done.stdout


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="not installed (Debian: apt-get install redis-server)")
@pytest.mark.parametrize("caps", ["disk", "ramfs"])
def test_redis(make_mount: MakeMount, caps: str, tmp_path: Path) -> None:
    """Its append-only file, rewritten meanwhile, survives the server's own kill -9, key by key."""
    mounted = make_mount(caps, params=BUSY)
    socket = tmp_path / "redis.sock"
    server = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(mounted.path), "--save", "1 1"]
    server += ["--appendonly", "yes", "--appendfsync", "always", "--logfile", str(tmp_path / "log")]
    server += ["--enable-debug-command", "yes"]

    def ask(*words: str) -> str:
        command = ["redis-cli", "-s", str(socket), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(server)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.CalledProcessError):
                if ask("ping") == "PONG":
                    return process
            time.sleep(0.1)
        raise AssertionError((tmp_path / "log").read_text()[-2000:])

    running = start()
    try:
        ask("bgrewriteaof")
        load = ["redis-benchmark", "-s", str(socket), "-n", "3000", "-t", "set,lpush,hset", "-r", "2000", "-d", "300"]
        subprocess.run(load, check=True, stdout=subprocess.DEVNULL, timeout=300)
        told = ask("debug", "digest")
        assert int(told, 16), "there is something to lose"
        assert "aof_last_write_status:ok" in ask("info", "persistence")
        running.kill()
        running.wait()
        running = start()
        assert ask("debug", "digest") == told
    finally:
        running.kill()
        running.wait()


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
