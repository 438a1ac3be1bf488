"""Peers of the mount: FUSE filesystems that hand everything on to a directory, if this machine has them.

Each is a context manager that mounts `root` at `mountpoint` and raises `Missing` with the reason if it cannot. All
are programs of Debian packages; libfuse's own passthrough is built from the source that libfuse3-dev brings.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fsbackend.state import kernel_unmount

EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")
COMES_UP_S = 20.0


class Missing(Exception):  # noqa: N818 - no error: a peer that is not here
    """The peer is not to be had on this machine; the text says why."""


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Missing(f"not installed (Debian: apt-get install {package})")
    return path


def _loopback(base: Path) -> list[str]:
    del base
    return [sys.executable, str(Path(__file__).with_name("loopback.py")), "{root}", "{mountpoint}"]


def _passthrough(base: Path) -> list[str]:
    """Build libfuse's example, in C on the low-level API."""
    source = EXAMPLES / "passthrough_ll.c"
    packed = source.with_suffix(".c.gz")
    if not (source.exists() or packed.exists()) or shutil.which("gcc") is None or shutil.which("pkg-config") is None:
        raise Missing("not to be built here (Debian: apt-get install libfuse3-dev gcc pkg-config)")
    folder = base / "passthrough"
    folder.mkdir(exist_ok=True)
    for path in EXAMPLES.iterdir():
        if path.name.startswith("passthrough"):
            shutil.copy(path, folder)
    subprocess.run(["gunzip", "-fq", *folder.glob("*.gz")], check=False)
    asked = subprocess.run(["pkg-config", "fuse3", "--cflags", "--libs"], capture_output=True, text=True, check=False)
    command = ["gcc", "-O2", "-w", "-o", "passthrough_ll", "passthrough_ll.c", *asked.stdout.split()]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if built.returncode:
        raise Missing(f"does not build: {built.stderr.strip().splitlines()[0]}")
    return [str(folder / "passthrough_ll"), "-f", "-o", "source={root}", "{mountpoint}"]


def _bindfs(base: Path) -> list[str]:
    del base
    return [_program("bindfs", "bindfs"), "-f", "{root}", "{mountpoint}"]


def _mergerfs(base: Path) -> list[str]:
    del base
    return [_program("mergerfs", "mergerfs"), "-f", "-o", "cache.files=auto-full", "{root}", "{mountpoint}"]


def _overlayfs(base: Path) -> list[str]:
    for name in ("lower", "work"):
        (base / name).mkdir(exist_ok=True)
    layers = f"lowerdir={base / 'lower'},upperdir={{root}},workdir={base / 'work'}"
    return [_program("fuse-overlayfs", "fuse-overlayfs"), "-f", "-o", layers, "{mountpoint}"]


PEERS: dict[str, Callable[[Path], list[str]]] = {
    "fusepy loopback": _loopback,
    "passthrough_ll": _passthrough,
    "bindfs": _bindfs,
    "mergerfs": _mergerfs,
    "fuse-overlayfs": _overlayfs,
}
"""Name -> what builds its command line; ``{root}`` and ``{mountpoint}`` are put in."""


@contextmanager
def peer(name: str, base: Path) -> Iterator[Path]:
    """Mount a peer over a directory of its own under `base`; give the mount point."""
    words = PEERS[name](base)
    root, mountpoint = base / f"{name}-root".replace(" ", "-"), base / f"{name}-mnt".replace(" ", "-")
    root.mkdir()
    mountpoint.mkdir()
    command = [word.format(root=root, mountpoint=mountpoint) for word in words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + COMES_UP_S
        while not os.path.ismount(mountpoint):
            if process.poll() is not None or time.monotonic() > until_s:
                raise Missing(f"did not come up: {' '.join(command)}")
            time.sleep(0.02)
        yield mountpoint
    finally:
        kernel_unmount(str(mountpoint), lazy=True)
        process.terminate()
        process.wait(20)
