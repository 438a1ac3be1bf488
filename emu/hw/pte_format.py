"""What a page-table format is: levels, bits and encodings as data, with the kernel's operations on entries.

An entry is a plain int as it stands in RAM. Nothing here touches RAM; nothing branches on a format's
name. What differs between architectures is data: a predicate is a `Rule` (masked bits equal a value), a
transform is a tuple of `Step`s (bits to clear and to set, possibly only where a rule holds).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from emu.hw.walk_rules import FaultRules, Level, Rule, Step, WalkRules

U64Array = npt.NDArray[np.uint64]


class BitField(NamedTuple):
    """`nr_bits` bits of a number, from its bit `value_bit`, stored in an entry from bit `pte_bit`."""

    value_bit: int
    nr_bits: int
    pte_bit: int


Steps = tuple[Step, ...]


def _apply(steps: Steps, pte: int) -> int:
    for clear, bits, (mask, value) in steps:
        if pte & mask == value:
            pte = pte & ~clear | bits
    return pte


@dataclass(frozen=True, slots=True)
class PteFormat:
    """One page-table format, as data, with the operations that an mm needs on its entries.

    Units: `vaddr` in bytes, `pfn` and `pgoff` in pages of this format. All entries are ints.
    Names follow the kernel's: ``pte_mkclean(pte)`` returns the changed entry.
    """

    name: str
    page_shift: int
    pte_bytes: int
    levels: tuple[Level, ...]
    va_bits: int                    # translated bits of an address
    sign_extended: bool             # bits above va_bits repeat its top bit, else they are zero
    task_size: int                  # the first vaddr that user mode cannot map

    present_mask: int               # the hardware's valid bit
    write_mask: int                 # the bit that says "may be written" (Arm: DBM)
    user_mask: int
    accessed_mask: int
    dirty_mask: int                 # the bit that a transform sets to make an entry dirty
    exec_rule: Rule                 # true of entries that may be executed
    protnone_mask: int              # software: mapped, but no access at all (hardware: not present)
    file_mask: int                  # software, not-present entries only: a file PTE
    pfn_mask: int
    pfn_shift: int                  # bit of an entry where the pfn starts

    leaf_base: int                  # every present leaf has these bits
    protnone_base: int              # every PROTNONE leaf has these bits
    table_base: int                 # every entry that points to a table has these bits
    dirty_rules: tuple[Rule, ...]   # dirty if any holds
    mkuser: Steps
    mkexec: Steps
    mkwrite: Steps
    wrprotect: Steps
    mkdirty: Steps
    mkclean: Steps
    mkhuge: Step                    # what makes a leaf one of an upper level

    file_fields: tuple[BitField, ...]
    swap_type: BitField
    swap_offset: BitField
    file_source: str                # where the file-PTE encoding comes from
    fault_rules: FaultRules
    walk: WalkRules = field(repr=False)
    root_table_base: int = -1       # as table_base, for the root's entries; -1: the same
    read_mask: int = 0              # what an executable leaf lacks that cannot be read; 0: there are none
    asid_bits: int = 16             # how many address spaces a TLB tells apart; 0: loading a root flushes it

    page_size: int = field(init=False)
    file_bits: int = field(init=False)
    max_pgoff: int = field(init=False)
    nr_levels: int = field(init=False)
    _present_any: int = field(init=False)
    _prot: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Work out what follows from the data."""
        derive = object.__setattr__
        derive(self, "page_size", 1 << self.page_shift)
        derive(self, "file_bits", sum(part.nr_bits for part in self.file_fields))
        derive(self, "max_pgoff", (1 << self.file_bits) - 1)
        derive(self, "nr_levels", len(self.levels))
        derive(self, "_present_any", self.present_mask | self.protnone_mask)
        derive(self, "_prot", tuple(self._prot_bits(number) for number in range(64)))

    def _prot_bits(self, number: int) -> int:
        """Return the bits of a leaf for one combination of mk_pte()'s six flags, write being bit 0."""
        write, execute, user, accessed, dirty, protnone = (bool(number >> bit & 1) for bit in range(6))
        if protnone:
            pte = self.protnone_base
        else:
            pte = self.leaf_base
            pte = _apply(self.mkuser, pte) if user else pte
            pte = _apply(self.mkexec, pte) if execute else pte
            pte = _apply(self.mkwrite, pte) if write else pte
        pte = pte | self.accessed_mask if accessed else pte
        return _apply(self.mkdirty, pte) if dirty else pte

    # Leaves

    def mk_pte(
        self,
        pfn: int,
        *,
        write: bool,
        execute: bool,
        user: bool = True,
        accessed: bool = False,
        dirty: bool = False,
        protnone: bool = False,
        read: bool = True,
    ) -> int:
        """Return a present leaf for `pfn`; with `protnone` one that the hardware does not see.

        Without `read` an executable one cannot be read, where the format knows such; a writable one always can.
        """
        number = write | execute << 1 | user << 2 | accessed << 3 | dirty << 4 | protnone << 5
        prot = self._prot[number]
        if not read and not write and execute:
            prot &= ~self.read_mask
        return pfn << self.pfn_shift | prot

    def has_huge(self, level: int) -> bool:
        """Tell whether entries of `level` (0 = root) can map large pages."""
        return level < self.nr_levels - 1 and self.walk.levels[level].leaf_mask != 0

    def mk_huge_pte(
        self,
        level: int,
        pfn: int,
        *,
        write: bool,
        execute: bool,
        user: bool = True,
        accessed: bool = False,
        dirty: bool = False,
        read: bool = True,
    ) -> int:
        """Return a leaf of an upper `level` that maps ``1 << levels[level].shift`` bytes from frame `pfn`.

        Raises
        ------
        ValueError
            If the format has no pages of that size, or `pfn` is not aligned to them.

        """
        if not self.has_huge(level):
            raise ValueError(f"{self.name} has no large pages at level {level}")
        if pfn & (1 << self.levels[level].shift - self.page_shift) - 1:
            raise ValueError(f"frame {pfn} is not aligned to the large pages of level {level} of {self.name}")
        pte = self.mk_pte(
            pfn, write=write, execute=execute, user=user, accessed=accessed, dirty=dirty, read=read
        )
        return pte & ~self.mkhuge.clear | self.mkhuge.set

    @property
    def exec_implies_read(self) -> bool:
        """Whether what may be executed may be read."""
        return not self.read_mask

    def pte_present(self, pte: int) -> bool:
        """Tell whether the entry maps a frame, PROT_NONE included, as Linux's pte_present() does."""
        return pte & self._present_any != 0

    def pte_hw_present(self, pte: int) -> bool:
        """Tell whether the hardware takes the entry for valid (PROT_NONE entries are not)."""
        return pte & self.present_mask != 0

    def pte_protnone(self, pte: int) -> bool:
        """Tell whether the entry maps a frame to which no access is allowed."""
        return pte & self._present_any == self.protnone_mask

    def pte_file(self, pte: int) -> bool:
        """Tell whether a not-present entry holds a file offset; meaningless for a present one."""
        return pte & self.file_mask != 0

    def pte_pfn(self, pte: int) -> int:
        """Return the frame that a present leaf maps."""
        return (pte & self.pfn_mask) >> self.pfn_shift

    def pte_write(self, pte: int) -> bool:
        """Tell whether the entry may be written (on Arm also if the next store must first clear AP[2])."""
        return pte & self.write_mask != 0

    def pte_exec(self, pte: int) -> bool:
        """Tell whether user mode may execute the page."""
        mask, value = self.exec_rule
        return pte & mask == value

    def pte_dirty(self, pte: int) -> bool:
        """Tell whether the page was written through this entry since it was last clean."""
        return any(pte & mask == value for mask, value in self.dirty_rules)

    def pte_young(self, pte: int) -> bool:
        """Tell whether the page was accessed through this entry."""
        return pte & self.accessed_mask != 0

    def pte_mkwrite(self, pte: int) -> int:
        """Allow writes."""
        return _apply(self.mkwrite, pte)

    def pte_wrprotect(self, pte: int) -> int:
        """Forbid writes; a dirty entry stays dirty."""
        return _apply(self.wrprotect, pte)

    def pte_mkdirty(self, pte: int) -> int:
        """Mark dirty."""
        return _apply(self.mkdirty, pte)

    def pte_mkclean(self, pte: int) -> int:
        """Mark clean."""
        return _apply(self.mkclean, pte)

    def pte_mkyoung(self, pte: int) -> int:
        """Mark accessed."""
        return pte | self.accessed_mask

    def pte_mkold(self, pte: int) -> int:
        """Mark not accessed."""
        return pte & ~self.accessed_mask

    def pte_modify(self, pte: int, *, read: bool, write: bool, execute: bool) -> int:
        """Return a present entry with another protection; frame, accessed and dirty are kept.

        Without any right the entry becomes PROT_NONE. Write implies read; execute does, too, but on RISC-V.
        Source: Linux v2.6.20 include/asm-x86_64/pgtable.h: pte_modify().
        """
        return self.mk_pte(
            self.pte_pfn(pte),
            write=write,
            execute=execute,
            accessed=self.pte_young(pte),
            dirty=self.pte_dirty(pte),
            protnone=not (read or write or execute),
            read=read,
        )

    # File PTEs

    def _too_large(self, pgoff: int) -> str:
        return f"page offset {pgoff} does not fit in the {self.file_bits} bits of a {self.name} file PTE"

    def pgoff_to_pte(self, pgoff: int) -> int:
        """Return the file PTE that stands for page `pgoff` of the file.

        Raises
        ------
        ValueError
            If `pgoff` does not fit: it is never truncated.

        """
        if not 0 <= pgoff <= self.max_pgoff:
            raise ValueError(self._too_large(pgoff))
        pte = self.file_mask
        for value_bit, nr_bits, pte_bit in self.file_fields:
            pte |= (pgoff >> value_bit & (1 << nr_bits) - 1) << pte_bit
        return pte

    def pte_to_pgoff(self, pte: int) -> int:
        """Return the file offset, in pages, that a file PTE holds."""
        pgoff = 0
        for value_bit, nr_bits, pte_bit in self.file_fields:
            pgoff |= (pte >> pte_bit & (1 << nr_bits) - 1) << value_bit
        return pgoff

    def pgoff_to_pte_bulk(self, pgoffs: U64Array) -> U64Array:
        """Return the file PTEs of many page offsets; ValueError if any does not fit."""
        if pgoffs.size and int(pgoffs.max()) > self.max_pgoff:
            raise ValueError(self._too_large(int(pgoffs.max())))
        ptes = np.full(pgoffs.shape, self.file_mask, np.uint64)
        for value_bit, nr_bits, pte_bit in self.file_fields:
            part = pgoffs >> np.uint64(value_bit) & np.uint64((1 << nr_bits) - 1)
            ptes |= part << np.uint64(pte_bit)
        return ptes

    def pte_to_pgoff_bulk(self, ptes: U64Array) -> U64Array:
        """Return the page offsets that many file PTEs hold."""
        pgoffs = np.zeros(ptes.shape, np.uint64)
        for value_bit, nr_bits, pte_bit in self.file_fields:
            part = ptes >> np.uint64(pte_bit) & np.uint64((1 << nr_bits) - 1)
            pgoffs |= part << np.uint64(value_bit)
        return pgoffs

    # Tables

    def mk_table(self, pfn: int, level: int = 1) -> int:
        """Return an entry of a table at `level` (0 = root) that points to the next table in frame `pfn`.

        Only i386_pae cares for `level`: its four root entries have no permission bits.
        """
        bits = self.root_table_base if level == 0 and self.root_table_base >= 0 else self.table_base
        return pfn << self.pfn_shift | bits

    def table_pfn(self, entry: int) -> int:
        """Return the frame of the table that an upper entry points to."""
        return (entry & self.pfn_mask) >> self.pfn_shift

    def entry_is_leaf(self, entry: int, level: int) -> bool:
        """Tell whether a present entry of a table at `level` maps a page, large or not."""
        rule = self.walk.levels[level]
        return (entry & rule.leaf_mask != 0) != rule.leaf_inverted

    def table_present(self, entry: int) -> bool:
        """Tell whether an upper entry points to anything."""
        return entry & self.present_mask != 0

    def index(self, vaddr: int, level: int) -> int:
        """Return which entry of its table at `level` (0 = root) translates `vaddr`."""
        shift, bits = self.levels[level]
        return vaddr >> shift & (1 << bits) - 1

    # Fault codes

    def fault_is_write(self, code: int) -> bool:
        """Tell from the architecture's fault code whether a store was tried."""
        mask, value = self.fault_rules.write
        return code & mask == value

    def fault_is_present(self, code: int) -> bool:
        """Tell whether the entry was valid and forbade the access.

        RISC-V does not say: there it is always False, and the kernel must read the entry.
        """
        mask, value = self.fault_rules.present
        return code & mask == value

    def fault_is_exec(self, code: int) -> bool:
        """Tell whether an instruction fetch was tried."""
        mask, value = self.fault_rules.execute
        return code & mask == value
