"""Rows: what each must be, and exactly the JSON that was agreed on."""

from dataclasses import replace

import pytest

from emu.lab.rows import Row, as_json

KEYS = [
    "rmap", "caps", "format", "pages", "dirty_pages", "lost_pages", "unaccounted_dirty_max", "mkclean_calls",
    "mkclean_pte_visits", "mkclean_node_visits", "rmap_bytes", "rmap_bytes_per_mapped_page", "pte_bytes",
    "pte_upper_bytes", "remap_us_per_page", "fault_us", "nr_vmas", "seconds", "error",
]  # fmt: skip


def row(rmap: str = "scan", caps: str = "disk", lost: int | None = 0, mkclean_calls: int = 20) -> Row:
    return Row(rmap, caps, "x86_64", 100, 10, lost, 0, mkclean_calls, 50, 0, 0, 0.0, 4096, 8192, 3.0, 4.0, 1, 0.5)


@pytest.mark.parametrize(
    ("one", "stands"),
    [
        (row(), True),
        (row(lost=1), False),
        (row("none", lost=10), True),
        (row("none", lost=9), False),
        (row("none", lost=0), False),
        (row("none", "strict", lost=10), True),
        (row("none", "ramfs", lost=0, mkclean_calls=0), True),
        (row("none", "ramfs", lost=10, mkclean_calls=0), False),
        (row("scan", "ramfs", lost=0, mkclean_calls=1), False),
        (row("none", "disk,stable_writes", lost=10), True),
        (replace(row(), error="no disk"), False),
    ],
)
def test_a_row_stands_only_if_it_came_out_as_it_must(one: Row, stands: bool) -> None:
    assert (one.broken == "") is stands


def test_json_has_exactly_the_agreed_keys() -> None:
    records = as_json([row(), Row("scan", "disk", "i386", 5, error="cannot")])
    assert records["version"] == 1
    assert [list(run) for run in records["runs"]] == [KEYS, KEYS]
    failed = records["runs"][1]
    assert failed["error"] == "cannot"
    assert all(failed[key] is None for key in KEYS[4:-1])
