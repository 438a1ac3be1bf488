"""The report of a comparison: its numbers are the rows', it needs no network, and its pictures are drawn."""

import re
import shutil
import subprocess
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from emu.lab.matrix import Cell, Kind, cells_as_json
from emu.lab.rows import Row
from emu.lab.rundir import RunDirectory
from emu.report.matrix_page import cells_from_json, render_matrix
from emu.report.page import render_page
from emu.report.pictures import DRAWINGS, save_pictures
from emu.report.table import compare_table, verdicts, visits_per_call

ROWS = [
    Row("none", "disk", "x86_64", 65536, 6554, 6554, 6554, 6554, 0, 0, 0, 0.0, 524288, 8192, 3.5, 4.2, 1, 6.1),
    Row("scan", "disk", "x86_64", 65536, 6554, 0, 0, 13108, 859045888, 0, 0, 0, 524288, 8192, 3.1, 4.3, 1, 7.1),
    Row("dirty_index", "disk", "x86_64", 65536, 6554, 0, 0, 13108, 13108, 13108, 157296, 2.4, 524288, 1, 3, 4, 1, 6),
    Row("scan", "ramfs", "x86_64", 65536, 6554, 0, 0, 0, 0, 0, 0, 0.0, 524288, 8192, 3.5, None, 1, 5.1),
    Row("scan", "<b>", "i386", 65536, error="no <such> caps"),
]


def printed(rows: list[Row]) -> str:
    stream = StringIO()
    Console(file=stream, width=80).print(compare_table(rows))
    return stream.getvalue()


@pytest.mark.parametrize("last", ["scan", "linear_vmas_accounted"])
def test_the_table_fits_80_columns_and_cuts_nothing(last: str) -> None:
    many = [replace(ROWS[1], rmap=last, nr_vmas=65535)] if last != "scan" else []
    text = printed([*ROWS, *many])
    assert ("65,535" in text) is bool(many)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    for word in ("6,554", "65,536", "153.6 KiB", "30 %", "failed", "disk, x86_64"):
        assert word in text


def test_visits_count_ptes_and_nodes() -> None:
    assert [visits_per_call(row) for row in ROWS] == [0, 65536, 2, None, None]


def test_verdicts_name_losses_and_failures() -> None:
    said = verdicts(ROWS[:4])
    assert all(good for good, _sentence in said)
    assert any("6,554" in sentence for _good, sentence in said)
    assert not all(good for good, _sentence in verdicts(ROWS[4:]))


@pytest.mark.parametrize("rows", [ROWS[:4], ROWS[3:4], ROWS], ids=["usual", "ramfs alone", "with a failed row"])
def test_every_picture_is_drawn(rows: list[Row], tmp_path: Path) -> None:
    saved = save_pictures(rows, tmp_path)
    assert [path.stem for path in saved] == list(DRAWINGS)
    for path in saved:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


def test_a_browser_shows_all_pictures(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    directory = RunDirectory("compare", tmp_path / "run", {"ground": "on a test"}, 5)
    page = tmp_path / "index.html"
    # The page itself asks whether each picture was decoded, and the answer lands in the title that is dumped.
    asks = "<script>onload=()=>document.title=[...document.images].map(i=>i.naturalWidth>500)</script>"
    page.write_text(render_page(ROWS, save_pictures(ROWS, tmp_path), directory.manifest) + asks)
    shown = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert f"<title>{','.join(['true'] * len(DRAWINGS))}</title>" in shown.stdout


def test_the_page_stands_alone_and_holds_the_rows_numbers(tmp_path: Path) -> None:
    directory = RunDirectory("compare", tmp_path / "run", {"ground": "on a test"}, 5)
    page = render_page(ROWS, save_pictures(ROWS, tmp_path), directory.manifest)
    assert page.count("data:image/png;base64,") == len(DRAWINGS)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    for number in ("6,554", "65,536", "153.6 KiB"):
        assert number in page


def test_the_matrix_becomes_a_page() -> None:
    kind = Kind(accounted=True, shared=True, writable=True, nonlinear=True, mlocked=False)
    cells = [Cell("none", kind, 64, 64, 64), Cell("scan", kind, 128, 0, 64)]
    manifest = {"started": "today", "seed": 7, "config": {"ground": "<ground>"}}
    assert cells_from_json(cells_as_json(cells)) == cells
    page = render_matrix(cells, manifest)
    for word in ("&lt;ground&gt;", "seed 7", "nonlinear", "128", "page_mkclean is called"):
        assert word in page
