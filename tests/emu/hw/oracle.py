"""The judge: the unicorn engine runs real instructions on RAM and page tables of ours, through its own MMU.

`Judge(space)` gets RAM of its own, a copy of the machine's, and `attempt` makes one access from user mode or
from the kernel. What unicorn 2.1.4 (QEMU 5.0) cannot judge, and who does instead, stands at each judge.
"""

import struct
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from unicorn import arm64_const as arm
from unicorn import riscv_const as rv
from unicorn import x86_const as x86

from emu.hw.mmu import AccessKind
from tests.emu.hw.space import Space

unicorn: Any = import_module("unicorn")     # it has no types

SYSTEM = 0x1000_0000    # where the judge's own code stands
LOADER, STORER = 0x100, 0x110
WORD_AT = 8             # loads and stores use this word of a page; its first one holds an instruction
_NO_CR2 = 0xDEAD_0000


class Verdict(NamedTuple):
    """What became of an access: the exception's number (0 = none), CR2 if it is known, the value."""

    exception: int
    cr2: int | None
    value: int


class Judge(ABC):
    """One unicorn CPU over a copy of the space's RAM.

    `not_an_instruction` is the exception of a fetch that succeeded and brought no instruction.
    """

    not_an_instruction = 6

    def __init__(self, space: Space) -> None:
        self.space = space
        self.ram = np.zeros(len(space.physmem.u64) + 512, np.uint64)
        skip = -self.ram.ctypes.data % 4096 // 8
        self.ram = self.ram[skip : skip + len(space.physmem.u64)]
        self.exceptions: list[int] = []
        self.wide = space.fmt.pte_bytes == 8
        self.prepare_system_pages()
        self.ram[:] = space.physmem.u64
        self.engine: Any = self.make_engine()
        self.engine.mem_map_ptr(0, self.ram.nbytes, unicorn.UC_PROT_ALL, self.ram.ctypes.data)
        self.engine.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self.start()

    def _on_exception(self, engine: Any, number: int, _: object) -> None:
        self.exceptions.append(number)
        engine.emu_stop()

    def prepare_system_pages(self) -> None:
        """Map user code, kernel code and kernel data at SYSTEM, with the bits set that fetching them would set."""
        size = self.space.fmt.page_size
        self.user_code = self.space.map(SYSTEM, write=False, execute=True, accessed=True)
        self.kernel_code = self.space.map(
            SYSTEM + size, write=False, execute=True, user=False, accessed=True
        )
        self.kernel_data = self.space.map(SYSTEM + 2 * size, user=False, accessed=True, dirty=True)
        for pfn in (self.user_code, self.kernel_code):
            frame = self.space.physmem.frame(pfn)
            for at, code in zip((LOADER, STORER), self.instructions(), strict=True):
                frame[at : at + len(code)] = code

    def code_at(self, kind: AccessKind, user: bool) -> int:
        page = SYSTEM if user else SYSTEM + self.space.fmt.page_size
        return page + (STORER if kind == AccessKind.STORE else LOADER)

    def execute(self, start: int) -> None:
        try:
            self.engine.emu_start(start, 0, count=1)
        except unicorn.UcError as error:
            self.exceptions.append(1000 + int(error.errno or 0))

    @abstractmethod
    def make_engine(self) -> Any: ...

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def instructions(self) -> tuple[bytes, bytes]:
        """Return a load from and a store to the address in a register."""

    @abstractmethod
    def marker(self, number: int) -> bytes:
        """Return an instruction that loads `number`, to know what was fetched."""

    @abstractmethod
    def attempt(self, vaddr: int, kind: AccessKind, user: bool, value: int) -> Verdict: ...


class X86Judge(Judge):
    """x86 in each of its paging modes. Its physical addresses have 40 bits; the error code cannot be read."""

    def make_engine(self) -> Any:
        self.long = self.space.fmt.name.startswith("x86_64")
        mode = unicorn.UC_MODE_64 if self.long else unicorn.UC_MODE_32
        engine = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        engine.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)     # it has five levels
        return engine

    def instructions(self) -> tuple[bytes, bytes]:
        prefix = b"\x48" if self.space.fmt.name.startswith("x86_64") else b""
        return prefix + b"\x8b\x10", prefix + b"\x89\x10"       # mov (r|e)dx, [(r|e)ax] and back

    def marker(self, number: int) -> bytes:
        return b"\xb8" + struct.pack("<I", number) + b"\x90\x90\x90"     # mov eax, number

    def start(self) -> None:
        name, size = self.space.fmt.name, self.space.fmt.page_size
        ax, dx, sp = ("RAX", "RDX", "RSP") if self.long else ("EAX", "EDX", "ESP")
        self.ax, self.dx, self.sp = (getattr(x86, f"UC_X86_REG_{one}") for one in (ax, dx, sp))
        data = SYSTEM + 2 * size
        code = 0x00AF_9A00_0000_FFFF if self.long else 0x00CF_9A00_0000_FFFF
        user_code = code | 0x6000_0000_0000
        gdt = (0, code, 0x00CF_9200_0000_FFFF, user_code, 0x00CF_F200_0000_FFFF)
        target = struct.pack("<5Q" if self.long else "<5I", SYSTEM + LOADER, 0x18 | 3, 2, 0, 0x20 | 3)
        iret = b"\x48\xcf" if self.long else b"\xcf"
        for ram in (self.space.physmem.u8, self.ram.view(np.uint8)):
            at = self.kernel_data * size
            ram[at : at + 40] = np.frombuffer(struct.pack("<5Q", *gdt), np.uint8)
            ram[at + 0x800 : at + 0x800 + len(target)] = np.frombuffer(target, np.uint8)
            at = self.kernel_code * size + 0x180
            ram[at : at + len(iret)] = np.frombuffer(iret, np.uint8)
        engine = self.engine
        engine.reg_write(x86.UC_X86_REG_CR3, self.space.root * size)
        has_pae = self.wide
        engine.reg_write(
            x86.UC_X86_REG_CR4, 0x10 | (0x20 if has_pae else 0) | (0x1000 if name.endswith("la57") else 0)
        )
        engine.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, 0x800 | (0x500 if self.long else 0)))    # EFER
        engine.reg_write(x86.UC_X86_REG_CR0, 0x8001_0033)       # paging, write protection for the kernel too
        engine.reg_write(x86.UC_X86_REG_GDTR, (0, data, 39, 0))
        engine.reg_write(x86.UC_X86_REG_CS, 0x08)
        for register in (x86.UC_X86_REG_SS, x86.UC_X86_REG_DS, x86.UC_X86_REG_ES):
            engine.reg_write(register, 0x10)
        engine.reg_write(self.sp, data + 0x800)
        kernel = engine.context_save()
        engine.emu_start(SYSTEM + size + 0x180, SYSTEM + LOADER, count=1)
        assert engine.reg_read(x86.UC_X86_REG_CS) == 0x1B, "not in user mode"
        if not self.long:
            engine.reg_write(x86.UC_X86_REG_DS, 0x23)
        self.contexts = (kernel, engine.context_save())

    def attempt(self, vaddr: int, kind: AccessKind, user: bool, value: int) -> Verdict:
        engine = self.engine
        self.exceptions.clear()
        engine.context_restore(self.contexts[user])
        engine.reg_write(x86.UC_X86_REG_CR3, self.space.root * self.space.fmt.page_size)
        engine.reg_write(x86.UC_X86_REG_CR2, _NO_CR2)
        is_fetch = kind == AccessKind.FETCH
        engine.reg_write(self.ax, 0 if is_fetch else vaddr)
        engine.reg_write(self.dx, value)
        self.execute(vaddr if is_fetch else self.code_at(kind, user))
        cr2 = engine.reg_read(x86.UC_X86_REG_CR2)
        exception = self.exceptions[0] if self.exceptions else 0
        return Verdict(
            exception, None if cr2 == _NO_CR2 else cr2, engine.reg_read(self.ax if is_fetch else self.dx)
        )


class RiscvJudge(Judge):
    """RISC-V. It lets pass what the specification reserves: A, D, U of table entries, bits 54 and up.

    A write of SATP flushes its TLB only if the ASID changes, and is refused in user mode.
    """

    not_an_instruction = 2

    def make_engine(self) -> Any:
        mode = unicorn.UC_MODE_RISCV64 if self.wide else unicorn.UC_MODE_RISCV32
        return unicorn.Uc(unicorn.UC_ARCH_RISCV, mode)

    def instructions(self) -> tuple[bytes, bytes]:
        words = (0x0005_B603, 0x00C5_B023) if self.wide else (0x0005_A603, 0x00C5_A023)    # a2 from and to (a1)
        return struct.pack("<I", words[0]), struct.pack("<I", words[1])

    def marker(self, number: int) -> bytes:
        return struct.pack("<I", number << 20 | 0x513)      # addi a0, zero, number

    def start(self) -> None:
        self.satp = {"sv32": 1 << 31, "sv39": 8 << 60, "sv48": 9 << 60, "sv57": 10 << 60}[
            self.space.fmt.name
        ] | self.space.root
        self.engine.reg_write(rv.UC_RISCV_REG_MSTATUS, 1 << 18)     # SUM
        self.context = self.engine.context_save()

    def attempt(self, vaddr: int, kind: AccessKind, user: bool, value: int) -> Verdict:
        engine = self.engine
        self.exceptions.clear()
        engine.context_restore(self.context)
        for asid in (1, 2):
            engine.reg_write(rv.UC_RISCV_REG_SATP, self.satp | asid << (44 if self.wide else 22))
        engine.reg_write(rv.UC_RISCV_REG_PRIV, 0 if user else 1)
        engine.reg_write(rv.UC_RISCV_REG_A1, vaddr)
        engine.reg_write(rv.UC_RISCV_REG_A2, value)
        is_fetch = kind == AccessKind.FETCH
        self.execute(vaddr if is_fetch else self.code_at(kind, user))
        exception = self.exceptions[0] if self.exceptions else 0
        return Verdict(
            exception, None, engine.reg_read(rv.UC_RISCV_REG_A0 if is_fetch else rv.UC_RISCV_REG_A2)
        )


class Arm64Judge(Judge):
    """AArch64. It has no hardware AF and DBM, so it judges a CPU of ours without them; no ESR either."""

    not_an_instruction = 1

    def make_engine(self) -> Any:
        engine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        engine.ctl_set_cpu_model(arm.UC_CPU_ARM64_MAX)
        return engine

    def instructions(self) -> tuple[bytes, bytes]:
        return struct.pack("<I", 0xF940_0022), struct.pack("<I", 0xF900_0022)      # x2 from and to [x1]

    def marker(self, number: int) -> bytes:
        return struct.pack("<I", 0xD280_0000 | number << 5)     # movz x0, number

    def prepare_system_pages(self) -> None:
        super().prepare_system_pages()
        pxn = 1 << 53
        vaddr = SYSTEM + self.space.fmt.page_size
        self.space.set(vaddr, self.space.get(vaddr) & ~pxn)

    def _write(self, op1: int, crn: int, crm: int, op2: int, value: int) -> None:
        self.engine.reg_write(arm.UC_ARM64_REG_CP_REG, (crn, crm, 3, op1, op2, value))

    def _read(self, op1: int, crn: int, crm: int, op2: int) -> int:
        return int(self.engine.reg_read(arm.UC_ARM64_REG_CP_REG, (crn, crm, 3, op1, op2)))

    def start(self) -> None:
        granule = {12: 0, 14: 2, 16: 1}[self.space.fmt.page_shift]
        self.tcr = 16 | 1 << 8 | 1 << 10 | 3 << 12 | granule << 14 | 1 << 23 | 5 << 32
        self._write(6, 1, 1, 0, self._read(6, 1, 1, 0) | 1 << 10 | 1)   # SCR_EL3: RW, NS
        self._write(4, 1, 1, 0, 1 << 31)                                # HCR_EL2: RW
        self._write(0, 10, 2, 0, 0xFF)                                  # MAIR_EL1
        self._write(0, 2, 0, 2, self.tcr)
        self._write(0, 2, 0, 0, self.space.root << self.space.fmt.page_shift)
        self._write(0, 1, 0, 0, self._read(0, 1, 0, 0) | 1)             # SCTLR_EL1: M
        self.context = self.engine.context_save()

    def attempt(self, vaddr: int, kind: AccessKind, user: bool, value: int) -> Verdict:
        engine = self.engine
        self.exceptions.clear()
        engine.context_restore(self.context)
        engine.reg_write(arm.UC_ARM64_REG_PSTATE, 0x3C0 if user else 0x3C5)
        self._write(0, 2, 0, 2, self.tcr)       # flushes its TLB
        engine.reg_write(arm.UC_ARM64_REG_X0, 0)
        engine.reg_write(arm.UC_ARM64_REG_X1, vaddr)
        engine.reg_write(arm.UC_ARM64_REG_X2, value)
        is_fetch = kind == AccessKind.FETCH
        self.execute(vaddr if is_fetch else self.code_at(kind, user))
        exception = self.exceptions[0] if self.exceptions else 0
        return Verdict(
            exception, None, engine.reg_read(arm.UC_ARM64_REG_X0 if is_fetch else arm.UC_ARM64_REG_X2)
        )


def judge_of(space: Space) -> Judge:
    """Return the judge for the space's format."""
    name = space.fmt.name
    if name.startswith("sv"):
        return RiscvJudge(space)
    return Arm64Judge(space) if name.startswith("arm64") else X86Judge(space)
