"""MAP_GROWSDOWN step by step on the emulated and on the real kernel: the same answers, the same mappings."""

import errno
import resource
from collections.abc import Callable
from pathlib import Path

from emu.errors import Signal
from emu.host import HostProcess
from emu.mm.mprotect import PROT_GROWSDOWN, PROT_GROWSUP
from emu.process import Process
from tests.emu.mm.helpers import PAGE, RO, RW, virtual_machine

BASE = 1 << 37
FIXED, SHARED, ANYWHERE = 0x32, 0x31, 0x22
GROWSDOWN, POPULATE = 0x100, 0x8000
NEAR = 600 * PAGE

Either = Process | HostProcess
STEPS: dict[str, Callable[[Either], object]] = {
    "map": lambda one: one.sys_mmap(BASE, 2 * PAGE, RW, FIXED | GROWSDOWN, -1, 0),
    "store below": lambda one: one.store(BASE - 3 * PAGE, b"x"),
    "load further below": lambda one: one.load(BASE - 10 * PAGE, 4),
    "a neighbour": lambda one: one.sys_mmap(BASE - 300 * PAGE, PAGE, RW, FIXED, -1, 0),
    "the last page before the gap": lambda one: one.load(BASE - 43 * PAGE, 4),
    "the gap": lambda one: one.load(BASE - 44 * PAGE, 4),
    "a hint within the gap": lambda one: one.sys_mmap(BASE - 60 * PAGE, PAGE, RW, ANYWHERE, -1, 0) == BASE - 60 * PAGE,
    "no access is a guard": lambda one: one.sys_mmap(BASE - 46 * PAGE, PAGE, 0, FIXED, -1, 0),
    "close to the guard": lambda one: one.load(BASE - 45 * PAGE, 4),
    "the guard": lambda one: one.load(BASE - 46 * PAGE, 4),
    "a hole": lambda one: one.munmap(BASE - 20 * PAGE, 5 * PAGE),
    "into the hole": lambda one: one.load(BASE - 17 * PAGE, 4),
    "read-only": lambda one: one.mprotect(BASE - 5 * PAGE, 2 * PAGE, RO),
    "from its start": lambda one: one.mprotect(BASE - 8 * PAGE, PAGE, RO | PROT_GROWSDOWN),
    "below all": lambda one: one.mprotect(BASE - 60 * PAGE, PAGE, RO | PROT_GROWSDOWN),
    "up to another": lambda one: one.mprotect(BASE - 60 * PAGE, 20 * PAGE, RW | PROT_GROWSDOWN),
    "no stack": lambda one: one.mprotect(BASE - 300 * PAGE, PAGE, RO | PROT_GROWSDOWN),
    "no stack upwards": lambda one: one.mprotect(BASE, PAGE, RW | PROT_GROWSUP),
    "nothing upwards": lambda one: one.mprotect(BASE + 50 * PAGE, PAGE, RW | PROT_GROWSUP),
    "both ways": lambda one: one.mprotect(BASE, PAGE, RW | PROT_GROWSUP | PROT_GROWSDOWN),
    "shared": lambda one: one.sys_mmap(BASE + NEAR, PAGE, RW, SHARED | GROWSDOWN, -1, 0),
    "another stack": lambda one: one.sys_mmap(BASE + 100 * PAGE, PAGE, RW, FIXED | GROWSDOWN, -1, 0),
    "stacks may meet": lambda one: one.load(BASE + 5 * PAGE, 4),
    "mlock does not grow it": lambda one: one.mlock(BASE - 60 * PAGE, PAGE),
    "populated": lambda one: one.sys_mmap(BASE + 200 * PAGE, PAGE, RW, FIXED | GROWSDOWN | POPULATE, -1, 0),
    "advised": lambda one: one.madvise(BASE + 198 * PAGE, 3 * PAGE, 4),
    "many pages": lambda one: one.load(BASE + 190 * PAGE, 12 * PAGE),
}


def outcome(one: Either, step: Callable[[Either], object]) -> object:
    try:
        return step(one)
    except OSError as error:
        return error.errno
    except Signal as signal:
        return type(signal), signal.vaddr & -PAGE


def test_a_mapping_that_grows_down_as_on_the_host() -> None:
    machine, _ = virtual_machine()
    with HostProcess() as host:
        emulated = machine.spawn()
        for name, step in STEPS.items():
            assert outcome(emulated, step) == outcome(host, step), name
            mappings = [
                [(vma.start - BASE, vma.end - BASE) for vma in one.vmas if abs(vma.start - BASE) < NEAR]
                for one in (emulated, host)
            ]
            assert mappings[0] == mappings[1], name
    machine.shutdown()


def data_nbytes(one: Either) -> int:
    if isinstance(one, HostProcess):
        lines = Path(f"/proc/{one.pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024
    return sum(vma.end - vma.start for vma in one.vmas)


def test_a_stack_is_no_data_as_on_the_host() -> None:
    machine, _ = virtual_machine()
    with HostProcess() as host:
        emulated = machine.spawn()
        for one in (emulated, host):
            # The host's process has begun once it answers; and some room, as it needs memory itself.
            one.munmap(BASE, PAGE)
            limit = data_nbytes(one) + 256 * PAGE
            if isinstance(one, HostProcess):
                resource.prlimit(one.pid, resource.RLIMIT_DATA, (limit, limit))
            else:
                one.setrlimit(resource.RLIMIT_DATA, limit, limit)
            assert outcome(one, lambda one: one.sys_mmap(BASE, 512 * PAGE, RW, FIXED, -1, 0)) == errno.ENOMEM
            assert outcome(one, lambda one: one.sys_mmap(BASE, 512 * PAGE, RW, FIXED | GROWSDOWN, -1, 0)) == BASE
            assert outcome(one, lambda one: one.store(BASE - 300 * PAGE, b"x")) is None
            assert outcome(one, lambda one: one.sys_mmap(2 * BASE, 16 * PAGE, RW, FIXED, -1, 0)) == 2 * BASE
    machine.shutdown()
