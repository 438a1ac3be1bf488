"""The CPU as the kernel sees it: accesses, faults, bits written back."""

import numpy as np
import pytest

from emu.hw.mmu import R_FAULT, AccessKind, Cause, Mmu, kind_of
from emu.hw.physmem import PhysMem
from emu.hw.pte import FORMATS, get_format
from emu.hw.tlb import TlbModel
from tests.emu.hw.space import Space

LOAD, STORE, FETCH = AccessKind.LOAD, AccessKind.STORE, AccessKind.FETCH
by_format = pytest.mark.parametrize("name", FORMATS)
BASE = 0x4000_0000


@by_format
def test_a_batch_loads_and_stores(name: str) -> None:
    space = Space(name)
    size = space.fmt.page_size
    pfns = [space.map(BASE + page * size) for page in range(3)]
    space.poke(pfns[1], 77, 64)
    reached, values = space.run([BASE + 8, BASE + size + 64, BASE + 2 * size], [STORE, LOAD, STORE], [5, 0, 6])
    assert reached == 3
    assert values == [5, 77, 6]
    assert space.peek(pfns[0], 8) == 5
    assert space.peek(pfns[2], 0) == 6


@by_format
@pytest.mark.parametrize("nbytes", [1, 2, 4, 8])
def test_every_size_at_every_place_in_a_word(name: str, nbytes: int) -> None:
    space = Space(name)
    pfn = space.map(BASE)
    for at in range(64, 73):
        space.physmem.frame(pfn)[56:88] = bytes(range(1, 33))
        old = bytes(space.physmem.frame(pfn)[56:88])
        value = 0xF1F2F3F4F5F6F7F8 & (1 << nbytes * 8) - 1
        got = space.mmu.access(BASE + at, kind_of(LOAD, nbytes), 0)
        assert got == int.from_bytes(old[at - 56 : at - 56 + nbytes], "little")
        space.mmu.access(BASE + at, kind_of(STORE, nbytes), 0xF1F2F3F4F5F6F7F8)
        new = old[: at - 56] + value.to_bytes(nbytes, "little") + old[at - 56 + nbytes :]
        assert bytes(space.physmem.frame(pfn)[56:88]) == new
        assert space.mmu.access(BASE + at, kind_of(LOAD, nbytes), 0) == value


@by_format
def test_an_access_across_a_page_end_moves_nothing_unless_both_pages_are_there(name: str) -> None:
    space = Space(name)
    size = space.fmt.page_size
    first = space.map(BASE)
    before = space.peek(first, size - 8)
    assert space.run([BASE + size - 3], [STORE], [0x1122334455667788]) == (0, [0x1122334455667788])
    assert space.fault()[:2] == (Cause.NOT_PRESENT, BASE + size)
    assert space.peek(first, size - 8) == before
    second = space.map(BASE + size)
    assert space.run([BASE + size - 3, BASE + size - 3], [STORE, LOAD], [0x1122334455667788, 0])[1][1] == (
        0x1122334455667788
    )
    assert bytes(space.physmem.frame(first)[size - 3 :]) == b"\x88\x77\x66"
    assert bytes(space.physmem.frame(second)[:5]) == b"\x55\x44\x33\x22\x11"


@by_format
def test_the_first_fault_stops_the_batch_and_it_goes_on_from_there(name: str) -> None:
    space = Space(name)
    size = space.fmt.page_size
    space.map(BASE)
    vaddrs, kinds, values = [BASE, BASE + size, BASE + 8], [STORE] * 3, [1, 2, 3]
    arrays = np.array(vaddrs, np.uint64), np.array(kinds, np.uint8), np.array(values, np.uint64)
    assert space.mmu.run(*arrays) == 1
    assert space.fault()[:2] == (Cause.NOT_PRESENT, BASE + size)
    pfn = space.map(BASE + size)
    assert space.mmu.run(*arrays, 1) == 3
    assert space.mmu.regs[R_FAULT] == 0
    assert space.peek(pfn) == 2


@by_format
def test_a_load_sets_accessed_and_a_store_sets_dirty(name: str) -> None:
    space = Space(name)
    fmt = space.fmt
    space.map(BASE)
    space.mmu.access(BASE, LOAD, 0)
    assert (fmt.pte_young(space.get(BASE)), fmt.pte_dirty(space.get(BASE))) == (True, False)
    walks = space.mmu.counters()["walks"]
    space.mmu.access(BASE, STORE, 0)
    assert fmt.pte_dirty(space.get(BASE))
    assert space.mmu.counters()["walks"] == walks + 1, "an entry that is not cached dirty walks again"
    space.mmu.access(BASE, STORE, 0)
    assert space.mmu.counters()["walks"] == walks + 1
    assert space.mmu.counters()["dirty_set"] == 1


@by_format
def test_a_dirty_bit_cleared_without_a_flush_stays_clear(name: str) -> None:
    space = Space(name)
    fmt = space.fmt
    space.map(BASE)
    space.mmu.access(BASE, STORE, 0)
    space.set(BASE, fmt.pte_mkclean(space.get(BASE)))
    space.mmu.access(BASE, STORE, 0)
    assert not fmt.pte_dirty(space.get(BASE))
    space.mmu.invalidate_page(BASE, 1)
    space.mmu.access(BASE, STORE, 0)
    assert fmt.pte_dirty(space.get(BASE))


@by_format
def test_a_store_to_a_read_only_page_faults_and_changes_no_bit(name: str) -> None:
    space = Space(name)
    pfn = space.map(BASE, write=False)
    space.mmu.access(BASE, LOAD, 0)
    entry, word = space.get(BASE), space.peek(pfn)
    space.mmu.access(BASE, STORE, 1)
    cause, vaddr, code = space.fault()
    assert (cause, vaddr) == (Cause.PERMISSION, BASE)
    assert space.fmt.fault_is_write(code)
    assert not space.fmt.fault_is_exec(code)
    assert space.get(BASE) == entry
    assert space.peek(pfn) == word
    space.set(BASE, space.fmt.pte_mkwrite(entry))
    space.mmu.access(BASE, STORE, 1)
    assert space.fault()[0] == 0, "a right that was added needs no flush: the hardware walks again"


@by_format
def test_fetch_wants_the_right_to_execute(name: str) -> None:
    space = Space(name)
    space.map(BASE, execute=False)
    pfn = space.map(BASE + space.fmt.page_size, write=False, execute=True)
    assert space.mmu.access(BASE + space.fmt.page_size, FETCH, 0) == space.peek(pfn)
    assert space.fault()[0] == 0
    space.mmu.access(BASE, FETCH, 0)
    if name == "i386":
        assert space.fault()[0] == 0, "no NX bit there"
    else:
        assert space.fault()[0] == Cause.PERMISSION
        assert space.fmt.fault_is_exec(space.fault()[2])
        assert not space.fmt.fault_is_write(space.fault()[2])


@by_format
def test_one_address_names_the_whole_large_page(name: str) -> None:
    fmt = FORMATS[name]
    level = max(n for n in range(fmt.nr_levels) if fmt.has_huge(n))
    space = Space(name)
    vaddr = 1 << fmt.levels[level].shift + 1
    space.set(vaddr, fmt.mk_huge_pte(level, 0, write=True, execute=False), level)
    for page in range(8, 20):
        space.mmu.access(vaddr + page * fmt.page_size, STORE, page)
    space.set(vaddr, 0, level)
    space.mmu.invalidate_page(vaddr, 1)
    for page in range(8, 20):
        space.mmu.access(vaddr + page * fmt.page_size, LOAD, 0)
        assert space.fault()[0] == Cause.NOT_PRESENT


@by_format
def test_addresses_that_are_no_addresses_fault(name: str) -> None:
    space = Space(name)
    space.map(BASE)
    space.mmu.access(BASE, LOAD, 0)
    fmt = space.fmt
    for vaddr in (BASE + (1 << fmt.va_bits), BASE | 1 << 63, (1 << fmt.va_bits - fmt.sign_extended) + BASE):
        if vaddr >> 64 == 0:
            space.mmu.access(vaddr, LOAD, 0)
            assert space.fault()[:2] == (Cause.NOT_CANONICAL, vaddr)


@by_format
def test_byte_ranges_stop_at_the_first_page_that_faults(name: str) -> None:
    space = Space(name)
    size = space.fmt.page_size
    pfns = [space.map(BASE), space.map(BASE + size)]
    data = np.arange(3 * size, dtype=np.uint32).view(np.uint8)[: 2 * size + 100]
    data.flags.writeable = False
    assert space.mmu.store_bytes(BASE + 5, data) == 2 * size - 5
    assert space.fault()[:2] == (Cause.NOT_PRESENT, BASE + 2 * size)
    assert bytes(space.physmem.frame(pfns[0])[5:]) == data[: size - 5].tobytes()
    space.map(BASE + 2 * size)
    assert space.mmu.store_bytes(BASE + 2 * size, data[2 * size - 5 :]) == 105
    back = np.zeros(len(data), np.uint8)
    assert space.mmu.load_bytes(BASE + 5, back) == len(data)
    assert back.tobytes() == data.tobytes()
    assert space.fmt.pte_dirty(space.get(BASE))


@by_format
def test_without_hardware_bits_the_cpu_faults_instead(name: str) -> None:
    space = Space(name, hardware_ad=False)
    fmt = space.fmt
    space.map(BASE)
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[0] == Cause.NOT_ACCESSED
    space.set(BASE, fmt.pte_mkyoung(space.get(BASE)))
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[0] == 0
    space.mmu.access(BASE, STORE, 0)
    assert space.fault()[0] == Cause.PERMISSION
    space.set(BASE, fmt.pte_mkdirty(space.get(BASE)))
    space.mmu.access(BASE, STORE, 0)
    assert space.fault()[0] == 0


def test_x86_error_codes() -> None:
    space = Space("x86_64")
    space.map(BASE, write=False)
    space.map(BASE + 4096, user=False)
    expected = [
        (BASE + 8192, LOAD, 4),
        (BASE + 8192, STORE, 4 | 2),
        (BASE + 8192, FETCH, 4 | 16),
        (BASE, STORE, 4 | 2 | 1),
        (BASE, FETCH, 4 | 16 | 1),
        (BASE + 4096, LOAD, 4 | 1),
    ]
    for vaddr, kind, code in expected:
        space.mmu.access(vaddr, kind, 0)
        assert space.fault()[1:] == (vaddr, code)
        assert space.fmt.fault_is_present(code) == bool(code & 1)


def test_mistakes_of_the_caller_are_told() -> None:
    fmt = get_format("arm64_64k")
    ram = PhysMem(1 << 20, 12)
    with pytest.raises(ValueError, match="make them equal"):
        Mmu(ram, fmt)
    space = Space("x86_64")
    with pytest.raises(ValueError, match="ASID 65536"):
        space.mmu.load_root(space.root, 1 << 16)
    with pytest.raises(ValueError, match="does not fit"):
        space.mmu.run(np.zeros(2, np.uint64), np.zeros(2, np.uint8), np.zeros(1, np.uint64))
    with pytest.raises(ValueError, match="power of two"):
        TlbModel("bad", 3, 4, 16, 4, 0, "this test")


def test_an_access_goes_round_at_the_end_of_a_32_bit_address_space() -> None:
    space = Space("i386")
    last, first = space.map(0xFFFF_F000), space.map(0)
    value = 0x1122_3344_5566_7788
    reached, _ = space.run([0xFFFF_FFFD], [STORE], [value])
    assert (reached, space.fault()[0]) == (1, Cause.NONE)
    stored = bytes(space.physmem.frame(last)[0xFFD:]) + bytes(space.physmem.frame(first)[:5])
    assert stored == value.to_bytes(8, "little")
    assert space.run([0xFFFF_FFFD], [LOAD], [0]) == (1, [value])


@pytest.mark.parametrize("name", ["x86_64", "sv39", "arm64_4k"])
def test_what_the_kernel_may_do_user_mode_may_not_do_after_it(name: str) -> None:
    """The same page, just loaded and stored to: what the mode allowed must be forgotten with the mode."""
    space = Space(name)
    space.map(0x1000, user=False)
    space.mmu.set_supervisor(on=True)
    assert space.run([0x1000, 0x1000], [LOAD, STORE], [0, 1])[0] == 2
    space.mmu.set_supervisor(on=False)
    for kind in (LOAD, STORE):
        assert space.run([0x1000], [kind], [7])[0] == 0
        assert space.fault()[0] == Cause.PERMISSION
