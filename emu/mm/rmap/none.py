"""Strategy `none`: nonlinear VMAs are not searched, as in Linux 2.6.20.

page_mkclean() walks i_mmap only, so a page that is dirtied through a nonlinear VMA, cleaned, and dirtied again is
never written again: the second write is lost. Kept as the proof.

Source: Linux v2.6.20 mm/rmap.c: page_mkclean_file().
"""

from emu.mm.rmap.base import NothingKept


class NoRmap(NothingKept):
    """Finds nothing, costs nothing, loses writes."""

    name = "none"
