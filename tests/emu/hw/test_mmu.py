"""The CPU as the kernel sees it: accesses, faults, TLBs that go stale, address spaces, bits written back."""

import numpy as np
import pytest

from emu.hw.mmu import R_FAULT, AccessKind, Cause, Mmu, kind_of
from emu.hw.physmem import PhysMem
from emu.hw.pte import FORMATS, get_format
from emu.hw.tlb import PRESETS, TlbModel, get_model
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
def test_a_stale_entry_is_really_used_until_it_is_flushed(name: str) -> None:
    space = Space(name)
    old, new = space.map(BASE), space.frame()
    space.poke(old, 1)
    space.poke(new, 2)
    assert space.mmu.access(BASE, LOAD, 0) == 1
    space.set(BASE, space.fmt.mk_pte(new, write=True, execute=False))
    assert space.mmu.access(BASE, LOAD, 0) == 1
    space.set(BASE, 0)
    assert space.mmu.access(BASE, LOAD, 0) == 1
    assert space.mmu.regs[R_FAULT] == 0
    space.set(BASE, space.fmt.mk_pte(new, write=True, execute=False))
    space.mmu.invalidate_page(BASE, 1)
    assert space.mmu.access(BASE, LOAD, 0) == 2


@by_format
@pytest.mark.parametrize("how", ["page", "asid", "all"])
def test_each_invalidation_makes_the_next_access_walk(name: str, how: str) -> None:
    space = Space(name)
    space.map(BASE)
    space.mmu.access(BASE, STORE, 1)
    space.set(BASE, 0)
    {
        "page": lambda: space.mmu.invalidate_page(BASE, 1),
        "asid": lambda: space.mmu.invalidate_asid(1),
        "all": space.mmu.invalidate_all,
    }[how]()
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[:2] == (Cause.NOT_PRESENT, BASE)


@by_format
def test_a_write_protected_dirty_entry_takes_stores_until_flushed(name: str) -> None:
    space = Space(name)
    pfn = space.map(BASE)
    space.mmu.access(BASE, STORE, 1)
    fmt = space.fmt
    space.set(BASE, fmt.pte_mkclean(fmt.pte_wrprotect(space.get(BASE))))
    space.mmu.access(BASE, STORE, 2)
    assert space.peek(pfn) == 2
    assert not fmt.pte_dirty(space.get(BASE)), "the lost write that a forgotten flush makes"
    space.mmu.invalidate_page(BASE, 1)
    space.mmu.access(BASE, STORE, 3)
    assert space.fault()[0] == Cause.PERMISSION
    assert fmt.fault_is_write(space.fault()[2])
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
def test_a_fault_drops_what_was_cached_for_its_address(name: str) -> None:
    space = Space(name)
    space.map(BASE, write=False)
    space.mmu.access(BASE, LOAD, 0)
    space.set(BASE, 0)
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[0] == 0, "stale, and used"
    space.mmu.access(BASE, STORE, 0)
    assert space.fault()[0] == Cause.NOT_PRESENT
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[0] == Cause.NOT_PRESENT


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
def test_address_spaces_are_kept_apart_by_their_asids(name: str) -> None:
    space = Space(name)
    one = space.map(BASE)
    roots = [space.root, space.table()]
    space.root = roots[1]
    two = space.map(BASE)
    space.poke(one, 11)
    space.poke(two, 22)
    for _ in range(2):
        for asid, expected in ((1, 11), (2, 22)):
            space.mmu.load_root(roots[asid - 1], asid)
            assert space.mmu.access(BASE, LOAD, 0) == expected
    assert space.mmu.counters()["walks"] == 2
    space.mmu.invalidate_asid(1)
    space.mmu.access(BASE, LOAD, 0)
    assert space.mmu.counters()["walks"] == 2, "the other one's entry stays"
    space.mmu.load_root(roots[0], 1)
    space.mmu.access(BASE, LOAD, 0)
    assert space.mmu.counters()["walks"] == 3


@by_format
def test_loading_a_root_flushes_nothing(name: str) -> None:
    space = Space(name)
    pfn = space.map(BASE)
    space.poke(pfn, 9)
    space.mmu.access(BASE, LOAD, 0)
    space.mmu.load_root(space.table(), 1)
    assert space.mmu.access(BASE, LOAD, 0) == 9
    space.mmu.invalidate_asid(1)
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[0] == Cause.NOT_PRESENT


@by_format
def test_a_global_page_outlives_its_address_space_s_flush(name: str) -> None:
    space = Space(name)
    rule = space.fmt.walk.is_global
    pfn = space.map(BASE)
    space.set(BASE, space.get(BASE) & ~rule.mask | rule.value)
    space.poke(pfn, 5)
    space.mmu.access(BASE, LOAD, 0)
    space.set(BASE, 0)
    space.mmu.invalidate_asid(1)
    space.mmu.load_root(space.table(), 2)
    assert space.mmu.access(BASE, LOAD, 0) == 5, "global: any ASID"
    space.mmu.invalidate_page(BASE, 2)
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[0] == Cause.NOT_PRESENT


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


@by_format
@pytest.mark.parametrize(("sets", "ways"), [(1, 1), (1, 2), (4, 2), (16, 4)])
def test_any_geometry_translates_the_same(name: str, sets: int, ways: int) -> None:
    model = TlbModel("tiny", sets, ways, sets * 2, ways, pwc_entries=sets // 4, source="this test")
    space = Space(name, 64, model)
    size = space.fmt.page_size
    pfns = [space.map(BASE + page * size) for page in range(40)]
    for page, pfn in enumerate(pfns):
        space.poke(pfn, page + 100)
    rng = np.random.default_rng(5)
    pages = rng.integers(0, 40, 4000).tolist()
    reached, values = space.run([BASE + page * size for page in pages], [LOAD] * 4000, [0] * 4000)
    assert reached == 4000
    assert values == [page + 100 for page in pages]
    count = space.mmu.counters()
    assert count["accesses"] == 4000
    assert count["tlb_l1_misses"] == count["tlb_l2_hits"] + count["walks"]
    assert count["walks"] >= 40


def test_a_first_level_holds_exactly_its_ways() -> None:
    space = Space("x86_64", model=TlbModel("tiny", 1, 4, 1, 4, pwc_entries=0, source="this test"))
    for page in range(5):
        space.map(BASE + page * 4096)
    loads = [0, 1, 2, 3, 0, 1, 2, 3, 4, 1, 2, 3, 0]
    misses = []
    for page in loads:
        before = space.mmu.counters()["tlb_l1_misses"]
        space.mmu.access(BASE + page * 4096, LOAD, 0)
        misses.append(space.mmu.counters()["tlb_l1_misses"] - before)
    assert misses == [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1], "page 4 replaces the oldest, page 0"


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_holds_what_it_says(preset: str) -> None:
    model = get_model(preset)
    space = Space("x86_64", 3000, model)
    reach = model.l2_sets * model.l2_ways
    vaddrs = [BASE + page * 4096 for page in range(reach)]
    for vaddr in vaddrs:
        space.map(vaddr)
    kinds, values = [int(LOAD)] * reach, [0] * reach
    space.run(vaddrs, kinds, values)
    walks = space.mmu.counters()["walks"]
    assert walks == reach
    space.run(vaddrs, kinds, values)
    assert space.mmu.counters()["walks"] == walks, "all of them fit"
    assert space.mmu.counters()["tlb_l2_hits"] == reach, "and do not fit the first level"
    assert model.source


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no TLB model '486'; there are: core2, .*skylake"):
        get_model("486")


def test_the_walk_cache_is_stale_too_until_a_flush() -> None:
    space = Space("x86_64")
    space.map(BASE)
    space.map(BASE + 4096)
    space.map(BASE + 8192)
    space.mmu.access(BASE, LOAD, 0)
    reads = space.mmu.counters()["walk_reads"]
    space.set(BASE, 0, 2)
    space.mmu.access(BASE + 4096, LOAD, 0)
    assert space.fault()[0] == 0, "the table is gone from the tree, but the CPU remembers it"
    assert space.mmu.counters()["walk_reads"] == reads + 1
    space.mmu.invalidate_page(BASE, 1)
    space.mmu.access(BASE + 8192, LOAD, 0)
    assert space.fault()[0] == Cause.NOT_PRESENT


def test_cpus_have_their_own_tlbs() -> None:
    space = Space("x86_64")
    second = Mmu(space.physmem, space.fmt)
    second.load_root(space.root, 1)
    pfn = space.map(BASE)
    space.poke(pfn, 4)
    assert space.mmu.access(BASE, LOAD, 0) == second.access(BASE, LOAD, 0) == 4
    space.set(BASE, 0)
    space.mmu.invalidate_all()
    space.mmu.access(BASE, LOAD, 0)
    assert space.fault()[0] == Cause.NOT_PRESENT
    assert second.access(BASE, LOAD, 0) == 4, "nobody told the second one"


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
