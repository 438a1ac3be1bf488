"""The matrix as a table on the terminal: one line a kind of mapping, a column of losses for each strategy."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from emu.lab.matrix import MATRIX_PAGES, Cell, Kind
from emu.report.table import ABSENT


def _words(kind: Kind) -> tuple[str, ...]:
    return (
        "disk" if kind.accounted else "ramfs",
        "shared" if kind.shared else "private",
        "writable" if kind.writable else "read-only",
        "nonlinear" if kind.nonlinear else "linear",
        "mlocked" if kind.mlocked else "",
    )


def _line(kind: Kind) -> str:
    _backing, shared, writable, linear, mlocked = _words(kind)
    return f" {shared:8}{writable:10}{linear:10}{mlocked}"


def _count(value: int | None, style: str) -> Text:
    if value is None:
        return Text(ABSENT, "dim")
    return Text(str(value), style if value else "dim")


def matrix_table(cells: Sequence[Cell]) -> Table:
    """Return a rich table; counts of 0 are dim, so that what happens stands out."""
    rmaps = list(dict.fromkeys(cell.rmap for cell in cells))
    by_kind: dict[Kind, dict[str, Cell]] = {}
    for cell in cells:
        by_kind.setdefault(cell.kind, {})[cell.rmap] = cell
    table = Table(title="Which mappings are cleaned, reclaimed, and lose writes?", title_justify="left")
    table.box = SIMPLE_HEAD
    table.title_style = "bold"
    table.pad_edge = False
    table.padding = 0
    table.add_column(f"of {MATRIX_PAGES} pages", no_wrap=True)
    table.add_column("mkclean\ncalls", justify="right", no_wrap=True)
    table.add_column("reclaim\nunmaps", justify="right", no_wrap=True)
    for rmap in rmaps:
        table.add_column(f"lost:\n{rmap}", justify="right", no_wrap=True)
    accounted = None
    for kind, of_rmap in by_kind.items():
        if kind.accounted is not accounted:
            if accounted is not None:
                table.add_section()
            accounted = kind.accounted
            table.add_row(Text("accounted (disk)" if accounted else "not accounted (ramfs)", "bold"))
        cells_here = list(of_rmap.values())
        if not kind.possible:
            table.add_row(_line(kind), Text("EINVAL", "dim"))
            continue
        table.add_row(
            _line(kind),
            _count(max(cell.mkclean_calls or 0 for cell in cells_here), "bold"),
            _count(max(cell.reclaim_unmapped or 0 for cell in cells_here), "bold"),
            *(_count(of_rmap[rmap].lost_pages, "bold red") for rmap in rmaps),
        )
    return table


def matrix_verdicts(cells: Sequence[Cell]) -> list[tuple[bool, str]]:
    """Return the answer to the question, and every cell that is not as it must be."""
    said = [
        (False, f"{cell.rmap}: {', '.join(filter(None, _words(cell.kind)))}: {cell.broken}")
        for cell in cells
        if cell.broken
    ]
    cleaned = {cell.kind for cell in cells if cell.mkclean_calls}
    losing = {cell.kind for cell in cells if cell.lost_pages}
    if cleaned and all(kind.accounted and kind.shared and kind.writable for kind in cleaned):
        said.append((True, "page_mkclean is called for accounted, shared, writable mappings only"))
    if losing and all(kind.nonlinear and kind in cleaned for kind in losing):
        said.append((True, "writes are lost only where those are nonlinear and the reverse map does not find them"))
    return said
