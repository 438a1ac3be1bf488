"""fremap dos: costs grow as they must, guards hold."""

import json
from pathlib import Path

import pytest

from emu.cli import frame
from emu.lab.dos import attack_alias, attack_wide, try_guards
from emu.mm.rmap import STRATEGIES

CHAINED = ("pte_chain", "slot_chain", "shadow", "dirty_index")


def test_a_scan_pays_for_every_page_of_every_process() -> None:
    for pages, processes in ((512, 1), (2048, 1), (512, 4)):
        row = attack_wide("scan", pages, processes)
        assert row.error is None
        assert row.mkclean_visits == pages * processes


@pytest.mark.parametrize("rmap", ["pte_chain", "slot_chain", "dirty_index"])
def test_where_ptes_are_known_the_size_of_mappings_does_not_matter(rmap: str) -> None:
    small, large = attack_wide(rmap, 256, 1), attack_wide(rmap, 4096, 1)
    assert small.mkclean_visits == large.mkclean_visits
    assert large.mkclean_visits is not None
    assert large.mkclean_visits <= 5


@pytest.mark.parametrize("rmap", ["range_tree", "linear_vmas"])
def test_a_tree_grows_with_the_logarithm_of_the_size(rmap: str) -> None:
    visits = [attack_wide(rmap, pages, 1).mkclean_visits for pages in (256, 4096)]
    assert visits[0] is not None
    # A page or two may come to lie behind the one before it, by chance.
    assert visits[1] in (visits[0] + 4, visits[0] + 5)


@pytest.mark.parametrize("rmap", list(STRATEGIES))
def test_one_page_at_every_address_costs_a_visit_an_address_at_least(rmap: str) -> None:
    row = attack_alias(rmap, 256)
    assert row.error is None
    assert row.mkclean_visits is not None
    if rmap == "none":
        assert row.mkclean_visits == 0
    else:
        assert 256 <= row.mkclean_visits <= 12 * 256


@pytest.mark.parametrize("rmap", CHAINED)
def test_taking_an_address_out_of_a_chain_grows_with_the_chain(rmap: str) -> None:
    few, many = attack_alias(rmap, 128).remove_visits, attack_alias(rmap, 512).remove_visits
    assert few is not None
    assert many is not None
    assert many > 2 * few


def test_the_trees_of_runs_and_vmas_have_no_chain() -> None:
    for rmap in ("range_tree", "linear_vmas", "scan"):
        few, many = attack_alias(rmap, 128).remove_visits, attack_alias(rmap, 512).remove_visits
        assert few is not None
        assert many is not None
        assert many < 1.4 * few


def test_max_map_count_is_said_in_the_row() -> None:
    row = attack_wide("linear_vmas", 1 << 17, 1)
    assert row.error is not None
    assert "max_map_count" in row.error


def test_guards_hold() -> None:
    guards = try_guards(100)
    assert all(guard.outcome == guard.expected for guard in guards)
    assert [guard.outcome for guard in guards].count("EPERM") == 4


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--max-pages", "1024", "--max-aliases", "128", "--max-processes", "2", "--bound", "50"]
    path = tmp_path / "dos.json"
    assert frame.run(["dos", *options, "--rmap", "scan", "--rmap", "dirty_index", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    for word in ("wide", "alias", "EPERM", "attacker", "at most 50 nonlinear pages"):
        assert word in printed
    records = json.loads(path.read_text())
    assert len(records["attacks"]) == 2 * (2 * 3 + 3)
    assert len(records["guards"]) == 8


def test_an_unknown_strategy_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["dos", "--rmap", "nothing"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fremap: Invalid value: --rmap nothing: no such strategy")
    assert said.endswith(", dirty_index, all\n")
