"""HostLab: the laboratory of ``fremap run --host``; what a workload boots is the kernel underneath."""

import math
import os
import platform
from typing import TYPE_CHECKING, Any, cast

from emu.host_machine import HostMachine
from emu.hw.pte import get_format
from emu.lab.errors import LabError
from emu.lab.lab import Lab

if TYPE_CHECKING:
    from emu.machine import Machine
    from emu.mapping import Mapping
    from emu.process import Process

_FORMATS = {
    "x86_64": ("x86_64",),
    "aarch64": ("arm64_4k", "arm64_16k", "arm64_64k"),
    "riscv64": ("sv39",),
    "i686": ("i386_pae",),
}


def host_format() -> str:
    """Return the page-table format of this computer.

    Raises
    ------
    LabError
        If fremap has none for it.

    """
    page_nbytes = os.sysconf("SC_PAGE_SIZE")
    for name in _FORMATS.get(platform.machine(), ()):
        if get_format(name).page_size == page_nbytes:
            return name
    raise LabError(f"fremap knows no page-table format of {platform.machine()} with pages of {page_nbytes} bytes")


class HostLab(Lab):
    """A Lab whose machine is this computer; `notes` say what was asked for and has no meaning here."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._host: HostMachine | None = None
        self._notes: list[str] = []

    @property
    def has_booted(self) -> bool:
        """Whether the workload has asked for its machine."""
        return self._host is not None

    @property
    def notes(self) -> list[str]:
        """Sentences on what has no meaning on the host."""
        return self._notes + ([] if self._host is None else self._host.notes)

    @property
    def machine(self) -> "Machine":
        """The host as a machine, once it was booted."""
        if self._host is None:
            raise LabError("the workload must boot its machine first: lab.boot(ram=...)")
        return cast("Machine", self._host)

    def boot(self, ram: int = 0, *, at_least: int = 0, **more: Any) -> "Machine":  # noqa: ARG002 - RAM is what it is
        """Return the host in the place of a machine."""
        if self._host is not None:
            raise LabError("one run, one machine: it is booted already")
        self._host = self._cleanup.enter_context(HostMachine(**more))
        return cast("Machine", self._host)

    def counters(self) -> dict[str, Any]:
        """Return what is known of the processes."""
        return {"host": dict(self._host.vmstat.snapshot())} if self._host is not None else {}

    def look(self, process: "Process", mapping: "Mapping", label: str) -> None:
        """Draw nothing: the page tables are not ours to read."""

    def sampler(self) -> dict[str, float]:
        """Sample nothing."""
        return {}


def without_unknowns(value: Any) -> Any:
    """Return an outcome with None for each number that is UNKNOWN."""
    if isinstance(value, dict):
        return {name: without_unknowns(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_unknowns(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
