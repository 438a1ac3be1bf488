"""Pictures of a recorded mount's events: each pause of each writer, and where in its files writeback went."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from matplotlib.figure import Figure

from emu.lab.mount_events import THROTTLE, WRITEBACK, MountEvent
from emu.report.run_facts import format_us
from emu.report.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, legend, picture
from emu.units import MIB, format_size

_MOST = 4
"""Writers or files that have a colour of their own; all others share one."""

_LOOKS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"), (GREY, "x"))
_OTHERS = "others"


_LONGEST_NAME = 28


def _label(name: str) -> str:
    """Return a name as a legend shows it: matplotlib takes dollars for formulas, and hides what begins with _."""
    short = name if len(name) <= _LONGEST_NAME else "..." + name[3 - _LONGEST_NAME :]
    return ("./" if short.startswith("_") else "") + short.replace("$", r"\$")


def _by_name(
    events: Sequence[MountEvent], names: Sequence[str]
) -> Iterator[tuple[str, tuple[str, str], list[MountEvent]]]:
    """Yield the most frequent names, and the others together: name, colour and mark, the events."""
    found = [name for name, _count in Counter(names).most_common()]
    own = found if len(found) <= len(_LOOKS) else found[:_MOST]
    groups: dict[str, list[MountEvent]] = {name: [] for name in own}
    others: list[MountEvent] = []
    for event, name in zip(events, names, strict=True):
        groups.get(name, others).append(event)
    every = [*groups.items(), *([(_OTHERS, others)] if others else [])]
    for (name, group), look in zip(every, _LOOKS, strict=False):
        yield name, look, group


def draw_each_pause(events: Sequence[MountEvent], began_s: float) -> Figure:
    """Draw each throttle pause where it began, as long as it was, by writer."""
    pauses = [event for event in events if event.kind == THROTTLE]
    names = [f"{event.told['comm']} ({event.told['tid']})" for event in pauses]
    middle = format_us(median(event.seconds for event in pauses) * 1e6)
    title = f"Each pause of each writer: half are shorter than {middle}"
    figure, axes = picture(title, "milliseconds")
    for name, (colour, mark), own in _by_name(pauses, names):
        at = [event.begin_s - began_s for event in own]
        lengths_ms = [event.seconds * 1000 for event in own]
        axes.plot(at, lengths_ms, mark, color=colour, markersize=4, alpha=0.7, label=_label(name))
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    legend(axes)
    return figure


def draw_writeback(events: Sequence[MountEvent], began_s: float) -> Figure:
    """Draw which part of which file was written back when: a bar from the first byte to the last of each stretch."""
    writes = [event for event in events if event.kind == WRITEBACK]
    names = [str(event.told["path"]) for event in writes]
    nr_ranges = sum(event.told["nr_ranges"] for event in writes)
    stretches = [nbytes for event in writes for _offset, nbytes in event.told["ranges"]]
    title = f"Where writeback went: {nr_ranges:,} stretches, half of {format_size(median(stretches))} or less"
    figure, axes = picture(title, "MiB into the file")
    for name, (colour, _mark), own in _by_name(writes, names):
        bars = [(event.begin_s - began_s, *stretch) for event in own for stretch in event.told["ranges"]]
        axes.vlines(
            [at for at, _offset, _nbytes in bars],
            [offset / MIB for _at, offset, _nbytes in bars],
            [(offset + nbytes) / MIB for _at, offset, nbytes in bars],
            color=colour, linewidth=2, capstyle="butt", label=_label(name),
        )  # fmt: skip
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    legend(axes)
    return figure


def drawings_of(events: Sequence[MountEvent], began_s: float) -> dict[str, Figure]:
    """Draw what there is to draw, by name."""
    drawn = {}
    if any(event.kind == THROTTLE for event in events):
        drawn["each_pause"] = draw_each_pause(events, began_s)
    if any(event.kind == WRITEBACK and event.told["ranges"] for event in events):
        drawn["writeback"] = draw_writeback(events, began_s)
    return drawn


ORDER = ("each_pause", "writeback")
