"""Pictures of a recorded mount's events: each pause of each writer, and where in its files writeback went."""

from collections import Counter
from collections.abc import Sequence
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


def _named(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a mark for the most frequent names, and for the others together."""
    found = [name for name, _count in Counter(names).most_common()]
    own = found if len(found) <= len(_LOOKS) else [*found[:_MOST], _OTHERS]
    return dict(zip(own, _LOOKS, strict=False))


def draw_each_pause(events: Sequence[MountEvent], began_s: float) -> Figure:
    """Draw each throttle pause where it began, as long as it was, by writer."""
    pauses = [event for event in events if event.kind == THROTTLE]
    names = [f"{event.told['comm']} ({event.told['tid']})" for event in pauses]
    middle = format_us(median(event.seconds for event in pauses) * 1e6)
    title = f"Each pause of each writer: half are shorter than {middle}"
    figure, axes = picture(title, "milliseconds")
    for name, (colour, mark) in _named(names).items():
        own = [event for event, each in zip(pauses, names, strict=True) if _is(each, name, names)]
        at = [event.begin_s - began_s for event in own]
        axes.plot(at, [event.seconds * 1000 for event in own], mark, color=colour, markersize=4, alpha=0.7, label=name)
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
    for name, (colour, _mark) in _named(names).items():
        own = [event for event, each in zip(writes, names, strict=True) if _is(each, name, names)]
        bars = [(event.begin_s - began_s, *stretch) for event in own for stretch in event.told["ranges"]]
        axes.vlines(
            [at for at, _offset, _nbytes in bars],
            [offset / MIB for _at, offset, _nbytes in bars],
            [(offset + nbytes) / MIB for _at, offset, nbytes in bars],
            color=colour, linewidth=2, capstyle="butt", label=name,
        )  # fmt: skip
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    legend(axes)
    return figure


def _is(each: str, name: str, names: Sequence[str]) -> bool:
    return each == name or (name == _OTHERS and each not in _named(names))


def drawings_of(events: Sequence[MountEvent], began_s: float) -> dict[str, Figure]:
    """Draw what there is to draw, by name."""
    drawn = {}
    if any(event.kind == THROTTLE for event in events):
        drawn["each_pause"] = draw_each_pause(events, began_s)
    if any(event.kind == WRITEBACK and event.told["ranges"] for event in events):
        drawn["writeback"] = draw_writeback(events, began_s)
    return drawn


ORDER = ("each_pause", "writeback")
