"""Page walks in plain Python, one function an architecture, written from the manuals and not from the formats.

Each takes a `Memory` and returns `(physical address, 0)` or `(None, fault code)`; accessed and dirty bits are
written to the memory. They share nothing with emu.hw but the names of the formats.

Sources: Intel SDM volume 3A 4.3 to 4.7; RISC-V privileged specification, "Virtual Address Translation
Process"; Arm DDI 0487, D8.2 to D8.5 and ESR_EL1.
"""

# ruff: noqa: C901, PLR0911, PLR0912 - one function an algorithm, in the order of its manual

from collections.abc import Callable
from dataclasses import dataclass

LOAD, STORE, FETCH = 0, 1, 2


@dataclass
class Memory:
    """Bytes of RAM with little-endian words."""

    ram: bytearray

    def read(self, phys: int, nbytes: int) -> int:
        return int.from_bytes(self.ram[phys : phys + nbytes], "little")

    def write(self, phys: int, nbytes: int, value: int) -> None:
        self.ram[phys : phys + nbytes] = value.to_bytes(nbytes, "little")

    def has(self, phys: int) -> bool:
        return phys < len(self.ram)


Outcome = tuple[int | None, int]
Walker = Callable[[Memory, int, int, int, bool], Outcome]


def bit(value: int, number: int) -> bool:
    return bool(value >> number & 1)


def bits(value: int, high: int, low: int) -> int:
    return value >> low & (1 << high - low + 1) - 1


# x86


def x86(shifts: tuple[int, ...], entry_bytes: int, phys_bits: int, *, pae32: bool = False) -> Walker:
    """SDM 4.3 (32-bit), 4.4 (PAE), 4.5 (4- and 5-level paging)."""
    wide = entry_bytes == 8
    index_bits = 9 if wide else 10
    long_mode = wide and not pae32
    has_nx = wide

    def code(kind: int, user: bool, *, present: bool, reserved: bool = False) -> int:
        value = present | 2 * (kind == STORE) | 4 * user | 8 * reserved
        return value | 16 * (kind == FETCH and has_nx)

    def walk(memory: Memory, root: int, vaddr: int, kind: int, user: bool) -> Outcome:
        if long_mode:
            top = shifts[0] + index_bits - 1
            if vaddr >> top not in {0, (1 << 64 - top) - 1}:
                return None, 0      # #GP(0)
        elif vaddr >> 32:
            return None, 0
        table, rw, us, nx = root, True, True, False
        for number, shift in enumerate(shifts):
            is_last = shift == 12
            is_pdpte = pae32 and number == 0
            index = bits(vaddr, 31, 30) if is_pdpte else vaddr >> shift & (1 << index_bits) - 1
            where = table + index * entry_bytes
            if not memory.has(where):
                return None, 0
            entry = memory.read(where, entry_bytes)
            if not bit(entry, 0):
                return None, code(kind, user, present=False)
            large = bit(entry, 7) and not is_last and not is_pdpte
            reserved = False
            if wide:
                # 4-level paging ignores bits 52 to 62, PAE reserves them
                reserved = bool(bits(entry, 51, phys_bits)) if phys_bits <= 51 else False
                reserved |= pae32 and bool(bits(entry, 62, 52))
                if is_pdpte:
                    reserved |= bool(bits(entry, 2, 1) or bits(entry, 8, 5) or bit(entry, 63))
                elif shift > 30 and bit(entry, 7):
                    reserved = True     # no pages of 512 GiB
            if large:
                reserved |= bool(bits(entry, shift - 1 if wide else 21, 13))
            if reserved:
                return None, code(kind, user, present=True, reserved=True)
            if not is_pdpte:
                rw &= bit(entry, 1)
                us &= bit(entry, 2)
                nx |= has_nx and bit(entry, 63)
            if large or is_last:
                break
            if not is_pdpte:
                memory.write(where, entry_bytes, entry | 1 << 5)
            table = bits(entry, min(phys_bits, 52) - 1, 12) << 12
        denied = (user and not us) or (kind == STORE and not rw) or (kind == FETCH and nx)
        if denied:
            return None, code(kind, user, present=True)
        frame = bits(entry, min(phys_bits, 52) - 1, shift) << shift
        phys = frame | vaddr & (1 << shift) - 1
        if not memory.has(phys):
            return None, 0
        memory.write(where, entry_bytes, entry | 1 << 5 | (kind == STORE) << 6)
        return phys, 0

    return walk


# RISC-V


def riscv(levels: int, entry_bytes: int) -> Walker:
    """The eight steps of the address translation process, with SUM = 1, MXR = 0."""
    index_bits = 10 if entry_bytes == 4 else 9
    ppn_bits = 22 if entry_bytes == 4 else 44
    page_fault = {LOAD: 13, STORE: 15, FETCH: 12}
    access_fault = {LOAD: 5, STORE: 7, FETCH: 1}

    def walk(memory: Memory, root: int, vaddr: int, kind: int, user: bool) -> Outcome:
        va_bits = 12 + levels * index_bits
        if entry_bytes == 8:
            if vaddr >> va_bits - 1 not in {0, (1 << 65 - va_bits) - 1}:
                return None, page_fault[kind]
        elif vaddr >> 32:
            return None, page_fault[kind]
        a, i = root, levels - 1
        while True:                                                 # steps 2 to 4
            where = a + (vaddr >> 12 + i * index_bits & (1 << index_bits) - 1) * entry_bytes
            if not memory.has(where):
                return None, access_fault[kind]
            pte = memory.read(where, entry_bytes)
            v, r, w, x, u, _, acc, d = (bit(pte, n) for n in range(8))
            if not v or (w and not r) or (entry_bytes == 8 and pte >> 54):
                return None, page_fault[kind]
            if r or x:
                break
            if acc or d or u:       # reserved in a pointer to the next level
                return None, page_fault[kind]
            a = bits(pte, 9 + ppn_bits, 10) << 12
            i -= 1
            if i < 0:
                return None, page_fault[kind]
        if not {LOAD: r, STORE: w, FETCH: x}[kind]:                 # step 5
            return None, page_fault[kind]
        if user and not u:
            return None, page_fault[kind]
        if not user and u and kind == FETCH:
            return None, page_fault[kind]
        ppn = bits(pte, 9 + ppn_bits, 10)
        if ppn & (1 << i * index_bits) - 1:                         # step 6
            return None, page_fault[kind]
        phys = ppn << 12 | vaddr & (1 << 12 + i * index_bits) - 1
        if not memory.has(phys):
            return None, access_fault[kind]
        memory.write(where, entry_bytes, pte | 1 << 6 | (kind == STORE) << 7)   # step 7
        return phys, 0

    return walk


# Arm


def arm64(granule: int, index_bits: tuple[int, ...], block_levels: tuple[int, ...]) -> Walker:
    """Stage 1, EL1&0, TTBR0, 48-bit addresses, FEAT_HAFDBS in use; `granule` is log2 of the page."""
    first = 4 - len(index_bits)

    def syndrome(kind: int, user: bool, status: int) -> int:
        exception = (0x20 if user else 0x21) if kind == FETCH else (0x24 if user else 0x25)
        return exception << 26 | 1 << 25 | (kind == STORE) << 6 | status

    def walk(memory: Memory, root: int, vaddr: int, kind: int, user: bool) -> Outcome:
        if vaddr >> 48:
            return None, syndrome(kind, user, 0b000100)
        table, shift = root, 48
        no_user = read_only = pxn = uxn = False
        for number, width in enumerate(index_bits):
            level = first + number
            shift -= width
            where = table + bits(vaddr, shift + width - 1, shift) * 8
            if not memory.has(where):
                return None, syndrome(kind, user, 0b010100 + level)
            entry = memory.read(where, 8)
            kind_bits = entry & 3
            is_page = level == 3 and kind_bits == 3
            is_block = level in block_levels and kind_bits == 1
            is_table = level < 3 and kind_bits == 3
            if not (is_page or is_block or is_table):
                return None, syndrome(kind, user, 0b000100 + level)
            if not is_table:
                break
            no_user |= bit(entry, 61)
            read_only |= bit(entry, 62)
            uxn |= bit(entry, 60)
            pxn |= bit(entry, 59)
            table = bits(entry, 47, granule) << granule
        dbm = bit(entry, 51)
        can_write = (not bit(entry, 7) or dbm) and not read_only
        user_access = bit(entry, 6) and not no_user
        uxn |= bit(entry, 54)
        pxn |= bit(entry, 53) or (user_access and can_write)
        if user:
            fine = {LOAD: user_access, STORE: user_access and can_write, FETCH: not uxn}[kind]
        else:
            fine = {LOAD: True, STORE: can_write, FETCH: not pxn}[kind]
        if not fine:
            return None, syndrome(kind, user, 0b001100 + level)
        phys = bits(entry, 47, shift) << shift | vaddr & (1 << shift) - 1
        if not memory.has(phys):
            return None, syndrome(kind, user, 0b010000)
        new = entry | 1 << 10
        if kind == STORE:
            new &= ~(1 << 7)
        memory.write(where, 8, new)
        return phys, 0

    return walk


WALKERS: dict[str, Walker] = {
    "i386": x86((22, 12), 4, 32),
    "i386_pae": x86((30, 21, 12), 8, 36, pae32=True),
    "x86_64": x86((39, 30, 21, 12), 8, 46),
    "x86_64_la57": x86((48, 39, 30, 21, 12), 8, 52),
    "sv32": riscv(2, 4),
    "sv39": riscv(3, 8),
    "sv48": riscv(4, 8),
    "sv57": riscv(5, 8),
    "arm64_4k": arm64(12, (9, 9, 9, 9), (1, 2)),
    "arm64_16k": arm64(14, (1, 11, 11, 11), (2,)),
    "arm64_64k": arm64(16, (6, 13, 13), (2,)),
}
