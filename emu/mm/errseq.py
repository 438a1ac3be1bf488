"""Writeback errors: each open file learns of each error once.

A background write may fail long before anybody asks. Whoever has the file open by then is told at his next msync, once;
whoever opens it later is told, too, if nobody was yet. Here a process has a file open while it maps it, and children
share that with their parent, as they share open files.

Source: Linux v4.13 lib/errseq.c: errseq_check_and_advance(); v4.16: errseq_sample(); mm/filemap.c:
file_check_and_advance_wb_err().
"""

from emu.mm_types.address_space import AddressSpace, FileErrors
from emu.mm_types.mm import Mm


def sample_wb_err(mm: Mm, mapping: AddressSpace) -> None:
    """Note, as a process opens a file, which of its errors are old ones (filemap_sample_wb_err)."""
    known = mapping.ident in mm.wb_seen
    if known and (mapping.refcount or any(vma.mapping is mapping for vma in mm.vmas)):
        return
    count = mapping.wb_err[0]
    mm.wb_seen[mapping.ident] = FileErrors(count if mapping.wb_err_seen == count else 0)


def file_check_and_advance_wb_err(mm: Mm, mapping: AddressSpace) -> int:
    """Return the errno of the last error, if there was one since the process was told or opened the file, else 0."""
    count, error = mapping.wb_err
    file = mm.wb_seen.setdefault(mapping.ident, FileErrors(0))
    if file.nr_seen == count:
        return 0
    file.nr_seen = mapping.wb_err_seen = count
    return error
