"""A replay's outcome as tables on the terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from emu.lab.replay.result import LOSES, FaultRow, Replay, StrategyRow, WindowRow
from emu.report.table import ABSENT, format_number
from emu.units import format_size

_SHOWN_WINDOWS = 8


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.pad_edge = False
    table.padding = 0
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def plural(count: int, thing: str) -> str:
    """Return a count and its noun."""
    return f"{count:,} {thing}" + ("" if count == 1 else "es" if thing.endswith("ss") else "s")


def headline(replay: Replay) -> str:
    """Return what was replayed, and how fast."""
    what = " ".join(" ".join(replay.command).split()) or Path(replay.trace).name
    shown = what if len(what) <= 60 else what[:57] + "..."
    kinds = replay.by_kind
    return (
        f"{shown}: {plural(replay.accesses, 'access')} ({kinds['instructions']:,} instructions, {kinds['loads']:,} "
        f"loads, {kinds['stores']:,} stores, {kinds['modifies']:,} modifies) on {replay.format} in "
        f"{replay.seconds:.2f} s, {replay.accesses_per_second / 1e6:.1f} million a second"
    )


def facts(replay: Replay) -> list[tuple[str, str]]:
    """Return the totals: a name and a value each."""
    pages = plural(replay.pages_touched, "page")
    found = [
        ("touched", f"{pages}, {format_size(replay.pages_touched * replay.page_size)}"),
        ("stored into", plural(replay.pages_stored, "page")),
        ("most resident at once", plural(replay.resident_pages_max, "page")),
        ("most dirty file pages at once", plural(replay.dirty_file_pages_max, "page")),
    ]
    found += [(name, f"{count:,}") for name, count in replay.faults.items() if count or name == "page faults"]
    shown = {name: count for name, count in replay.tlb.items() if name not in {"accesses", "faults"}}
    found += [(f"TLB: {name}", f"{count:,}") for name, count in shown.items()]
    misses = replay.tlb["first-level misses"]
    found.append(("TLB: misses of 1,000 accesses", f"{1000 * misses / max(replay.tlb['accesses'], 1):.2f}"))
    return found


def facts_table(replay: Replay) -> Table:
    """Return the totals as a table without a head."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, value in facts(replay):
        table.add_row(name, value)
    return table


def faults_table(rows: Sequence[FaultRow]) -> Table:
    """Return the faults by what is mapped there."""
    table = _table("page faults by memory", "memory", "faults", "for stores", "from disk")
    for row in rows:
        table.add_row(row.memory, f"{row.faults:,}", f"{row.for_stores:,}", f"{row.major:,}")
    return table


def shown_windows(windows: Sequence[WindowRow]) -> list[WindowRow]:
    """Return a few of the windows, evenly spread, the last one among them."""
    step = max(1, len(windows) // _SHOWN_WINDOWS)
    return list(windows[::-1][::step][::-1])


def windows_table(replay: Replay) -> Table:
    """Return the working set over time: a few of the windows; the run's records have them all."""
    windows = replay.windows
    length = windows[0].end if windows else 0
    table = _table(
        f"working set: pages within {length:,} accesses (some of {len(windows)} windows)",
        "up to access", "pages", "of code", "of data", "stored", "so far", "faults", "resident", "walks",
    )  # fmt: skip
    for row in shown_windows(windows):
        cells = (row.pages, row.code_pages, row.data_pages, row.stored_pages, row.pages_so_far, row.faults,
                 row.resident_pages, row.walks)  # fmt: skip
        table.add_row(f"{row.end:,}", *(f" {cell:,}" for cell in cells))
    return table


def strategy_cells(row: StrategyRow) -> tuple[str, ...]:
    """Return a strategy's row: what it lost and paid."""
    if row.error is not None:
        return (row.rmap, "failed", *(ABSENT,) * 6)
    return (
        row.rmap,
        format_number(row.lost_pages),
        format_number(row.visits_per_mkclean),
        format_number(row.mkclean_calls),
        format_number(row.faults),
        ABSENT if row.own_bytes is None else format_size(row.own_bytes),
        format_number(row.nr_vmas),
        ABSENT if row.seconds is None else f"{row.seconds:.2f}",
    )


STRATEGY_HEADINGS = (
    "reverse map", "pages\nlost", "visits\n/mkclean", "mkclean\ncalls", "faults", "own\nmemory", "VMAs", "s",
)  # fmt: skip


def strategies_table(rows: Sequence[StrategyRow]) -> Table:
    """Return what each reverse map paid, with the losses marked."""
    table = _table("again, all writable memory in one nonlinear file", *STRATEGY_HEADINGS)
    for row in rows:
        name, lost, *others = strategy_cells(row)
        style = "bold red" if row.lost_pages or row.error else "green"
        table.add_row(name, Text(lost, style), *(f" {cell}" for cell in others))
    return table


def remarks(replay: Replay) -> Iterator[tuple[bool, str]]:
    """Yield for each thing worth saying whether it is as it must be, and a sentence."""
    if not replay.complete:
        yield False, f"{replay.trace} is cut short: this is what it has"
    if replay.signals:
        counted = ", ".join(f"{count:,} times {name}" for name, count in replay.signals.items())
        yield False, f"accesses passed over: {counted}; the first: {replay.first_signal}"
    if replay.refused_calls:
        counted = ", ".join(f"{count:,} times {name}" for name, count in replay.refused_calls.items())
        yield False, f"calls refused: {counted}; the first: {replay.first_refused}"
    yield from _remarks_on_files(replay)
    yield from _remarks_on_strategies(replay.strategies)


def _remarks_on_files(replay: Replay) -> Iterator[tuple[bool, str]]:
    if replay.shared_pages_wrong:
        yield False, f"{plural(replay.shared_pages_wrong, 'page')} of shared files do not hold what was stored"
    elif replay.shared_files:
        files = plural(len(replay.shared_files), "shared file")
        yield True, f"{plural(replay.shared_bytes_checked, 'byte')} stored into {files} are all in the files"
    if replay.pages_mapped_on_demand:
        pages = plural(replay.pages_mapped_on_demand, "page")
        yield True, f"{pages} mapped by no call of the trace: anonymous memory, where first touched"
    if replay.stand_ins:
        yield True, f"stood in for by zeros, since gone or changed: {', '.join(replay.stand_ins)}"
    if replay.moved:
        yield True, f"moved, since {replay.format} has no such addresses: {'; '.join(replay.moved)}"


def _remarks_on_strategies(rows: Sequence[StrategyRow]) -> Iterator[tuple[bool, str]]:
    for row in rows:
        if row.error is not None:
            yield False, f"{row.rmap}: {row.error}"
        elif row.lost_pages:
            yield row.rmap == LOSES, f"{row.rmap}: msync returned success and lost {plural(row.lost_pages, 'page')}"
    whole = sum(row.lost_pages == 0 for row in rows)
    if whole:
        yield True, f"{plural(whole, 'reverse map')} kept every byte that was stored"
