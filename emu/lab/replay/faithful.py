"""A replay as the program ran: its own mappings, private and shared, and everything counted."""

import time
from collections.abc import Callable
from dataclasses import asdict

from emu.lab.lab import Lab
from emu.lab.memtrace.container import Trace
from emu.lab.replay.player import Player
from emu.lab.replay.result import Replay, WindowRow, fault_rows
from emu.lab.replay.survey import Survey
from emu.units import MIB, format_size

_TLB = {
    "accesses": "accesses",
    "tlb_l1_misses": "first-level misses",
    "tlb_l2_hits": "of them, second-level hits",
    "walks": "page walks",
    "walk_reads": "entries read by walks",
    "faults": "faults",
}
_FAULTS = {
    "pgfault": "page faults",
    "pgmajfault": "of them, from the disk",
    "nr_cow": "copies on write",
    "nr_do_wp_page": "write-protect faults",
    "nr_page_mkwrite": "first stores into shared pages",
    "nr_nonlinear_fault": "nonlinear faults",
    "pswpin": "pages swapped in",
    "pswpout": "pages swapped out",
    "pgsteal_kswapd": "pages reclaimed by kswapd",
    "pgsteal_direct": "pages reclaimed by who wanted one",
}


def ram_for(survey: Survey) -> int:
    """Return RAM that holds everything a trace touches, with page tables and read-ahead."""
    return (len(survey.pages) << survey.page_shift) * 3 + 64 * MIB


class _Watch:
    """Takes down the machine's state at the end of each window."""

    def __init__(self, lab: Lab, survey: Survey) -> None:
        self.rows: list[WindowRow] = []
        self._machine = lab.machine
        self._windows = {window.end: window for window in survey.windows}
        self._before = self._counters()

    def _counters(self) -> tuple[int, int, int]:
        counted = self._machine.kernel.cpus[0].counters()
        return self._machine.vmstat.pgfault, counted["tlb_l1_misses"], counted["walks"]

    def __call__(self, position: int) -> None:
        window = self._windows[position]
        now = self._counters()
        faults, misses, walks = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        stat = self._machine.vmstat
        self.rows.append(
            WindowRow(
                **asdict(window),
                faults=faults,
                resident_pages=stat.nr_anon_pages + stat.nr_mapped,
                dirty_file_pages=stat.nr_dirty + stat.nr_writeback,
                tlb_misses=misses,
                walks=walks,
            )
        )


def replay(
    lab: Lab,
    trace: Trace,
    survey: Survey,
    *,
    anonymous: bool = False,
    swap: str | None = None,
    advance: Callable[[int], None],
) -> Replay:
    """Replay a trace on a machine that `lab` boots, and shut it down: shared files are then compared with the stores.

    The lab's options must ask for events: faults are told apart by them.
    """
    machine = lab.boot(ram=ram_for(survey), huge_pages=False, swap=swap)
    watch = _Watch(lab, survey)
    player = Player(lab, trace, survey, anonymous=anonymous, on_window=watch)
    try:
        began_s = time.perf_counter()
        player.play(advance)
        seconds = time.perf_counter() - began_s
        counters = machine.vmstat.snapshot()
        tlb = machine.kernel.cpus[0].counters()
        assert machine.events is not None
        rows = fault_rows(machine.events, player.ever)
        machine.shutdown()
        wrong = sum(
            len(shadow.differing_pages(player.files.copies[path], player.page_size))
            for path, shadow in player.shadows
        )
        return Replay(
            trace=trace.name,
            command=[str(word) for word in trace.info.get("command", [])],
            complete=trace.complete,
            format=machine.format.name,
            page_size=player.page_size,
            ram=machine.ram.nr_frames * player.page_size,
            accesses=player.position,
            by_kind=survey.by_kind,
            mmu_accesses=player.nr_pieces,
            calls=dict(player.calls),
            copied_bytes=player.copied_nbytes,
            seconds=round(seconds, 4),
            accesses_per_second=round(player.position / max(seconds, 1e-9)),
            pages_touched=len(survey.pages),
            pages_stored=len(survey.stored_pages),
            pages_mapped_on_demand=player.nr_on_demand,
            faults={words: counters[name] for name, words in _FAULTS.items()},
            fault_rows=rows,
            tlb={words: tlb[name] for name, words in _TLB.items()},
            windows=watch.rows,
            resident_pages_max=max((row.resident_pages for row in watch.rows), default=0),
            dirty_file_pages_max=max((row.dirty_file_pages for row in watch.rows), default=0),
            shared_bytes_checked=sum(shadow.nr_stored for _, shadow in player.shadows),
            shared_pages_wrong=wrong,
            shared_files=[path for path, _ in player.shadows],
            stand_ins=player.files.stand_ins,
            moved=[
                f"{start:#x}, {format_size(end - start)}, to {new:#x}" for start, end, new in player.relocation.moved
            ],
            signals=dict(player.mishaps.signals),
            refused_calls=dict(player.mishaps.refused),
            first_signal=player.mishaps.first_signal,
            first_refused=player.mishaps.first_refused,
        )
    finally:
        player.close()
