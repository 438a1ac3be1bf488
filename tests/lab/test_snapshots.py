"""The tables as they stand on the terminal, and what a disk run's page shows, as snapshots."""

from dataclasses import asdict

import pytest

from emu.cli.outcome import show_outcome
from emu.hw.pte import get_format
from emu.lab.disk_writeback import DiskRow
from emu.lab.matrix import Cell, Kind
from emu.lab.rows import Row
from emu.report.matrix_table import matrix_table
from emu.report.table import compare_table, verdicts
from emu.report.tables_layout import explain
from tests.snapshot import check_snapshot, printed

ROWS = [
    Row("none", "disk", "x86_64", 65536, 6554, 6554, 6554, 6554, 0, 0, 0, 0.0, 524288, 8192, 3.5, 4.2, 1, 6.1),
    Row("scan", "disk", "x86_64", 65536, 6554, 0, 0, 13108, 859045888, 0, 0, 0, 524288, 8192, 3.1, 4.3, 1, 7.1),
    Row("dirty_index", "disk", "x86_64", 65536, 6554, 0, 0, 13108, 13108, 13108, 157296, 2.4, 524288, 1, 3, 4, 1, 6),
    Row("scan", "ramfs", "x86_64", 65536, 6554, 0, 0, 0, 0, 0, 0, 0.0, 524288, 8192, 3.5, None, 1, 5.1),
]


def test_the_comparison() -> None:
    said = "".join(f"{'ok' if good else '!!'} {sentence}\n" for good, sentence in verdicts(ROWS))
    check_snapshot("compare", printed(compare_table(ROWS)) + said)


def test_the_matrix() -> None:
    cells = [
        Cell(rmap, Kind(accounted=accounted, shared=True, writable=True, nonlinear=nonlinear, mlocked=False), *counts)
        for accounted in (True, False)
        for nonlinear in (True, False)
        for rmap, counts in (
            ("none", (64 * accounted, 64 * (accounted and nonlinear), 64 * accounted)),
            ("scan", (128 * accounted, 0, 64 * accounted)),
        )
    ]
    check_snapshot("matrix", printed(matrix_table(cells)))


@pytest.mark.parametrize("name", ["i386", "x86_64"])
def test_a_format_explained(name: str) -> None:
    check_snapshot(f"tables_{name}", "".join(f"{line.rstrip()}\n" for line in explain(get_format(name))))


def test_an_outcome_with_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    rows = [
        DiskRow("ext4", "fremap", 8.0, 7.99, 134.8, 0.969, 41.5, 68, 5.56, 37.67, 1.008),
        DiskRow("ext4", "kernel", 8.0, 7.38, 409.9, None, 23.8, 0, None, None, 1.003),
    ]
    show_outcome({"rows": [asdict(row) for row in rows], "left out": {"xfs": "no mkfs.xfs"}}, as_json=False, title="it")
    check_snapshot("rows", "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines()))
