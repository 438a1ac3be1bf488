"""The workloads of the answer: each runs as a user runs it, and shows what it is about."""

import json
from pathlib import Path
from typing import Any

import pytest

from emu.cli import frame


def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = frame.run(["run", *arguments, "--on", str(tmp_path), "--out", str(tmp_path / "out"), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    outcome: dict[str, Any] = json.loads(captured.out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    return outcome


@pytest.mark.parametrize(("rmap", "vmas"), [("none", 1), ("dirty_index", 1), ("range_tree", 1), ("linear_vmas", 512)])
def test_reverse_costs_a_vma_a_page_only_where_vmas_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rmap: str, vmas: int
) -> None:
    outcome = run(tmp_path, capsys, "reverse", "--pages", "512", "--rmap", rmap)
    assert outcome["vmas"] == vmas


def test_reverse_needs_max_map_count_for_as_many_vmas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "reverse", "--pages", "64", "--rmap", "linear_vmas", "--max-map-count", "32"]
    assert frame.run([*arguments, "--on", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "max_map_count" in capsys.readouterr().err


@pytest.mark.parametrize("rmap", ["none", "scan", "slot_chain", "dirty_index", "linear_vmas"])
def test_rewiring_dirties_nothing_and_copying_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rmap: str
) -> None:
    options = ("--blocks", "16", "--block-pages", "4", "--swaps", "6")
    outcome = run(tmp_path, capsys, "rewire", *options, "--rmap", rmap)
    assert outcome["pages_dirtied_rewiring"] == 0
    assert outcome["pages_dirtied_copying"] >= 4


@pytest.mark.parametrize("rmap", ["none", "scan", "shadow", "pte_chain", "dirty_index", "linear_vmas"])
def test_guests_keep_their_memory_through_remaps_and_protections(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rmap: str
) -> None:
    options = ("--guests", "3", "--memory-pages", "256", "--space-pages", "64", "--rounds", "3")
    outcome = run(tmp_path, capsys, "uml", *options, "--rmap", rmap)
    assert outcome["vmas_of_a_guest_most"] >= 2
    assert outcome["remaps"] == 3 * (64 + 2 * 32)


@pytest.mark.parametrize("rmap", ["none", "dirty_index"])
@pytest.mark.parametrize("mlocked", [(), ("--mlocked",)])
def test_a_pool_of_many_gib_in_a_32_bit_window_loses_updates_only_without_a_reverse_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rmap: str, mlocked: tuple[str, ...]
) -> None:
    options = ("--window-mib", "4", "--accesses", "4000", "--hot-pages", "2000", "--checkpoint-every", "500")
    outcome = run(tmp_path, capsys, "buffer_pool", *options, "--format", "i386", "--rmap", rmap, *mlocked)
    assert outcome["pool_pages"] == 16 << 18
    assert (outcome["pages_with_lost_updates"] > 0) == (rmap == "none")
    assert (outcome["unevictable_pages"] >= 1000) == bool(mlocked)


@pytest.mark.parametrize("rmap", ["scan", "dirty_index"])
def test_the_adversary_is_charged_for_each_writable_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rmap: str
) -> None:
    outcome = run(tmp_path, capsys, "adversary", "--pages", "256", "--rmap", rmap)
    assert outcome["mkclean_visits_first"] >= 512
    # Cleaned once, the addresses are read-only: the index has one PTE left, the scan still reads all.
    assert (outcome["mkclean_visits_last"] < 10) == (rmap == "dirty_index")
