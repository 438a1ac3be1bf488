"""What a TLB keeps and for how long: stale entries, invalidation, ASIDs, global pages, sizes."""


import numpy as np
import pytest

from emu.hw.mmu import R_FAULT, AccessKind, Cause, Mmu
from emu.hw.pte import FORMATS
from emu.hw.tlb import PRESETS, TlbModel, get_model
from tests.emu.hw.space import Space

LOAD, STORE, FETCH = AccessKind.LOAD, AccessKind.STORE, AccessKind.FETCH
by_format = pytest.mark.parametrize("name", FORMATS)
BASE = 0x4000_0000


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
