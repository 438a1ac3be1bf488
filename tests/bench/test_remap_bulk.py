"""Bulk remaps: pages a second, beside what numpy takes to write as many words in the same order.

``pytest tests/bench/test_remap_bulk.py -m slow -s`` prints the figures. Best of several: the machine is
shared, and the best run is the one least disturbed.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from emu.lab.answer_bench import AnswerBench, answer_bench, order_of

pytestmark = [pytest.mark.bench, pytest.mark.slow]


def tell(words: str) -> None:
    sys.stdout.write(f"\n{words}\n")


NR_PAGES = 1 << 20
ROUNDS = 5
WANTED_PAGES_PER_S = 20e6


def best_s(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    spent = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began_s)
    return min(spent)


def bulk_s(bench: AnswerBench, places: np.ndarray) -> float:
    vaddrs = bench.vaddrs(places)
    pgoffs = order_of("random", NR_PAGES, np.random.default_rng(0)).astype(np.uint64)
    return best_s(lambda: bench.process.remap_file_pages_bulk(vaddrs, pgoffs))


@pytest.mark.parametrize("rmap", ["none", "scan", "dirty_index", "pte_chain", "slot_chain", "shadow"])
def test_20_million_pages_a_second_where_no_pte_is_present(rmap: str) -> None:
    with answer_bench(rmap, "x86_64", NR_PAGES, 64) as bench:
        spent_s = bulk_s(bench, np.arange(NR_PAGES))
    words, order = np.zeros(NR_PAGES, np.uint64), np.random.default_rng(1).permutation(NR_PAGES)
    peer_s = best_s(lambda: words.__setitem__(order, order))
    rate = NR_PAGES / spent_s
    tell(f"{rmap}: {rate / 1e6:.0f} M pages/s; numpy's scatter of as many words: {NR_PAGES / peer_s / 1e6:.0f} M/s")
    assert rate >= WANTED_PAGES_PER_S


def test_addresses_in_random_order() -> None:
    with answer_bench("none", "x86_64", NR_PAGES, 64) as bench:
        spent_s = bulk_s(bench, np.random.default_rng(2).permutation(NR_PAGES))
    tell(f"random addresses: {NR_PAGES / spent_s / 1e6:.0f} M pages/s")
    assert NR_PAGES / spent_s >= WANTED_PAGES_PER_S


def test_the_first_bulk_remap_also_makes_the_page_tables() -> None:
    def first() -> float:
        with answer_bench("none", "x86_64", NR_PAGES, 64) as bench:
            vaddrs = bench.vaddrs(np.arange(NR_PAGES))
            pgoffs = order_of("random", NR_PAGES, np.random.default_rng(0)).astype(np.uint64)
            return best_s(lambda: bench.process.remap_file_pages_bulk(vaddrs, pgoffs), rounds=1)

    spent_s = min(first() for _ in range(3))
    tell(f"with 2,048 page tables made: {NR_PAGES / spent_s / 1e6:.0f} M pages/s")
    assert NR_PAGES / spent_s >= WANTED_PAGES_PER_S / 2
