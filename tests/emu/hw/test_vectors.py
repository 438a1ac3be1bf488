"""Vectors from the architecture manuals for what the unicorn engine does not judge: fault codes, reserved bits.

Each row: format, level (0 = root), bits to flip in that entry of a good chain, access, the code expected.
"""

import pytest

from emu.hw.mmu import R_ERROR, R_FAULT, AccessKind
from emu.hw.pte import get_format
from tests.emu.hw.space import Space

LOAD, STORE, FETCH = AccessKind.LOAD, AccessKind.STORE, AccessKind.FETCH
BASE = 0x4000_0000
P, W, U, RSVD, INSTR = 1, 2, 4, 8, 16
LEAF = -1


def esr(exception: int, status: int, *, write: bool = False) -> int:
    """ESR_EL1: EC in bits 31:26, IL bit 25, WnR bit 6, status in bits 5:0 (Arm DDI 0487, D17.2.37)."""
    return exception << 26 | 1 << 25 | write << 6 | status


DATA, FETCHED = 0x24, 0x20     # from a lower exception level

VECTORS = [
    # Intel SDM 3A 4.7, figure 4-12; reserved bits: tables 4-4 to 4-6 and 4-8 to 4-20
    ("x86_64", LEAF, 1 << 0, LOAD, U),
    ("x86_64", LEAF, 1 << 0, STORE, U | W),
    ("x86_64", LEAF, 1 << 0, FETCH, U | INSTR),
    ("x86_64", LEAF, 1 << 2, LOAD, U | P),
    ("x86_64", 1, 1 << 1, STORE, U | W | P),
    ("x86_64", 2, 1 << 63, FETCH, U | INSTR | P),
    ("x86_64", 0, 1 << 7, LOAD, U | P | RSVD),
    ("x86_64", LEAF, 1 << 46, LOAD, U | P | RSVD),
    ("x86_64", LEAF, 1 << 51, STORE, U | W | P | RSVD),
    ("x86_64", LEAF, 1 << 52, LOAD, None),              # ignored
    ("x86_64", LEAF, 1 << 62, LOAD, None),
    ("x86_64_la57", 0, 1 << 7, LOAD, U | P | RSVD),
    ("i386", LEAF, 1 << 0, FETCH, U),                   # no I bit without NXE
    ("i386_pae", 0, 1 << 1, LOAD, U | P | RSVD),        # 4.4.1: bits 1, 2, 5 to 8 of a PDPTE
    ("i386_pae", 0, 1 << 2, LOAD, U | P | RSVD),
    ("i386_pae", 0, 1 << 5, LOAD, U | P | RSVD),
    ("i386_pae", 0, 1 << 8, LOAD, U | P | RSVD),
    ("i386_pae", 0, 1 << 9, LOAD, None),
    ("i386_pae", 1, 1 << 62, LOAD, U | P | RSVD),       # reserved in PAE, ignored in 4-level paging
    ("i386_pae", LEAF, 1 << 52, LOAD, U | P | RSVD),
    # RISC-V privileged specification, "Virtual Address Translation Process", steps 3 to 7
    ("sv39", LEAF, 1 << 0, LOAD, 13),
    ("sv39", LEAF, 1 << 0, STORE, 15),
    ("sv39", LEAF, 1 << 0, FETCH, 12),
    ("sv39", LEAF, 1 << 1, LOAD, 13),                   # W without R is reserved
    ("sv39", LEAF, 1 << 4, LOAD, 13),
    ("sv39", 1, 1 << 6, LOAD, 13),                      # A, D and U of a pointer are reserved
    ("sv39", 1, 1 << 7, LOAD, 13),
    ("sv39", 0, 1 << 4, STORE, 15),
    ("sv39", LEAF, 1 << 54, LOAD, 13),                  # bits 60:54
    ("sv48", LEAF, 1 << 61, LOAD, 13),                  # PBMT without Svpbmt
    ("sv57", LEAF, 1 << 63, LOAD, 13),                  # N without Svnapot
    ("sv32", 0, 1 << 1, LOAD, 13),                      # a megapage whose frame is not aligned
    # Arm DDI 0487: D8.3 (descriptors), D8.4 (permissions), D8.5 (AF and DBM), D17.2.37 (ESR_EL1)
    ("arm64_4k", 0, 1 << 0, LOAD, esr(DATA, 0b000100)),
    ("arm64_4k", 2, 1 << 0, LOAD, esr(DATA, 0b000110)),
    ("arm64_4k", LEAF, 1 << 0, STORE, esr(DATA, 0b000111, write=True)),
    ("arm64_4k", LEAF, 1 << 0, FETCH, esr(FETCHED, 0b000111)),
    ("arm64_4k", LEAF, 1 << 1, LOAD, esr(DATA, 0b000111)),      # a block at level 3 is reserved
    ("arm64_4k", 0, 1 << 1, LOAD, esr(DATA, 0b000100)),         # and at level 0
    ("arm64_16k", 1, 1 << 1, LOAD, esr(DATA, 0b000101)),        # 16 KiB has blocks at level 2 only
    ("arm64_64k", 0, 1 << 0, LOAD, esr(DATA, 0b000101)),        # 64 KiB starts at level 1
    ("arm64_4k", LEAF, 1 << 6, LOAD, esr(DATA, 0b001111)),
    ("arm64_4k", LEAF, 1 << 51 | 1 << 7, STORE, esr(DATA, 0b001111, write=True)),    # read-only, no DBM
    ("arm64_4k", LEAF, 1 << 54, FETCH, esr(FETCHED, 0b001111)),
    ("arm64_4k", 1, 1 << 61, LOAD, esr(DATA, 0b001111)),        # APTable[0]: no access for EL0
    ("arm64_4k", 1, 1 << 62, STORE, esr(DATA, 0b001111, write=True)),
    ("arm64_4k", 1, 1 << 60, FETCH, esr(FETCHED, 0b001111)),
]


def good_chain(name: str) -> Space:
    """Return a machine that maps BASE for everything user mode may do."""
    space = Space(name)
    space.map(BASE, write=True, execute=True)
    return space


@pytest.mark.parametrize(("name", "level", "flip", "kind", "code"), VECTORS)
def test_the_manual_s_codes(name: str, level: int, flip: int, kind: AccessKind, code: int | None) -> None:
    space = good_chain(name)
    for fine in AccessKind:
        space.mmu.access(BASE, int(fine), 0)
        assert space.mmu.regs[R_FAULT] == 0
    space.set(BASE, space.get(BASE, level) ^ flip, level)
    space.mmu.invalidate_all()
    before = space.physmem.u8.tobytes()
    space.mmu.access(BASE, int(kind), 0)
    assert (space.mmu.regs[R_FAULT] != 0) == (code is not None)
    if code is not None:
        assert space.mmu.regs[R_ERROR] == code
        assert space.physmem.u8.tobytes() == before, "a walk that faults at once changes nothing"


def test_a_store_s_dirty_state_on_arm_is_a_cleared_ap2() -> None:
    space = Space("arm64_4k")
    fmt = get_format("arm64_4k")
    space.map(BASE)
    before = space.get(BASE)
    space.mmu.access(BASE, int(LOAD), 0)
    assert space.get(BASE) == before | 1 << 10, "AF only"
    space.mmu.access(BASE, int(STORE), 0)
    assert space.get(BASE) == (before | 1 << 10) & ~(1 << 7), "AP[2] cleared, DBM kept"
    assert fmt.pte_dirty(space.get(BASE))


@pytest.mark.parametrize("name", ["arm64_4k", "arm64_16k", "arm64_64k"])
def test_executing_does_not_need_reading_on_arm(name: str) -> None:
    space = Space(name)
    pfn = space.map(BASE, write=False, execute=True, user=False)
    assert space.mmu.access(BASE, int(FETCH), 0) == space.peek(pfn)
    assert space.mmu.regs[R_FAULT] == 0
    space.mmu.access(BASE, int(LOAD), 0)
    assert space.mmu.regs[R_FAULT] != 0


def test_the_kernel_executes_nothing_that_arm_s_user_mode_may_write() -> None:
    space = Space("arm64_4k")
    pxn = 1 << 53
    for write, faults in ((False, False), (True, True)):
        space.map(BASE, write=write, execute=True)
        space.set(BASE, space.get(BASE) & ~pxn)
        space.mmu.invalidate_all()
        space.mmu.set_supervisor(True)
        space.mmu.access(BASE, int(FETCH), 0)
        assert (space.mmu.regs[R_FAULT] != 0) == faults
