"""The exchange of many PTEs: against its own source, and against a dictionary, for entries of both sizes."""

import numpy as np
import pytest

from emu.hw.jit import pure
from emu.hw.pte_bulk import exchange

PAGE_SHIFT, LEAF_BITS = 12, 4
LEAF_SHIFT = PAGE_SHIFT + LEAF_BITS
FIRST_KEY, NR_LEAVES = 5, 3


def run(kernel: object, ram: np.ndarray, vaddrs: np.ndarray, news: np.ndarray, halves: bool) -> tuple[np.ndarray, int]:
    # Leaf tables in no particular order, each of 16 entries.
    bases = np.array([32, 0, 16], np.uint64)
    olds = np.zeros(len(vaddrs), np.uint64)
    numbers = (FIRST_KEY, LEAF_SHIFT, PAGE_SHIFT, (1 << LEAF_BITS) - 1, halves)
    seen = kernel(ram, bases, *map(np.uint64, numbers), vaddrs, news, olds)  # type: ignore[operator]
    return olds, int(seen)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_entries_are_exchanged_in_order(seed: int, halves: bool) -> None:
    rng = np.random.default_rng(seed)
    most = (1 << 32 if halves else 1 << 63) - 1
    entries = rng.integers(0, most, 16 * NR_LEAVES, dtype=np.uint64)
    ram = entries.astype(np.uint32).view(np.uint64) if halves else entries.copy()
    pages = rng.integers(FIRST_KEY << LEAF_BITS, FIRST_KEY + NR_LEAVES << LEAF_BITS, 40)
    vaddrs = pages.astype(np.uint64) << np.uint64(PAGE_SHIFT)
    news = rng.integers(0, most, 40, dtype=np.uint64)

    model, wanted = entries.copy(), []
    for page, new in zip(pages.tolist(), news.tolist(), strict=True):
        place = (32, 0, 16)[(page >> LEAF_BITS) - FIRST_KEY] + (page & 15)
        wanted.append(int(model[place]))
        model[place] = new

    plain_ram = ram.copy()
    olds, seen = run(exchange, ram, vaddrs, news, halves)
    assert olds.tolist() == wanted
    assert seen == int(np.bitwise_or.reduce(olds))
    assert (ram.view(np.uint32) if halves else ram).tolist() == model.tolist()
    with np.errstate(over="ignore"):
        plain_olds, plain_seen = run(pure(exchange), plain_ram, vaddrs, news, halves)
    assert (plain_olds.tolist(), plain_seen) == (olds.tolist(), seen)
    assert plain_ram.tolist() == ram.tolist()


def test_nothing_to_exchange() -> None:
    none = np.zeros(0, np.uint64)
    assert run(exchange, np.zeros(48, np.uint64), none, none, halves=False)[1] == 0
