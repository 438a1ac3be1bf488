"""The index's hash against a dictionary, and its promise of at most 24 bytes an entry."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.mm.rmap.page_hash import VPN_BITS, PageHash

pfns = st.one_of(st.integers(1, 6), st.integers(1, (1 << 32) - 1))
keys = st.builds(lambda mm, vpn: mm << VPN_BITS | vpn, st.integers(1, 3), st.integers(0, 4))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), pfns, keys), max_size=80))
def test_against_a_dictionary(todo: list[tuple[bool, int, int]]) -> None:
    table = PageHash()
    model: dict[int, list[int]] = {}
    for add, pfn, key in todo:
        held = model.setdefault(pfn, [])
        if add and key not in held:
            table.add(pfn, key)
            held.append(key)
        elif not add:
            assert table.remove(pfn, key) == (key in held)
            if key in held:
                held.remove(key)
    assert sorted(table) == sorted((pfn, key) for pfn, held in model.items() for key in held)
    assert table.nr_entries == sum(map(len, model.values()))
    for pfn, held in model.items():
        assert sorted(table.get(pfn)) == sorted(held)
    if not table.nr_entries:
        assert table.nbytes == 0


@pytest.mark.parametrize("sharers", [1, 2, 50])
@pytest.mark.parametrize("count", [1000, 4096, 20_000])
def test_bytes_and_visits_are_bounded_also_at_the_peak(count: int, sharers: int) -> None:
    table = PageHash()
    entries = [(1 + i // sharers * 7, (1 + i % sharers) << VPN_BITS | i) for i in range(count)]
    random.Random(7).shuffle(entries)
    visits = 0
    for number, (pfn, key) in enumerate(entries, start=1):
        table.add(pfn, key)
        visits += table.visits
        if number >= 1000:
            assert table.nbytes <= 24 * number, f"{table.nbytes / number:.1f} bytes an entry at {number}"
    assert visits / count < 8, "adding looks at more than a few nodes"
    # A page's answer costs its entries, its bucket's head, and a neighbour or two.
    asked = sorted({pfn for pfn, _ in entries})
    total = 0
    for pfn in asked:
        assert len(table.get(pfn)) <= sharers
        total += table.visits
    assert total / len(asked) <= sharers + 4
    random.Random(8).shuffle(entries)
    for pfn, key in entries:
        assert table.remove(pfn, key)
    assert table.nr_entries == table.nbytes == 0


def test_freed_nodes_are_used_again() -> None:
    table = PageHash()
    for key in range(2000):
        table.add(1 + key, key)
    peak = table.nbytes
    for round_ in range(5):
        for key in range(1000):
            assert table.remove(1 + key + round_ * 5000, key)
            table.add(1 + key + (round_ + 1) * 5000, key)
    assert table.nbytes == peak
