"""The x86 page-table formats.

Sources: Intel SDM volume 3A, chapter 4; the software bits and file PTEs from Linux v2.6.20
include/asm-i386/pgtable-2level.h, pgtable-3level.h and include/asm-x86_64/pgtable.h.
Assumed of the CPU: CR4.PSE, CR0.WP and EFER.NXE set; in IA-32e mode CR4.PCIDE, which only that has (SDM 4.10.1); SMEP,
SMAP and protection keys off.
"""

from dataclasses import replace

from emu.hw.pte_format import BitField, PteFormat
from emu.hw.walk_rules import Allowed, FaultRules, Level, LevelRule, Rule, Step, WalkRules, permission_table

P = 1 << 0          # present
RW = 1 << 1         # writable
US = 1 << 2         # user mode too
PWT = 1 << 3        # write-through
PCD = 1 << 4        # cache disabled
A = 1 << 5          # accessed
D = 1 << 6          # dirty (leaf)
PS = 1 << 7         # a large page (upper levels)
G = 1 << 8          # global (leaf)
NX = 1 << 63        # no execute
PROTNONE = 1 << 7   # Linux, present clear: mapped without access
FILE = 1 << 6       # Linux, present clear: a file PTE

FAULT_P, FAULT_W, FAULT_U, FAULT_RSVD, FAULT_I = 1, 2, 4, 8, 16

_TABLE = P | RW | US | A | D    # Linux's _PAGE_TABLE
_FAULTS = FaultRules(
    write=Rule(FAULT_W, FAULT_W), present=Rule(FAULT_P, FAULT_P), execute=Rule(FAULT_I, FAULT_I)
)
_PRESENT = Rule(P, P)


def _allowed(rw: bool, us: bool, nx: bool = False) -> Allowed:
    """SDM volume 3A, 4.6.1, with CR0.WP and EFER.NXE set, SMEP and SMAP clear."""
    return Allowed(us, us and rw, us and not nx, kernel_load=True, kernel_store=rw, kernel_fetch=not nx)


def _error_codes(*, has_nx: bool) -> tuple[int, ...]:
    """SDM volume 3A, 4.7: the code of a page fault; a non-canonical address is #GP(0), no memory 0."""
    by_cause = (None, 0, FAULT_P, FAULT_P | FAULT_RSVD, FAULT_P, None, None, None)
    codes = [0] * 64
    for cause, base in enumerate(by_cause):
        for mode_and_kind in range(6):
            if base is not None:
                mode, kind = divmod(mode_and_kind, 3)
                code = base | (FAULT_U if mode == 0 else 0) | (0, FAULT_W, FAULT_I if has_nx else 0)[kind]
                codes[cause * 8 + mode_and_kind] = code
    return tuple(codes)


def _walk_rules(levels: tuple[LevelRule, ...], *, has_nx: bool) -> WalkRules:
    bits = (1, 2, 63) if has_nx else (1, 2)
    allowed = permission_table(len(bits), _allowed)
    return WalkRules(
        levels=levels,
        dirty=Rule(D, D),
        set_dirty=Step(0, D),
        is_global=Rule(G, G),
        leaf_bits=bits,
        leaf_allowed=allowed,
        table_bits=bits,
        table_allowed=allowed,
        error_codes=_error_codes(has_nx=has_nx),
    )


def _bits(low: int, high: int) -> int:
    return (1 << high + 1) - (1 << low)


def _large_level(low: int, high: int, reserved: int) -> LevelRule:
    """Return the rule of a level that may hold large pages, whose address bits `low` to `high` are reserved."""
    return LevelRule(
        _PRESENT,
        leaf_mask=PS,
        reserved_leaf=_bits(low, high) | reserved,
        reserved_table=reserved,
        table_accessed=A,
    )


def _last(reserved: int) -> LevelRule:
    """Return the rule of the last level, where bit 7 is PAT."""
    return LevelRule(_PRESENT, leaf_inverted=True, reserved_leaf=reserved)


_ABOVE_46 = _bits(46, 51)       # physical addresses have 46 bits, as Linux v2.6.20 has it
_ABOVE_36 = _bits(36, 62)       # PAE: 36 bits, and none of the upper bits is ignored

I386 = PteFormat(
    name="i386",
    page_shift=12,
    pte_bytes=4,
    levels=(Level(22, 10), Level(12, 10)),
    va_bits=32,
    sign_extended=False,
    task_size=0xC000_0000,
    present_mask=P,
    write_mask=RW,
    user_mask=US,
    accessed_mask=A,
    dirty_mask=D,
    exec_rule=Rule(0, 0),
    protnone_mask=PROTNONE,
    file_mask=FILE,
    pfn_mask=0xFFFF_F000,
    pfn_shift=12,
    leaf_base=P,
    protnone_base=PROTNONE,
    table_base=_TABLE,
    dirty_rules=(Rule(D, D),),
    mkuser=(Step(0, US),),
    mkexec=(),
    mkwrite=(Step(0, RW),),
    wrprotect=(Step(RW, 0),),
    mkdirty=(Step(0, D),),
    mkclean=(Step(D, 0),),
    mkhuge=Step(0, PS),
    file_fields=(BitField(0, 5, 1), BitField(5, 24, 8)),
    swap_type=BitField(0, 5, 1),
    swap_offset=BitField(0, 24, 8),
    file_source="Linux v2.6.20 include/asm-i386/pgtable-2level.h: pgoff_to_pte()",
    fault_rules=_FAULTS,
    walk=_walk_rules(
        (
            # CR4.PSE set; bits 13 to 21 are reserved with 32 bits of physical address (SDM table 4-4)
            _large_level(13, 21, 0),
            _last(0),
        ),
        has_nx=False,
    ),
    asid_bits=0,
)

I386_PAE = replace(
    I386,
    name="i386_pae",
    pte_bytes=8,
    levels=(Level(30, 2), Level(21, 9), Level(12, 9)),
    exec_rule=Rule(NX, 0),
    pfn_mask=_bits(12, 35),
    leaf_base=P | NX,
    root_table_base=P,
    mkexec=(Step(NX, 0),),
    file_fields=(BitField(0, 32, 32),),
    swap_type=BitField(0, 5, 32),
    swap_offset=BitField(0, 27, 37),
    file_source="Linux v2.6.20 include/asm-i386/pgtable-3level.h: pgoff_to_pte()",
    walk=_walk_rules(
        (
            # the four root entries have no permission bits, and what others have there is reserved; the
            # CPU loads them with CR3, which this walker does not imitate (SDM 4.4.1)
            LevelRule(
                _PRESENT, reserved_table=RW | US | _bits(5, 8) | _ABOVE_36 | NX, given=RW | US
            ),
            _large_level(13, 20, _ABOVE_36),
            _last(_ABOVE_36),
        ),
        has_nx=True,
    ),
)

X86_64 = PteFormat(
    name="x86_64",
    page_shift=12,
    pte_bytes=8,
    levels=(Level(39, 9), Level(30, 9), Level(21, 9), Level(12, 9)),
    va_bits=48,
    sign_extended=True,
    task_size=0x7FFF_FFFF_F000,
    present_mask=P,
    write_mask=RW,
    user_mask=US,
    accessed_mask=A,
    dirty_mask=D,
    exec_rule=Rule(NX, 0),
    protnone_mask=PROTNONE,
    file_mask=FILE,
    pfn_mask=_bits(12, 45),
    pfn_shift=12,
    leaf_base=P | NX,
    protnone_base=PROTNONE,
    table_base=_TABLE,
    dirty_rules=(Rule(D, D),),
    mkuser=(Step(0, US),),
    mkexec=(Step(NX, 0),),
    mkwrite=(Step(0, RW),),
    wrprotect=(Step(RW, 0),),
    mkdirty=(Step(0, D),),
    mkclean=(Step(D, 0),),
    mkhuge=Step(0, PS),
    file_fields=(BitField(0, 34, 12),),
    swap_type=BitField(0, 5, 1),    # bit 6 is FILE
    swap_offset=BitField(0, 56, 8),
    file_source="Linux v2.6.20 include/asm-x86_64/pgtable.h: pgoff_to_pte()",
    fault_rules=_FAULTS,
    walk=_walk_rules(
        (
            LevelRule(_PRESENT, reserved_table=PS | _ABOVE_46, table_accessed=A),
            _large_level(13, 29, _ABOVE_46),
            _large_level(13, 20, _ABOVE_46),
            _last(_ABOVE_46),
        ),
        has_nx=True,
    ),
    asid_bits=12,
)

X86_64_LA57 = replace(
    X86_64,
    name="x86_64_la57",
    levels=(Level(48, 9), *X86_64.levels),
    va_bits=57,
    task_size=0x00FF_FFFF_FFFF_F000,
    pfn_mask=_bits(12, 51),
    file_fields=(BitField(0, 40, 12),),
    file_source="fremap's own: as x86_64, with the whole frame number (Linux had no file PTEs by then)",
    walk=_walk_rules(
        (
            LevelRule(_PRESENT, reserved_table=PS, table_accessed=A),
            LevelRule(_PRESENT, reserved_table=PS, table_accessed=A),
            _large_level(13, 29, 0),
            _large_level(13, 20, 0),
            _last(0),
        ),
        has_nx=True,
    ),
)
