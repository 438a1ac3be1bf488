"""What the control files show and do: one function builds them all for a daemon."""

import json
import math
import os
from typing import TYPE_CHECKING, Protocol

from fsbackend.bdi import parse_ratio
from fsbackend.cache import PAUSE_BOUNDS_MS
from fsbackend.filesystem import FileSystem
from fsbackend.handles import Override
from fsbackend.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsbackend.bdi import BackingDevInfo
    from fsbackend.cache import Cache
    from fsbackend.flusher import Flusher
    from fsbackend.inject import Injector
    from fsbackend.operations import Operations
    from fsbackend.options import MountOptions
    from fsbackend.powercut import PowerCutter


class Served(Protocol):
    """The parts of a daemon that control files speak of."""

    options: "MountOptions"
    bdi: "BackingDevInfo"
    cache: "Cache"
    fs: FileSystem
    flusher: "Flusher"
    injector: "Injector"
    cutter: "PowerCutter | None"
    operations: "Operations"


def _number(text: str, name: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"{name} takes a number from 0 up, not {text.strip()!r}")
    return value


def stats(served: Served) -> str:
    """Return the figures under the names of the kernel's debugfs, in pages and KiB."""
    cache, bdi = served.cache, served.bdi
    limits = cache.limits
    own = bdi.thresholds(limits)
    kib = PAGE_SIZE // 1024
    rows = [
        ("BdiWriteback", bdi.nr_writeback * kib, "kB"),
        ("BdiReclaimable", bdi.nr_dirty * kib, "kB"),
        ("BdiDirtyThresh", own.dirty * kib, "kB"),
        ("DirtyThresh", limits.dirty * kib, "kB"),
        ("BackgroundThresh", limits.background * kib, "kB"),
        ("BdiDirtied", bdi.nr_dirtied * kib, "kB"),
        ("BdiWritten", bdi.nr_written * kib, "kB"),
        ("BdiWriteBandwidth", int(bdi.throttle.avg_write_bandwidth) * kib, "kBps"),
        ("DirtyRatelimit", int(bdi.throttle.dirty_ratelimit) * kib, "kBps"),
        ("OthersDirty", cache.others_dirty * kib, "kB"),
        ("b_dirty", len(cache.dirty_files), ""),
        ("nr_dirty", bdi.nr_dirty, ""),
        ("nr_writeback", bdi.nr_writeback, ""),
        ("nr_pauses", cache.nr_pauses, ""),
        ("paused_ms", int(cache.paused_s * 1000), ""),
        ("nr_errors", cache.nr_errors, ""),
        ("nr_slabs", cache.pool.nr_slabs, ""),
    ]
    lines = [f"{name + ':':<20}{value:>14}{' ' + unit if unit else ''}" for name, value, unit in rows]
    lines += [f"{f'pauses_{bound}ms:':<20}{count:>14}" for bound, count in cache.pauses.items()]
    lines.append(f"{f'pauses_over_{PAUSE_BOUNDS_MS[-1]}ms:':<20}{cache.nr_late_pauses:>14}")
    lines.append(f"{'longest_pause:':<20}{round(cache.longest_pause_s * 1000):>14} ms")
    # Rounded up, so that what is in the row over 200 ms is never told to be 200 ms.
    lines.append(f"{'longest_pause_us:':<20}{math.ceil(cache.longest_pause_s * 1_000_000):>14}")
    return "\n".join(lines) + "\n"


def activity(served: Served) -> str:
    """Return what the mount is doing now, as JSON: the flusher's file, throttled writers, latencies by request."""
    clock = served.cache.clock
    file = served.flusher.current
    throttled = [
        {"tid": tid, "paused_ms": round((clock() - since_s) * 1000)}
        for tid, since_s in list(served.operations.throttled.values())
    ]
    told = {
        "flusher_file": os.fsdecode(file.node.path()) if file is not None else "",
        "flusher_passes": served.flusher.nr_passes,
        "throttled": throttled,
        "latency": served.operations.latencies.snapshot(),
    }
    return json.dumps(told, ensure_ascii=True) + "\n"


def file_caps(served: Served, name: str) -> "Callable[[], str] | None":
    """Return what makes the text of ``.bdi/files/INODE``; None for an inode that is not in memory."""
    if not name.isdigit():
        return None
    node = served.fs.store.find_ino(int(name))
    if node is None:
        return None
    caps = served.fs.caps_of(node)
    text = json.dumps(
        {
            "path": node.path().decode("utf-8", "surrogateescape"),
            "preset": caps.preset,
            "flags": caps.flag_names(),
            "max_ratio": served.bdi.max_ratio if caps == served.fs.caps else caps.max_ratio,
            "account_dirty": caps.account_dirty,
            "writeback": caps.writeback,
        }
    )
    return lambda: text + "\n"


def events_since(served: Served, name: str) -> "Callable[[], str] | None":
    """Return what makes the text of ``.bdi/events/NUMBER``, what came after that event; ``now`` is the last number."""
    log = served.cache.events
    if name == "now":
        return lambda: f"{log.number}\n"
    return (lambda: log.since(int(name))) if name.isdecimal() else None


def add_control_files(served: Served) -> None:
    """Add every control file to the daemon's tree."""
    tree = served.fs.control
    assert tree is not None
    bdi = served.bdi

    def set_strict(text: str) -> None:
        if text.strip() not in {"0", "1"}:
            raise ValueError("strict_limit takes 0 or 1")
        bdi.strict_limit = text.strip() == "1"

    def set_overrides(text: str) -> None:
        served.fs.overrides = [Override(line) for line in text.splitlines() if line.strip()]

    def sync(text: str) -> None:
        del text
        failures = served.fs.sync()
        if failures:
            tree.last_error = "; ".join(failures)
            raise OSError(5, tree.last_error)

    tree.add("max_ratio", lambda: f"{bdi.max_ratio}\n", lambda t: bdi.set_max_ratio(parse_ratio(t, "max_ratio")))
    tree.add("min_ratio", lambda: f"{bdi.min_ratio}\n", lambda t: bdi.set_min_ratio(parse_ratio(t, "min_ratio")))
    tree.add("strict_limit", lambda: f"{int(bdi.strict_limit)}\n", set_strict)
    tree.add("stats", lambda: stats(served))
    tree.add("activity", lambda: activity(served))
    tree.add("caps", lambda: f"{served.fs.caps}\n")
    tree.add("overrides", lambda: "".join(f"{item}\n" for item in served.fs.overrides), set_overrides)
    tree.add("sync", lambda: "", sync)
    tree.add("inject", served.injector.show, served.injector.take)
    if served.cutter is not None:
        tree.add("power_cut", lambda: f"{served.cutter.nr_cuts}\n" if served.cutter else "", served.cutter.cut)
        tree.add("unsynced", served.cutter.unsynced)
    tree.add("options", lambda: served.options.to_json() + "\n")
    tree.add_directory("files", lambda name: file_caps(served, name))
    tree.add_directory("events", lambda name: events_since(served, name))
    _add_params(served)


def _add_params(served: Served) -> None:
    """Add the knobs of /proc/sys/vm."""
    tree, bdi = served.fs.control, served.bdi
    assert tree is not None
    knobs = (
        ("dirty_background_ratio", "background_ratio", 1.0),
        ("dirty_ratio", "dirty_ratio", 1.0),
        ("dirty_background_bytes", "background_bytes", 1.0),
        ("dirty_bytes", "dirty_bytes", 1.0),
        ("dirty_expire_centisecs", "expire_s", 0.01),
        ("dirty_writeback_centisecs", "periodic_s", 0.01),
    )
    for name, field, unit in knobs:

        def read(field: str = field, unit: float = unit) -> str:
            return f"{round(getattr(bdi.params, field) / unit)}\n"

        def write(text: str, name: str = name, field: str = field, unit: float = unit) -> None:
            value = _number(text, name) * unit
            bdi.set_params(bdi.params.with_(**{field: value if unit < 1 else int(value)}))
            served.flusher.refresh_limits()
            served.cache.wakeup.set()

        tree.add(name, read, write)
