"""The dirty trackers as a table on the terminal, and what is to be said of them."""

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from emu.report.table import ABSENT, format_number
from emu.trackers.rows import EMULATED, FAILED, OK, UNAVAILABLE, WRONG, TrackerRow

_HEADINGS = ("us\nin all", "us to\narm", "us to\nstore", "us to\ncollect", "kernel\nbytes", "own\nbytes", "\nVMAs")

Said = tuple[bool | None, str]
"""Good, bad, or None for a fact about this kernel, and a sentence."""


def trackers_title(rows: Sequence[TrackerRow]) -> str:
    """Return what was measured, in one line."""
    return f"trackers: {rows[0].pages:,} pages mapped, {rows[0].dirty:,} of them stored to"


def trackers_table(rows: Sequence[TrackerRow], filesystem: str = "") -> Table:
    """Return a rich table with a section for each kind of memory; `filesystem` is what `disk` lies on."""
    table = Table(title=trackers_title(rows), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.pad_edge = False
    table.padding = 0
    table.add_column("a dirtied page:", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True, min_width=8)
    measured = [row for row in rows if row.status in {OK, WRONG}]
    for number, (memory, group) in enumerate(groupby(measured, key=lambda row: row.memory)):
        if number:
            table.add_section()
        lines = list(group)
        name = f"disk ({filesystem})" if memory == "disk" and filesystem else memory
        table.add_row(Text(name, "bold"))
        bare = next((row.untracked_us for row in lines if row.untracked_us is not None), None)
        if bare is not None:
            table.add_row(" untracked", format_number(bare), ABSENT, format_number(bare), *[ABSENT] * 4, style="dim")
        for row in lines:
            table.add_row(*_cells(row))
    return table


def _cells(row: TrackerRow) -> list[Text | str]:
    name = f" {row.tracker}"
    if row.status == WRONG:
        return [name, Text("wrong", "bold white on red")]
    if row.clock == EMULATED:
        times = ["emulated", ABSENT, ABSENT, ABSENT]
    else:
        times = [format_number(value) for value in (row.us, row.arm_us, row.store_us, row.collect_us)]
    kernel = None if row.kernel_bytes is None else row.kernel_bytes / row.dirty
    own = None if row.user_bytes is None else row.user_bytes / row.dirty
    return [name, *times, format_number(kernel), format_number(own), format_number(row.nr_vmas)]


def trackers_said(rows: Sequence[TrackerRow]) -> list[Said]:
    """Return a sentence for each thing worth saying: what was right, what was not, what this kernel does not have."""
    said: list[Said] = [
        (False, f"{row.tracker} on {row.memory}: {row.reason}") for row in rows if row.status == WRONG
    ]
    right = sum(row.status == OK for row in rows)
    if right:
        said.append((True, f"{right} rows report exactly the pages stored to, in every round"))
    said += [
        (True, f"{row.tracker}, emulated: page_mkclean looks at {row.visits:.3g} PTEs and nodes for a dirtied page")
        for row in rows
        if row.status == OK and row.visits is not None
    ]
    given_up = [row for row in rows if row.status == FAILED]
    said += [(None, f"{row.tracker} on {row.memory} gave up: {row.reason}") for row in given_up]
    absent: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status == UNAVAILABLE:
            absent.setdefault((row.tracker, row.reason or ""), []).append(row.memory)
    said += [
        (None, f"{tracker} is not to be had on {', '.join(memories)}: {reason}")
        for (tracker, reason), memories in absent.items()
    ]
    return said
