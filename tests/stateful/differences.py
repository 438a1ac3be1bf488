"""Where Linux 6.x behaves otherwise than the emulated kernel on purpose: the one table, and what it excuses.

Each entry has a test in test_differences.py which shows that the two do differ so. Only what an entry excuses is left
out of the comparison, by the function or the arguments that it names.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs, where Linux has it, and how the random calls make room for it."""

    emulated: str
    host: str
    source: str
    excused_by: str


DIFFERENCES = {
    "devices": Difference(
        "only regular files are mapped: ENODEV for /dev/zero, sockets and the like",
        "drivers decide; /dev/zero is anonymous memory",
        "Linux v6.12 drivers/char/mem.c: mmap_zero()",
        "TwinMachines: all files are regular ones",
    ),
    "hugetlb": Difference(
        "MAP_HUGETLB is EINVAL, as of a kernel without CONFIG_HUGETLBFS",
        "memory from the pool of huge pages, or ENOMEM",
        "Linux v6.12 mm/mmap.c: ksys_mmap_pgoff()",
        "Calls.map(): not among the random flags",
    ),
    "mmap_later": Difference(
        "MAP_DROPPABLE, a third type beside MAP_SHARED and MAP_PRIVATE, is EINVAL",
        "known since v6.11",
        "Linux v6.12 mm/mmap.c: do_mmap()",
        "Calls.map(): not among the random types",
    ),
    "madvise_later": Difference(
        "MADV_COLLAPSE, the guards (102, 103) and the poison of tests (100, 101) are EINVAL",
        "known since v6.1 and v6.13",
        "Linux v6.13 mm/madvise.c: madvise_behavior_valid()",
        "Differential.madvise(): these are not among the random advices",
    ),
    "mremap_many": Difference(
        "mremap moves one mapping: EFAULT for a range of several",
        "a move without a change of length takes a range of several mappings, with holes",
        "Linux v6.17 mm/mremap.c: remap_move()",
        "Differential.mremap(): such a move of more than one mapping is not made",
    ),
    "tail": Difference(
        "what is stored behind the end of the file stays in its last page until that changes its length",
        "each writeback of a disk filesystem zeroes it, whenever that comes; tmpfs never does",
        "Linux v6.12 fs/buffer.c: block_write_full_folio()",
        "within_file(): bytes of a file's last page behind its end are not compared; Differential.ftruncate()",
    ),
    "vm_file": Difference(
        "a file has two struct files, one for all descriptors that may write, one for those that may not",
        "each open(2) makes one; mappings of different ones do not merge, in v2.6.20 neither",
        "Linux v2.6.20 mm/mmap.c: is_mergeable_vma(); v6.12 mm/vma.c: is_mergeable_vma()",
        "TwinMachines: of each file one descriptor for reading and writing, one for reading only",
    ),
    "vm_close": Difference(
        "mappings of files on a FUSE mount merge like all others",
        "FUSE wants to be told of each mapping that is closed, so no merge makes one of them go",
        "Linux v6.12 mm/vma.c: is_mergeable_vma(), can_merge_remove_vma(); fs/fuse/file.c: fuse_vma_close()",
        "merge_where_emulated_did(closes=True), for files of a mount; merge_private(), for their private mappings:"
        " what did not merge once has other anon_vmas since, and merges elsewhere",
    ),
}


Vma = tuple[int, int, int, bool, int, str]


def merge_where_emulated_did(host: list[Vma], emulated: list[Vma], *, closes: bool = False) -> list[Vma]:
    """Merge neighbours of the host that continue each other, as far as a difference excuses them.

    Only where the emulated kernel has one mapping, and only those of a file whose driver wants to be told of each close
    (vm_close). A border that only the emulated kernel has stays a difference.
    """
    borders = {vma[0] for vma in emulated}
    merged: list[Vma] = []
    for vma in host:
        if closes and vma[0] not in borders and vma[5].isdigit() and merged and _continues(merged[-1], vma):
            merged[-1] = _joined(merged[-1], vma)
        else:
            merged.append(vma)
    return merged


def merge_private(vmas: list[Vma]) -> list[Vma]:
    """Merge neighbours that continue each other among private mappings of files (vm_close)."""
    merged: list[Vma] = []
    for vma in vmas:
        if vma[5].isdigit() and not vma[3] and merged and _continues(merged[-1], vma):
            merged[-1] = _joined(merged[-1], vma)
        else:
            merged.append(vma)
    return merged


def _continues(lower: Vma, upper: Vma) -> bool:
    start, end, prot, shared, pgoff, file = lower
    return (end, prot, shared, pgoff + (end - start) // 4096, file) == (upper[0], *upper[2:])


def _joined(lower: Vma, upper: Vma) -> Vma:
    return (lower[0], upper[1], *lower[2:])


def within_file(page: bytes | None, pgoff: int, file_nbytes: int) -> bytes | None:
    """Cut off what lies behind the end of the file (tail); pages beyond it are left as they are."""
    left = file_nbytes - pgoff * 4096
    return page[:left] if page is not None and 0 < left < 4096 else page
