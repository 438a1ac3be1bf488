"""struct page as arrays, and the LRU lists against plain Python lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import KernelBug
from emu.mm_types.page import (
    ACTIVE,
    INACTIVE,
    PG_ACTIVE,
    PG_DIRTY,
    PG_LRU,
    PG_UNEVICTABLE,
    UNEVICTABLE,
    LruLists,
    MemMap,
)

NR_FRAMES = 12
LISTS = (ACTIVE, INACTIVE, UNEVICTABLE)

actions = st.sampled_from(("add", "remove", "move"))
steps = st.lists(st.tuples(actions, st.integers(1, NR_FRAMES - 1), st.sampled_from(LISTS)))


@given(steps)
def test_lists_keep_order_length_and_flags(todo: list[tuple[str, int, int]]) -> None:
    mem_map = MemMap(NR_FRAMES)
    lru = LruLists(mem_map)
    model: dict[int, list[int]] = {which: [] for which in LISTS}
    for action, pfn, which in todo:
        listed = next((name for name in LISTS if pfn in model[name]), None)
        if (action == "add") != (listed is None):
            with pytest.raises(KernelBug, match=f"pfn={pfn}"):
                {"add": lru.add, "move": lru.move}.get(action, lambda pfn, _which: lru.remove(pfn))(pfn, which)
            continue
        if listed is not None:
            model[listed].remove(pfn)
        if action != "remove":
            model[which].insert(0, pfn)
            (lru.add if action == "add" else lru.move)(pfn, which)
        else:
            lru.remove(pfn)
        for name in LISTS:
            assert lru.pages(name) == model[name]
            assert lru.nr[name] == len(model[name])
            assert lru.tail(name) == (model[name][-1] if model[name] else 0)
            for page in model[name]:
                assert lru.which(page) == name
                assert mem_map.flags[page] & PG_LRU


def test_a_removed_page_remembers_that_it_was_active() -> None:
    mem_map = MemMap(4)
    lru = LruLists(mem_map)
    mem_map.flags[2] = PG_DIRTY
    lru.add(2, ACTIVE)
    lru.remove(2)
    assert mem_map.flags[2] == PG_DIRTY | PG_ACTIVE
    lru.add(2, UNEVICTABLE)
    assert mem_map.flags[2] == PG_DIRTY | PG_UNEVICTABLE | PG_LRU


def test_arrays_and_views_are_the_same_bytes() -> None:
    mem_map = MemMap(8)
    mem_map.flags[3] = PG_DIRTY
    mem_map.index[3] = 1 << 40
    mem_map.mapcount_array[3] = 2
    assert mem_map.flags_array[3] == PG_DIRTY
    assert mem_map.mapcount[3] == 2
    assert mem_map.describe(3) == f"page pfn=3 refcount=0 mapcount=2 mapping=0 index={1 << 40} flags=DIRTY"
    assert mem_map.describe(1).endswith("flags=none")
