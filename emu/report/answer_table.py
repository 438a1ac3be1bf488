"""The whole answer as tables on the terminal: costs for each size, memory, waits. They fit 80 columns."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from emu.lab.answer_bench import ORDERS
from emu.lab.answer_cells import SHARES
from emu.lab.answer_rows import Answer, CostRow, MemoryRow, broken_costs
from emu.lab.contention import WaitRow
from emu.lab.contention_inputs import mean_wait, wait_verdicts
from emu.report.table import ABSENT, format_number


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.pad_edge = False
    table.padding = 0
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def lost_words(row: CostRow) -> str:
    """Say how many were lost: of pages read back from files, or (with *) of late stores in memory."""
    if row.lost_pages is not None:
        return f"{row.lost_pages:,}"
    if row.unnoticed_stores is not None:
        return f"{row.unnoticed_stores:,}*"
    return ABSENT


def _short(value: float | None) -> str:
    """Write a number in at most five characters."""
    if value is not None and value >= 1e4:
        return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k"
    return format_number(value)


def cost_table(rows: Sequence[CostRow]) -> Table:
    """Return what each operation costs, a section for each size."""
    headings = ("\nlost", "remap\nv", "\nus", "fault\nv", "\nus", "mkclean\nv", "\nus", "unmap\nv", "\nVMAs")
    table = _table("Random order: visits (v) and microseconds of one operation", "reverse map", headings)
    size = None
    for row in rows:
        if size != row.pages:
            if size is not None:
                table.add_section()
            extrapolated = any(one.extrapolated for one in rows if one.pages == row.pages)
            table.add_row(Text(f"{row.pages:,} pages{', e' if extrapolated else ''}", "bold"))
        size = row.pages
        if row.error is not None:
            table.add_row(row.rmap, Text("below", "red"))
            continue
        lost = Text(lost_words(row), "bold red" if row.lost_pages or row.unnoticed_stores else "green")
        numbers = (
            row.remap_visits, row.remap_us, row.fault_visits, row.fault_us, row.mkclean_visits, row.mkclean_us,
            row.unmap_visits, row.nr_vmas,
        )  # fmt: skip
        table.add_row(row.rmap, lost, *map(_short, numbers))
    return table


def error_lines(answer: Answer) -> list[str]:
    """Say for each cell that could not run why, once for cells that say the same."""
    said: dict[str, list[str]] = {}
    # What stopped a strategy at one size stops it at the larger ones; it is said once.
    for row in answer.costs:
        if row.error is not None and not row.error.startswith("stopped"):
            said.setdefault(f"{row.rmap}, costs: {row.error}", []).append(f"{row.pages:,}")
    for cell in answer.memory:
        if cell.error is not None and not cell.error.startswith("stopped"):
            words = said.setdefault(f"{cell.rmap}, memory, {cell.order} order: {cell.error}", [])
            if f"{cell.pages:,}" not in words:
                words.append(f"{cell.pages:,}")
    return [f"{what} (from {sizes[0]} pages on)" for what, sizes in said.items()]


def _cell(rows: Sequence[MemoryRow], rmap: str, order: str, share: float) -> MemoryRow | None:
    """Return the row at the largest size that was measured."""
    found = [
        row
        for row in rows
        if (row.rmap, row.order, row.dirty_share) == (rmap, order, share) and row.error is None
    ]
    return max(found, key=lambda row: row.pages, default=None)


def memory_table(rows: Sequence[MemoryRow]) -> Table:
    """Return bytes a mapped page, and as multiples of a PTE, by order and dirty share."""
    headings = ["\npages", *(f"B/page\n{share:.0%}" for share in SHARES), "of PTE\nclean", "of PTE\ndirty"]
    table = _table("Memory beyond the page table, at the peak, by dirty share", "reverse map", headings)
    for rmap in dict.fromkeys(row.rmap for row in rows):
        by_order = {order: [_cell(rows, rmap, order, share) for share in SHARES] for order in ORDERS}
        lines = {order: _memory_line(cells) for order, cells in by_order.items()}
        if len({tuple(line) for line in lines.values()}) == 1:
            table.add_row(rmap, *lines[ORDERS[0]])
            continue
        table.add_row(rmap)
        for order, line in lines.items():
            table.add_row(f"  {order}", *line)
    return table


def _memory_line(cells: Sequence[MemoryRow | None]) -> list[str]:
    first, last = cells[0], cells[-1]
    if first is None or last is None:
        return ["below"]
    numbers = [format_number(None if cell is None else cell.bytes_per_page) for cell in cells]
    return [f"{first.pages:,}", *numbers, f"{first.pte_ratio:.3g}", f"{last.pte_ratio:.3g}"]


def wait_table(rows: Sequence[WaitRow]) -> Table:
    """Return mean waits at the most threads, a column for each price of a visit."""
    threads = max(row.threads for row in rows)
    prices = sorted({row.visit_ns for row in rows})
    headings = ["\nlock of a remap", *(f"wait us\n{price:g} ns" for price in prices), "cleans/s\nmiddle price"]
    title = f"Mean wait of an operation, simulated: {threads} threads, a flusher"
    table = _table(title, "reverse map", headings)
    middle = prices[len(prices) // 2]
    for rmap, lock in dict.fromkeys((row.rmap, row.lock) for row in rows):
        here = {row.visit_ns: row for row in rows if (row.rmap, row.lock, row.threads) == (rmap, lock, threads)}
        waits = [format_number(round(mean_wait(here[price]), 4)) for price in prices]
        table.add_row(rmap, lock, *waits, format_number(round(here[middle].cleans_per_s)))
    return table


def memory_verdicts(rows: Sequence[MemoryRow]) -> list[str]:
    """Answer "at best you double the memory" with numbers, at the largest size measured."""
    said = []
    for rmap, share, words in (
        ("pte_chain", 0.0, "a pointer a page"),
        ("slot_chain", 0.0, "half a pointer a page"),
        ("dirty_index", 0.0, "the dirty index, all clean"),
        ("dirty_index", 0.01, "the dirty index, 1 % dirty"),
        ("dirty_index", 1.0, "the dirty index, all dirty"),
    ):
        cell = _cell(rows, rmap, "random", share)
        if cell is not None and cell.pte_ratio is not None:
            said.append(f"{words}: {cell.bytes_per_page:.3g} B a page, {cell.pte_ratio:.3g} x sizeof(pte_t)")
    return said


def answer_verdicts(answer: Answer) -> list[tuple[bool, str]]:
    """Return for each thing worth saying whether it is as it must be, and a sentence."""
    said = [(False, sentence) for sentence in broken_costs(answer.costs)]
    if not said and answer.costs:
        said.append((True, "at every size measured, none lost every late store and no other strategy lost any"))
    said += [(True, f"memory: {sentence}") for sentence in memory_verdicts(answer.memory)]
    said += [(True, f"locks: {sentence}") for sentence in wait_verdicts(answer.waits)]
    return said
