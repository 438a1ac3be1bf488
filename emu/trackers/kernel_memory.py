"""What a process costs the kernel in page tables and VMAs, as far as the kernel tells."""

from dataclasses import dataclass
from pathlib import Path

_SLABINFO = Path("/proc/slabinfo")


@dataclass(frozen=True, slots=True)
class KernelMemory:
    """Memory in the kernel: bytes of this process's page tables, number of VMAs in a range of its addresses."""

    table_bytes: int
    nr_vmas: int

    def added_since(self, before: "KernelMemory") -> int | None:
        """Return the bytes that came since, or None if VMAs came and this kernel does not tell how large one is."""
        vmas = self.nr_vmas - before.nr_vmas
        tables = self.table_bytes - before.table_bytes
        if vmas == 0:
            return tables
        nbytes = vma_nbytes()
        return None if nbytes is None else tables + vmas * nbytes


def kernel_memory(vaddr: int, nbytes: int) -> KernelMemory:
    """Read VmPTE of /proc/self/status, and count the lines of /proc/self/maps that lie in the range."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if ":" in line
    )
    with Path("/proc/self/maps").open("rb") as maps:
        starts = (int(line.partition(b"-")[0], 16) for line in maps)
        # The first of them may begin before the range, merged with a neighbour.
        nr_vmas = sum(vaddr < start < vaddr + nbytes for start in starts) + 1
    return KernelMemory(int(status["VmPTE"].split()[0]) * 1024, nr_vmas)


def vma_nbytes() -> int | None:
    """Return the size of a VMA from /proc/slabinfo, which only root may read; None if it does not tell.

    The nodes of the tree that holds the VMAs come on top, and are not told for one process.
    """
    try:
        lines = _SLABINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[3]) for line in lines if line.startswith("vm_area_struct ")), None)
