"""A filesystem of its own on a loop device: a real disk's filesystem to experiment on, gone afterwards.

Needs root. The device reads and writes its file past the page cache where that filesystem allows it, so that what is
dirty is dirty in one place only. Everything is taken down again, in reverse order, whatever happens.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from emu.lab.errors import LabError

_MKFS: dict[str, tuple[str, ...]] = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
FILESYSTEMS = tuple(_MKFS)
_BDI = Path("/sys/class/bdi")
_SECTOR_NBYTES = 512


@dataclass(frozen=True, slots=True)
class LoopDisk:
    """A mounted filesystem: its directory, its block device, and the name of its backing_dev_info.

    The bdi is the device's own, such as 7:0, but for btrfs, which may span devices and has one a filesystem.
    """

    directory: Path
    device: str
    bdi: str

    def written(self) -> int:
        """Return the bytes that the device was given to write since it was made."""
        words = (Path("/sys/class/block") / Path(self.device).name / "stat").read_text(encoding="ascii").split()
        return int(words[6]) * _SECTOR_NBYTES

    def busy_s(self) -> float:
        """Return the seconds in which the device had something to do."""
        words = (Path("/sys/class/block") / Path(self.device).name / "stat").read_text(encoding="ascii").split()
        return int(words[9]) / 1000

    @contextmanager
    def limited(self, nbytes: int) -> Iterator[None]:
        """Have the real kernel hold this filesystem to so many dirty bytes meanwhile, and judge it by them alone.

        A loop device keeps its limits when its file is detached: whoever has it next would inherit them.
        """
        bdi = _BDI / self.bdi
        try:
            paths = [bdi / name for name in ("max_ratio_fine", "strict_limit")]
            before = [(path, path.read_text(encoding="ascii")) for path in paths]
            for name, value in (("strict_limit", 1), ("max_bytes", nbytes)):
                (bdi / name).write_text(f"{value}\n", encoding="ascii")
        except OSError as error:
            raise LabError(f"{error.filename}: {error.strerror} (needs Linux 6.2)") from error
        try:
            yield
        finally:
            for path, text in before:
                path.write_text(text, encoding="ascii")


def why_no_loop_disk(filesystem: str) -> str | None:
    """Return why there can be no loop device with this filesystem here, or None if there can."""
    if os.geteuid() != 0:
        return "loop devices need root"
    if not Path("/dev/loop-control").exists():
        return "there is no /dev/loop-control (modprobe loop)"
    if filesystem not in _MKFS:
        return f"no filesystem {filesystem}; there are {', '.join(_MKFS)}"
    if shutil.which(_MKFS[filesystem][0]) is None:
        return f"{_MKFS[filesystem][0]} is missing (Debian: apt-get install {_PACKAGES[filesystem]})"
    return None


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - names fixed above
    if done.returncode:
        words = [line for line in (done.stderr or done.stdout).strip().splitlines() if "dmesg(1)" not in line]
        raise LabError(f"{' '.join(command)}: {words[-1] if words else f'exit code {done.returncode}'}")
    return done.stdout.strip()


def _attach(image: Path) -> str:
    """Attach the image to a free loop device, with direct I/O if its own filesystem can do that."""
    try:
        return _run(["losetup", "--find", "--show", "--direct-io=on", str(image)])
    except LabError:
        return _run(["losetup", "--find", "--show", str(image)])


@contextmanager
def loop_disk(filesystem: str, nbytes: int, place: Path) -> Iterator[LoopDisk]:
    """Make a sparse image of `nbytes` in `place`, a filesystem in it, and mount that.

    Raises
    ------
    LabError
        If that cannot be done here; one line.

    """
    reason = why_no_loop_disk(filesystem)
    if reason is not None:
        raise LabError(reason)
    image, directory = place / f"{filesystem}.img", place / filesystem
    with ExitStack() as stack:
        with image.open("xb") as file:
            file.truncate(nbytes)
        stack.callback(image.unlink)
        device = _attach(image)
        stack.callback(_run, ["losetup", "--detach", device])
        _run([*_MKFS[filesystem], device])
        directory.mkdir()
        stack.callback(directory.rmdir)
        known = {path.name for path in _BDI.iterdir()}
        _run(["mount", "-t", filesystem, device, str(directory)])
        stack.callback(_run, ["umount", str(directory)])
        new = {path.name for path in _BDI.iterdir()} - known
        status = os.stat(device)  # noqa: PTH116 - pathlib has no st_rdev shorter
        own = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        bdi = next((name for name in sorted(new) if name.startswith(filesystem)), own)
        yield LoopDisk(directory, device, bdi)


@contextmanager
def debugfs(place: Path) -> Iterator[Path]:
    """Return debugfs, mounted in `place` for this time if it is mounted nowhere."""
    usual = Path("/sys/kernel/debug")
    if (usual / "bdi").is_dir():
        yield usual
        return
    directory = place / "debugfs"
    directory.mkdir()
    try:
        _run(["mount", "-t", "debugfs", "none", str(directory)])
        try:
            yield directory
        finally:
            _run(["umount", str(directory)])
    finally:
        directory.rmdir()
