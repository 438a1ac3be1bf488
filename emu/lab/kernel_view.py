"""What the real kernel says of a mount: its own BDI's statistics, from debugfs, and ratios, from sysfs.

Stores through mmap make pages dirty there, not in the mount, until the kernel writes them back. Debugfs is for root;
where it is not mounted it is reached through a mount that no directory shows.
"""

import os
import re
from pathlib import Path

from emu.lab.tracefs import hidden_mount

_KIB = 1024
_STAT = re.compile(r"^(\w+): +(\d+) ?(\w*)", re.MULTILINE)
_UNITS = {"kB": _KIB, "kBps": _KIB}
_RATIOS = ("min_ratio", "max_ratio", "strict_limit")
_DEBUGFS = "/sys/kernel/debug"


class KernelView:
    """The kernel's backing_dev_info of one device, "MAJ:MIN"; `unreadable` says why its statistics cannot be read."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.unreadable = ""
        self._fd = -1
        try:
            self._root = self._find_debugfs()
        except OSError as error:
            self.unreadable = f"debugfs: {error.strerror}"
            self._root = Path("/nowhere")

    def _find_debugfs(self) -> Path:
        if Path(_DEBUGFS, "bdi").is_dir():
            return Path(_DEBUGFS)
        self._fd = hidden_mount("debugfs")
        return Path(f"/proc/self/fd/{self._fd}")

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self) -> dict[str, int]:
        """Return the BDI's statistics in bytes and bytes a second, and its ratios; empty if nothing can be read."""
        found: dict[str, int] = {}
        try:
            text = (self._root / "bdi" / self.device / "stats").read_text(encoding="ascii")
        except OSError as error:
            self.unreadable = self.unreadable or f"debugfs: {error.strerror}"
        else:
            found = {name: int(value) * _UNITS.get(unit, 1) for name, value, unit in _STAT.findall(text)}
        for name in _RATIOS:
            try:
                text = Path("/sys/class/bdi", self.device, name).read_text(encoding="ascii")
                found[name] = int(text)
            except (OSError, ValueError):
                continue
        return found
