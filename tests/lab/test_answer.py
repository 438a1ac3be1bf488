"""fremap compare --all, small: bounds on visits and memory, what is lost, what cannot run and says so."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emu.cli import frame
from emu.hw.mmu import AccessKind
from emu.lab.answer import AnswerOrder, answer
from emu.lab.answer_bench import ORDERS, answer_bench, order_of
from emu.lab.answer_cells import SHARES, CellOptions, measure_cost, measure_memory
from emu.lab.answer_rows import Answer, broken_costs
from emu.lab.errors import LabError
from emu.lab.ground import Ground, plain_ground
from emu.mm.rmap import STRATEGIES

CELLS = CellOptions(present_max=2048)
NONLINEAR = ("none", "scan", "pte_chain", "slot_chain", "range_tree", "shadow", "dirty_index")


def open_plain(_caps: str) -> AbstractContextManager[Ground]:
    return plain_ground()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("nr_pages", [2, 64, 1000, 4096])
def test_an_order_shows_every_page_once(order: str, nr_pages: int) -> None:
    pages = order_of(order, nr_pages, np.random.default_rng(1))
    assert sorted(pages.tolist()) == list(range(nr_pages))
    if order == "random":
        assert not (pages == np.arange(nr_pages)).any()


@pytest.mark.parametrize("fmt", ["x86_64", "i386"])
@pytest.mark.parametrize("nr_pages", [1024, 8192])
@pytest.mark.parametrize(("rmap", "ptes"), [("dirty_index", 1), ("pte_chain", 1), ("slot_chain", 1), ("scan", 0)])
def test_mkclean_visits_a_pages_own_ptes_at_every_size(rmap: str, ptes: int, nr_pages: int, fmt: str) -> None:
    row = measure_cost(rmap, nr_pages, CellOptions(format=fmt, present_max=2048))
    assert row.error is None
    assert row.nr_mkcleans == 1000
    assert row.extrapolated
    assert row.mkclean_pte_visits == (ptes or nr_pages)
    assert row.unnoticed_stores == 0


@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_late_stores_go_unnoticed_under_none_alone(rmap: str) -> None:
    row = measure_cost(rmap, 512, CELLS)
    assert row.error is None
    assert row.nr_mkcleans == 512
    assert row.unnoticed_stores == (512 if rmap == "none" else 0)
    assert row.nr_vmas is not None
    # A page or two may come to lie behind the one before it, by chance.
    assert row.nr_vmas == 1 if rmap in NONLINEAR else row.nr_vmas > 500


@pytest.mark.parametrize("order", ORDERS)
def test_the_dirty_index_costs_nothing_clean_and_24_bytes_a_dirty_page_at_most(order: str) -> None:
    rows = measure_memory("dirty_index", 8192, order, CellOptions(present_max=8192))
    assert [row.dirty_share for row in rows] == list(SHARES)
    assert rows[0].rmap_bytes == 0
    # At 82 dirty pages whole slabs weigh in; at hundreds they no longer do.
    for row in rows[2:]:
        assert row.bytes_per_dirty_page is not None
        assert row.bytes_per_dirty_page <= 24


@pytest.mark.parametrize(
    ("rmap", "order", "most"),
    [
        ("none", "random", 0.0),
        ("scan", "random", 0.0),
        ("pte_chain", "random", 9.0),
        ("slot_chain", "random", 4.6),
        ("shadow", "random", 5.1),
        ("range_tree", "random", 48.0),
        ("range_tree", "block", 1.0),
        ("linear_vmas", "reverse", 176.0),
    ],
)
def test_memory_of_a_clean_page(rmap: str, order: str, most: float) -> None:
    row = measure_memory(rmap, 4096, order, CellOptions(present_max=4096))[0]
    assert row.bytes_per_page is not None
    assert 0.9 * most - 0.5 <= row.bytes_per_page <= most


def test_remapping_clean_pages_visits_no_more_under_the_dirty_index_than_under_none() -> None:
    none, index = (measure_cost(rmap, 4096, CELLS).remap_visits for rmap in ("none", "dirty_index"))
    assert none is not None
    assert index is not None
    assert index <= 1.05 * none


def test_a_cell_that_cannot_run_says_why_and_the_others_run() -> None:
    row = measure_cost("linear_vmas", 1 << 17, CellOptions(present_max=64))
    assert row.error is not None
    assert "max_map_count" in row.error
    order = AnswerOrder(("none", "scan"), CELLS, max_pages=4096, verify_max=0, cell_s=0.0, threads=(1,))
    found = answer(order, open_plain, "nobody")
    reasons = [row.error for row in found.costs if row.pages == 4096]
    assert len(reasons) == 2
    assert all(reason is not None and "--cell-seconds" in reason for reason in reasons)
    assert all(row.error is None for row in found.costs if row.pages == 1024)


@pytest.mark.parametrize(
    "order",
    [
        AnswerOrder(("nothing",)),
        AnswerOrder(("scan",), max_pages=1000),
        AnswerOrder(("scan",), CellOptions(nr_mkcleans=10)),
        AnswerOrder(("scan",), CellOptions(format="vax")),
    ],
)
def test_a_wrong_order_is_refused_in_one_line(order: AnswerOrder) -> None:
    with pytest.raises(LabError) as error:
        order.check()
    assert "\n" not in str(error.value)


def test_a_strategy_that_does_not_find_its_ptes_breaks_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES["scan"], "mkclean", lambda *_args: 0)
    row = measure_cost("scan", 1024, CELLS)
    assert row.unnoticed_stores == 1000
    assert broken_costs([row]) == ["scan at 1024 pages: 1000 late stores unnoticed, not 0"]


def test_the_command_leaves_tables_pictures_page_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--rmap", "none", "--rmap", "dirty_index", "--rmap", "range_tree", "--max-pages", "1024"]
    code = frame.run(
        ["compare", "--all", *arguments, "--present-pages", "512", "--report", "out", "--json", "rows.json"]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    for word in ("mkclean", "B/page", "wait us", "dirty_index", "mmap_sem", "sizeof(pte_t)"):
        assert word in printed.out
    records: dict[str, Any] = json.loads((tmp_path / "rows.json").read_text())
    assert {row["lost_pages"] for row in records["costs"] if row["rmap"] == "none"} == {102}
    assert {row["lost_pages"] for row in records["costs"] if row["rmap"] != "none"} == {0}
    assert len(records["memory"]) == 3 * len(ORDERS) * len(SHARES)
    assert {row["visit_ns"] for row in records["contention"]} == {5.0, 50.0, 500.0}
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "answer_memory.png", "answer_operations.png", "answer_visits.png", "answer_waits.png",
    ]  # fmt: skip


def test_an_answer_of_nothing_has_no_verdict() -> None:
    assert Answer().as_json() == {"version": 1, "costs": [], "memory": [], "contention": []}


def test_a_page_remapped_twice_in_one_bulk_call_shows_the_last_and_is_let_go_once() -> None:
    for rmap in NONLINEAR:
        with answer_bench(rmap, "x86_64", 64, 64) as bench:
            bench.fault_in(np.arange(64), AccessKind.STORE)
            first = bench.mapping.vaddr
            bench.process.remap_file_pages_bulk([first, first, first + 4096], [7, 9, 5])
            assert bench.kernel.fmt.pte_to_pgoff(bench.process.mm.pt.get(first)) == 9
            assert bench.process.mm.file_rss == 62
            assert list(bench.kernel.rmap.check(bench.kernel)) == []
