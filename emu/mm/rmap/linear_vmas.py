"""Strategies `linear_vmas` and `linear_vmas_accounted`: remap_file_pages makes ordinary VMAs.

There is no nonlinear VMA then, and i_mmap finds everything. Each run costs a VMA, and max_map_count ends it. Linux did
so for dirty-accounted files from v2.6.24 and for all files from v4.0; that a call may span the VMAs that earlier calls
made came in v4.5. A call for what a linear VMA shows anyway does nothing up to v3.19; later it maps anew.

Both prefault, unless told not to, as v4.0 does; v2.6.24 left the pages of such a VMA to their faults.

Source: Linux v2.6.24 mm/fremap.c: sys_remap_file_pages(); v4.6 mm/mmap.c: sys_remap_file_pages().
"""

from emu.hw.pte import PteFormat
from emu.mm.rmap.base import NothingKept, pointer_nbytes
from emu.mm_types.address_space import AddressSpace

_WORDS_64 = 22
_WORDS_32 = 20


def vma_nbytes(fmt: PteFormat) -> int:
    """Return sizeof(struct vm_area_struct) of Linux v2.6.23, which a run costs here: 176 on x86-64, 84 on i386.

    All words but page_prot are pointers or longs; a 64-bit kernel's has a NUMA policy, too.
    """
    word = pointer_nbytes(fmt)
    return _WORDS_64 * word if word == 8 else _WORDS_32 * word + fmt.pte_bytes


class LinearVmas(NothingKept):
    """Remaps every file with VMAs, as Linux since v4.0."""

    name = "linear_vmas"
    finds_all = True
    remap_spans_vmas = True

    def remaps_with_vmas(self, mapping: AddressSpace) -> bool:
        """Do so for every file."""
        del mapping
        return True


class LinearVmasAccounted(NothingKept):
    """Remaps dirty-accounted files with VMAs, as Linux v2.6.24 to v3.19; others keep nonlinear VMAs."""

    name = "linear_vmas_accounted"
    finds_all = False

    def remaps_with_vmas(self, mapping: AddressSpace) -> bool:
        """Do so where page_mkclean will be called."""
        return mapping.account_dirty
