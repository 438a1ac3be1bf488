"""The hole of 2007 as a workload; `fremap compare` runs the same under every strategy."""

from dataclasses import asdict

from emu.lab.host_lab import HostLab
from emu.lab.host_late_store import host_late_store
from emu.lab.lab import Lab
from emu.lab.late_store import late_store as run_late_store


def late_store(lab: Lab, *, pages: int = 4096, share: float = 0.1) -> dict[str, object]:
    """Store after a writeback, call msync, cut the power, and count the pages that are lost.

    `share` of the `pages` get a first stamp that is written back, and a second one that msync promises.
    """
    if isinstance(lab, HostLab):
        lab.boot()
        return asdict(host_late_store(lab, pages, share))
    outcome = asdict(run_late_store(lab, pages, share))
    return outcome | outcome.pop("memory")
