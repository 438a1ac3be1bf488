"""The RISC-V page-table formats: Sv32, Sv39, Sv48, Sv57.

Source: The RISC-V Instruction Set Manual, volume II (privileged), chapter "Supervisor-Level ISA", the
sections on Sv32 to Sv57 and "Virtual Address Translation Process". Assumed of the hart: SUM set, MXR clear,
Svadu (it sets A and D itself), no Svnapot and no Svpbmt (their bits are reserved). Bits of a not-present entry
belong to software.
"""

from dataclasses import replace

from emu.hw.pte_format import BitField, PteFormat
from emu.hw.walk_rules import EVERYTHING, Allowed, FaultRules, Level, LevelRule, Rule, Step, WalkRules, permission_table

V = 1 << 0          # valid
R = 1 << 1
W = 1 << 2
X = 1 << 3
U = 1 << 4          # user mode
G = 1 << 5          # global
A = 1 << 6          # accessed
D = 1 << 7          # dirty
FILE = 1 << 8       # software, V clear: a file PTE (fremap's own)
PROTNONE = 1 << 9   # software, V clear: mapped without access (fremap's own)

FETCH_PAGE_FAULT, LOAD_PAGE_FAULT, STORE_PAGE_FAULT = 12, 13, 15
FETCH_ACCESS_FAULT, LOAD_ACCESS_FAULT, STORE_ACCESS_FAULT = 1, 5, 7

_UPPER_RESERVED = 2**64 - (1 << 54)
_PPN_SHIFT = 10


def _allowed(r: bool, w: bool, x: bool, u: bool) -> Allowed:
    """Judge as steps 3 to 6 of the translation do; the supervisor never executes user pages."""
    return Allowed(
        load=u and r,
        store=u and w,
        fetch=u and x,
        kernel_load=r,
        kernel_store=w,
        kernel_fetch=x and not u,
        reserved=w and not r,
    )


def _error_codes() -> tuple[int, ...]:
    """Return the exception cause: page faults, and access faults where there is no memory."""
    page_faults = (LOAD_PAGE_FAULT, STORE_PAGE_FAULT, FETCH_PAGE_FAULT) * 2 + (0, 0)
    access_faults = (LOAD_ACCESS_FAULT, STORE_ACCESS_FAULT, FETCH_ACCESS_FAULT) * 2 + (0, 0)
    return (0,) * 8 + page_faults * 5 + access_faults * 2


def _walk_rules(levels: tuple[Level, ...], upper_reserved: int) -> WalkRules:
    return WalkRules(
        levels=tuple(
            LevelRule(
                Rule(V, V),
                leaf_mask=R | W | X,
                # a large page's frame must be aligned to its size
                reserved_leaf=upper_reserved | (1 << shift - 12 + _PPN_SHIFT) - (1 << _PPN_SHIFT),
                reserved_table=upper_reserved | A | D | U,
                table_global=G,
            )
            for shift, _ in levels
        ),
        dirty=Rule(D, D),
        set_dirty=Step(0, D),
        is_global=Rule(G, G),
        leaf_bits=(1, 2, 3, 4),
        leaf_allowed=permission_table(4, _allowed),
        table_bits=(),
        table_allowed=permission_table(0, lambda: EVERYTHING),
        error_codes=_error_codes(),
    )


_SV32_LEVELS = (Level(22, 10), Level(12, 10))
_SV57_LEVELS = (Level(48, 9), Level(39, 9), Level(30, 9), Level(21, 9), Level(12, 9))

SV32 = PteFormat(
    name="sv32",
    page_shift=12,
    pte_bytes=4,
    levels=_SV32_LEVELS,
    va_bits=32,
    sign_extended=False,
    task_size=0x8000_0000,
    present_mask=V,
    write_mask=W,
    user_mask=U,
    accessed_mask=A,
    dirty_mask=D,
    exec_rule=Rule(X, X),
    protnone_mask=PROTNONE,
    file_mask=FILE,
    pfn_mask=0xFFFF_FC00,
    pfn_shift=_PPN_SHIFT,
    leaf_base=V | R,
    protnone_base=PROTNONE,
    table_base=V,
    dirty_rules=(Rule(D, D),),
    mkuser=(Step(0, U),),
    mkexec=(Step(0, X),),
    mkwrite=(Step(0, W),),
    wrprotect=(Step(W, 0),),
    mkdirty=(Step(0, D),),
    mkclean=(Step(D, 0),),
    mkhuge=Step(0, 0),
    file_fields=(BitField(0, 7, 1), BitField(7, 22, 10)),
    swap_type=BitField(0, 5, 1),
    swap_offset=BitField(0, 22, 10),
    file_source="fremap's own: the bits of a not-present entry but V and the two of RSW (8 and 9)",
    fault_rules=FaultRules(
        write=Rule(0xFF, STORE_PAGE_FAULT), present=Rule(0, 1), execute=Rule(0xFF, FETCH_PAGE_FAULT)
    ),
    walk=_walk_rules(_SV32_LEVELS, 0),
    read_mask=R,
    asid_bits=9,
)

_SV57 = replace(
    SV32,
    name="sv57",
    pte_bytes=8,
    levels=_SV57_LEVELS,
    va_bits=57,
    sign_extended=True,
    task_size=1 << 56,
    pfn_mask=(1 << 54) - (1 << 10),
    file_fields=(BitField(0, 52, 10),),
    swap_offset=BitField(0, 52, 10),
    walk=_walk_rules(_SV57_LEVELS, _UPPER_RESERVED),
    asid_bits=16,
)


def _shorter(name: str, nr_levels: int) -> PteFormat:
    """Return Sv57 with its last `nr_levels` levels only."""
    levels = _SV57_LEVELS[-nr_levels:]
    va_bits = levels[0].shift + levels[0].bits
    return replace(
        _SV57,
        name=name,
        levels=levels,
        va_bits=va_bits,
        task_size=1 << va_bits - 1,
        walk=_walk_rules(levels, _UPPER_RESERVED),
    )


SV39 = _shorter("sv39", 3)
SV48 = _shorter("sv48", 4)
SV57 = _SV57
