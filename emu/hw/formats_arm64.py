"""The Arm 64-bit page-table formats: stage 1, EL1&0, granules of 4, 16 and 64 KiB, 48-bit addresses, TTBR0.

Sources: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter "The AArch64 Virtual Memory
System Architecture"; how a kernel uses DBM and the software bits: Linux v6.1
arch/arm64/include/asm/pgtable.h: pte_dirty(), pte_wrprotect(), pte_mkclean(), and pgtable-prot.h; that a clean entry
made writable stays clean, v6.18 pte_mkwrite_novma() (v6.1 cleared AP[2], and so made it dirty).
Assumed of the CPU: FEAT_HAFDBS in use (TCR_EL1.HA and HD), hierarchical permissions on, PAN off, WXN clear;
no EPAN, so that memory that may only be executed can be read.

Writable means DBM: such an entry starts out read-only (AP[2] set), and the first store clears AP[2]. That
is the hardware's dirty state; a software bit remembers it when an entry is write-protected.
"""

from dataclasses import replace

from emu.hw.pte_format import BitField, PteFormat
from emu.hw.walk_rules import WITH_LEVEL, Allowed, FaultRules, Level, LevelRule, Rule, Step, WalkRules, permission_table

VALID = 1 << 0
PAGE = 1 << 1           # a table, or a page at the last level; clear: a block
AP_USER = 1 << 6        # AP[1]
AP_READ_ONLY = 1 << 7   # AP[2]
SH_INNER = 3 << 8
AF = 1 << 10            # accessed
NG = 1 << 11            # not global
DBM = 1 << 51           # the hardware may clear AP[2]
PXN = 1 << 53
UXN = 1 << 54
DIRTY = 1 << 55         # software: Linux's PTE_DIRTY
FILE = 1 << 56          # software, not valid: a file PTE (fremap's own)
PROTNONE = 1 << 58      # software, not valid: mapped without access, as in Linux v6.1
PXN_TABLE, UXN_TABLE, AP_TABLE_NO_USER, AP_TABLE_READ_ONLY = 59, 60, 61, 62     # bits of a table entry

EC_FETCH_LOWER, EC_FETCH_SAME, EC_DATA_LOWER, EC_DATA_SAME = 0x20, 0x21, 0x24, 0x25
WNR = 1 << 6
TRANSLATION, ACCESS_FLAG, PERMISSION = 0b000100, 0b001000, 0b001100
EXTERNAL, EXTERNAL_ON_WALK = 0b010000, 0b010100

_HW_DIRTY = Rule(DBM | AP_READ_ONLY, DBM)


def _leaf_allowed(user: bool, read_only: bool, dbm: bool, pxn: bool, uxn: bool) -> Allowed:
    """AP[2:1], DBM, PXN, UXN; executing does not need the right to read."""
    write = not read_only or dbm
    return Allowed(user, user and write, not uxn, kernel_load=True, kernel_store=write, kernel_fetch=not pxn)


def _table_allowed(pxn: bool, uxn: bool, no_user: bool, read_only: bool) -> Allowed:
    """PXNTable, UXNTable, APTable: what a table entry takes away from all below it."""
    return Allowed(
        load=not no_user,
        store=not no_user and not read_only,
        fetch=not uxn,
        kernel_load=True,
        kernel_store=not read_only,
        kernel_fetch=not pxn,
    )


def _syndrome(mode_and_kind: int, status: int) -> int:
    """Return an ESR: exception class, IL, WnR and the fault status."""
    mode, kind = divmod(mode_and_kind, 3)
    is_fetch = kind == 2
    ec = (EC_FETCH_LOWER, EC_FETCH_SAME)[mode] if is_fetch else (EC_DATA_LOWER, EC_DATA_SAME)[mode]
    return ec << 26 | 1 << 25 | (WNR if kind == 1 else 0) | status


def _error_codes() -> tuple[int, ...]:
    statuses = (
        None,
        TRANSLATION | WITH_LEVEL,
        PERMISSION | WITH_LEVEL,
        TRANSLATION | WITH_LEVEL,
        ACCESS_FLAG | WITH_LEVEL,
        TRANSLATION,
        EXTERNAL,
        EXTERNAL_ON_WALK | WITH_LEVEL,
    )
    codes = [0] * 64
    for cause, status in enumerate(statuses):
        for mode_and_kind in range(6):
            if status is not None:
                codes[cause * 8 + mode_and_kind] = _syndrome(mode_and_kind, status)
    return tuple(codes)


def _walk_rules(levels: tuple[Level, ...], block_shifts: tuple[int, ...]) -> WalkRules:
    table_only = LevelRule(Rule(VALID | PAGE, VALID | PAGE))    # a block there is reserved: not valid
    or_block = LevelRule(Rule(VALID, VALID), leaf_mask=PAGE, leaf_inverted=True)
    last = LevelRule(Rule(VALID | PAGE, VALID | PAGE), leaf_inverted=True)
    return WalkRules(
        levels=(*(or_block if shift in block_shifts else table_only for shift, _ in levels[:-1]), last),
        dirty=Rule(AP_READ_ONLY, 0),
        set_dirty=Step(AP_READ_ONLY, 0),
        is_global=Rule(NG, 0),
        leaf_bits=(6, 7, 51, 53, 54),
        leaf_allowed=permission_table(5, _leaf_allowed),
        table_bits=(PXN_TABLE, UXN_TABLE, AP_TABLE_NO_USER, AP_TABLE_READ_ONLY),
        table_allowed=permission_table(4, _table_allowed),
        error_codes=_error_codes(),
        first_level=4 - len(levels),
        user_writable_not_executed=True,
    )


_LEVELS_4K = (Level(39, 9), Level(30, 9), Level(21, 9), Level(12, 9))
_LEVELS_16K = (Level(47, 1), Level(36, 11), Level(25, 11), Level(14, 11))
_LEVELS_64K = (Level(42, 6), Level(29, 13), Level(16, 13))

ARM64_4K = PteFormat(
    name="arm64_4k",
    page_shift=12,
    pte_bytes=8,
    levels=_LEVELS_4K,
    va_bits=48,
    sign_extended=False,
    task_size=1 << 48,
    present_mask=VALID,
    write_mask=DBM,
    user_mask=AP_USER,
    accessed_mask=AF,
    dirty_mask=DIRTY,
    exec_rule=Rule(UXN, 0),
    protnone_mask=PROTNONE,
    file_mask=FILE,
    pfn_mask=(1 << 48) - (1 << 12),
    pfn_shift=12,
    leaf_base=VALID | PAGE | SH_INNER | NG | AP_READ_ONLY | PXN | UXN,
    protnone_base=PROTNONE | AP_READ_ONLY,
    table_base=VALID | PAGE,
    dirty_rules=(Rule(DIRTY, DIRTY), _HW_DIRTY),
    mkuser=(Step(0, AP_USER),),
    mkexec=(Step(UXN, 0),),
    mkwrite=(Step(0, DBM), Step(AP_READ_ONLY, 0, Rule(DIRTY, DIRTY))),
    wrprotect=(Step(0, DIRTY, _HW_DIRTY), Step(DBM, AP_READ_ONLY)),
    mkdirty=(Step(0, DIRTY), Step(AP_READ_ONLY, 0, Rule(DBM, DBM))),
    mkclean=(Step(DIRTY, AP_READ_ONLY),),
    mkhuge=Step(PAGE, 0),
    file_fields=(BitField(0, 52, 2),),
    swap_type=BitField(0, 6, 2),
    swap_offset=BitField(0, 48, 8),
    file_source="fremap's own: bit 56 marks it, the offset stands in bits 2 to 53 of a not-valid entry",
    fault_rules=FaultRules(
        write=Rule(0x38 << 26 | WNR, 0x20 << 26 | WNR),
        present=Rule(0x3C, PERMISSION),
        execute=Rule(0x3E << 26, EC_FETCH_LOWER << 26),
    ),
    walk=_walk_rules(_LEVELS_4K, (30, 21)),
)

ARM64_16K = replace(
    ARM64_4K,
    name="arm64_16k",
    page_shift=14,
    levels=_LEVELS_16K,
    pfn_mask=(1 << 48) - (1 << 14),
    pfn_shift=14,
    walk=_walk_rules(_LEVELS_16K, (25,)),
)

ARM64_64K = replace(
    ARM64_4K,
    name="arm64_64k",
    page_shift=16,
    levels=_LEVELS_64K,
    pfn_mask=(1 << 48) - (1 << 16),
    pfn_shift=16,
    walk=_walk_rules(_LEVELS_64K, (29,)),
)
