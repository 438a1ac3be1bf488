"""A process of the emulated machine, or of the kernel underneath: for tests that hold for both."""

from collections.abc import Iterator
from contextlib import contextmanager

from emu.host import HostProcess
from emu.machine import Machine
from emu.process import Process

Either = Process | HostProcess


@contextmanager
def either_process(kind: str, *, privileged: bool = True) -> Iterator[Either]:
    """Give a process: of the ``host``, or of a machine of 1 MiB with that reverse map."""
    if kind == "host":
        with HostProcess() as host:
            yield host
    else:
        with Machine(ram=1 << 20, rmap=kind) as machine:
            yield machine.spawn(privileged=privileged)
