"""What the twins have alike from the start, and how what they do is told: outcomes, mappings, flags, bytes."""

import errno
import mmap
from collections.abc import Callable
from typing import Any

from emu.errors import Signal
from emu.mm_types.vma import (
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
)

PAGE = 4096
RW = mmap.PROT_READ | mmap.PROT_WRITE
BASE = 1 << 37
ARENA_PAGES = 40
END = BASE + ARENA_PAGES * PAGE
FILE_NBYTES = (12 * PAGE + 1240, 5 * PAGE)
FLAGS = {
    VM_READ: "rd", VM_WRITE: "wr", VM_EXEC: "ex", VM_SHARED: "sh", VM_MAYREAD: "mr", VM_MAYWRITE: "mw",
    VM_MAYEXEC: "me", VM_MAYSHARE: "ms", VM_LOCKED: "lo", VM_SEQ_READ: "sr", VM_RAND_READ: "rr", VM_DONTCOPY: "dc",
    VM_LOCKONFAULT: "lf",
    VM_WIPEONFORK: "wf", VM_DONTDUMP: "dd", VM_HUGEPAGE: "hg", VM_NOHUGEPAGE: "nh", VM_MERGEABLE: "mg",
    VM_ACCOUNT: "ac", VM_NORESERVE: "nr", VM_GROWSDOWN: "gd",
}  # fmt: skip
"""What /proc/PID/smaps calls the flags that both kernels have."""

Vma = tuple[int, int, int, bool, int, str]
"""(start, end, PROT_*, shared, pgoff, file): file is a number, "zero" (shared anonymous) or empty."""


def content(number: int) -> bytes:
    """Return the first bytes of a file: each word tells where it lies."""
    nbytes = FILE_NBYTES[number]
    return b"".join((at << 8 | number + 1).to_bytes(8, "little") for at in range(0, nbytes, 8))[:nbytes]


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """Return how a call ended."""
    try:
        return "value", call()
    except OSError as error:
        return "errno", errno.errorcode[error.errno or 0]
    except Signal as signal:
        return "signal", type(signal).__name__, signal.vaddr & -PAGE


def told(vmas: list[Vma]) -> str:
    lines = []
    for start, end, prot, shared, pgoff, file in vmas:
        mode = f"{prot:03b}{'s' if shared else 'p'}"
        lines.append(f"  page {(start - BASE) // PAGE:2} to {(end - BASE) // PAGE:2} {mode} pgoff={pgoff} {file!r}")
    return "\n".join(lines)


def difference(emulated: bytes | None, host: bytes | None) -> str:
    if emulated is None or host is None:
        return f"emulated {'cannot' if emulated is None else 'can'}, host {'cannot' if host is None else 'can'} load it"
    if len(emulated) != len(host):
        return f"emulated {len(emulated)} bytes, host {len(host)}"
    at = next(at for at in range(len(host)) if emulated[at] != host[at])
    return f"byte {at}: emulated {emulated[at : at + 8].hex()}, host {host[at : at + 8].hex()}"
