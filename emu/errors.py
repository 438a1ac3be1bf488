"""What the emulated machine raises: signals that a process would get, and broken invariants."""


class Signal(Exception):  # noqa: N818 - named as the process sees it, not as an error
    """A signal that the emulated kernel delivers to a process for an access to `vaddr`."""

    name = "SIG"

    def __init__(self, vaddr: int, reason: str) -> None:
        super().__init__(f"{self.name} at {vaddr:#x}: {reason}")
        self.vaddr = vaddr
        self.reason = reason


class SegmentationFault(Signal):
    """SIGSEGV: no mapping there, or the mapping does not allow the access."""

    name = "SIGSEGV"


class BusError(Signal):
    """SIGBUS: a mapping without bytes behind it (beyond the end of the file, or a read error)."""

    name = "SIGBUS"


class OutOfMemory(Signal):
    """The machine found no frame for the fault of this process; the machine itself stays whole."""

    name = "SIGKILL"


class KernelBug(AssertionError):  # noqa: N818 - the kernel says BUG
    """An invariant of the emulated kernel does not hold (the kernel's BUG_ON), with the values."""
