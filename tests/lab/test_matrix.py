"""The matrix: 32 kinds of mapping, and the answer to the thread's question."""

import json
from pathlib import Path

import pytest

from emu.cli import experiments, frame
from emu.lab.ground import plain_ground
from emu.lab.matrix import MATRIX_PAGES, Cell, Kind, kinds, run_cells
from emu.mm.rmap import STRATEGIES


def test_the_kinds_are_all_of_them_once() -> None:
    assert len(set(kinds())) == 32
    assert sum(kind.possible for kind in kinds()) == 24


def test_only_accounted_shared_writable_nonlinear_mappings_lose_and_only_under_none() -> None:
    cells = run_cells(list(STRATEGIES), "x86_64", 1, lambda _caps: plain_ground())
    assert len(cells) == 32 * len(STRATEGIES)
    assert [cell.broken for cell in cells if cell.broken] == []
    losing = {(cell.rmap, cell.kind) for cell in cells if cell.lost_pages}
    expected = {("none", Kind(True, True, True, True, mlocked)) for mlocked in (True, False)}
    assert losing == expected
    # Reclaim reaches what is neither locked nor kept in RAM by its backing.
    for cell in cells:
        if cell.kind.possible and cell.kind.accounted and cell.kind.shared and not cell.kind.mlocked:
            assert cell.reclaim_unmapped, cell


@pytest.mark.parametrize(
    "cell",
    [
        Cell("scan", Kind(True, True, True, True, False), 64, 1, 0),
        Cell("none", Kind(True, True, True, True, False), 64, 63, 0),
        Cell("scan", Kind(True, True, False, True, False), 1, 0, 0),
        Cell("scan", Kind(True, True, True, False, False), 0, 0, 0),
        Cell("scan", Kind(True, True, True, False, True), 64, 0, 1),
        Cell("scan", Kind(False, True, True, False, False), 0, 0, 1),
    ],
)
def test_a_cell_that_is_not_as_it_must_be_is_seen(cell: Cell) -> None:
    assert cell.broken
    assert MATRIX_PAGES == 64


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(experiments, "why_no_fuse", lambda: "a test says so")
    path = tmp_path / "matrix.json"
    code = frame.run(["compare", "--matrix", "--rmap", "none", "--json", str(path), "--report", str(tmp_path / "r")])
    assert code == 0
    records = json.loads(path.read_text())
    assert len(records["matrix"]) == 32
    assert set(records["matrix"][0]) == {
        "rmap", "accounted", "shared", "writable", "nonlinear", "mlocked", "possible", "mkclean_calls",
        "lost_pages", "reclaim_unmapped",
    }  # fmt: skip
    assert "accounted, shared, writable" in capsys.readouterr().out
    page = (tmp_path / "r" / "index.html").read_text()
    assert "page_mkclean is called for accounted, shared, writable mappings only" in page
