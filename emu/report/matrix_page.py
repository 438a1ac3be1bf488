"""The matrix as one HTML file: the terminal's table and verdicts, with their colours."""

import io
from collections.abc import Sequence
from html import escape
from typing import Any

from rich.console import Console

from emu.lab.matrix import Cell, Kind
from emu.report.matrix_table import matrix_table, matrix_verdicts
from emu.report.run_facts import unfinished

_WIDTH = 160
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>fremap compare --matrix</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 68rem;
    margin: 2rem auto; padding: 0 1rem; }}
  pre {{ font-size: .85rem; line-height: 1.35; overflow-x: auto; }}
  li.bad {{ color: #a63f00; font-weight: 700; }}
</style>
</head>
<body>
<h1>Which mappings are cleaned, reclaimed, and lose writes?</h1>
<p>{when}; {ground}; seed {seed}.</p>
<ul>{said}</ul>
<pre>{{code}}</pre>
</body>
</html>
"""


def cells_from_json(records: dict[str, Any]) -> list[Cell]:
    """Return the cells that emu.lab.matrix.cells_as_json wrote."""
    kinds = Kind.__dataclass_fields__
    counts = Cell.__dataclass_fields__
    return [
        Cell(
            kind=Kind(**{name: row[name] for name in kinds}),
            **{name: value for name, value in row.items() if name in counts},
        )
        for row in records["matrix"]
    ]


def render_matrix(cells: Sequence[Cell], manifest: dict[str, Any]) -> str:
    """Return the HTML; `manifest` is that of the run directory."""
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, highlight=False)
    console.print(matrix_table(cells))
    verdicts = unfinished(manifest, f"{len(cells)} cells are here") + matrix_verdicts(cells)
    said = "".join(f"<li{'' if good else ' class=bad'}>{escape(sentence)}</li>" for good, sentence in verdicts)
    ground = escape(str(manifest["config"].get("ground", "")))
    page = _PAGE.format(when=escape(manifest["started"]), ground=ground, seed=manifest["seed"], said=said)
    # Braces of the page's own text would be fields of rich's format.
    before, after = page.replace("{", "{{").replace("}", "}}").split("{{code}}")
    return console.export_html(inline_styles=True, code_format=f"{before}{{code}}{after}")
