"""A trace as a guest's: all that the program may write lies in one file, mapped nonlinearly, page by page.

User-mode Linux kept a guest's RAM so, and gave it to the guest's processes page by page; that is what
remap_file_pages was used for beside databases. Here each page of the program gets the page of the file that is free
next when it is first touched, so neighbours in memory are seldom neighbours in the file. Several times during the
trace, evenly spread, everything dirty is written back; at the end comes msync, then the power is cut, and an ordinary
process reads what the file holds.
"""

import mmap as host_mmap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emu.lab.errors import BrokenExpectation
from emu.lab.lab import Lab
from emu.lab.measure import measure_mapping
from emu.lab.memtrace.container import Trace
from emu.lab.memtrace.words import Call, U64Array
from emu.lab.replay.faithful import ram_for
from emu.lab.replay.player import Player
from emu.lab.replay.result import StrategyRow
from emu.lab.replay.shadow import Shadow
from emu.lab.replay.space import Sort
from emu.lab.replay.survey import WINDOWS, Survey
from emu.mm_types.vma import VM_SHARED

FILE_NAME = "replay-guest.ram"
_MAP_SHARED_FIXED = host_mmap.MAP_SHARED | 0x10
_GUEST = 0


class RewiredPlayer(Player):
    """Plays a trace with everything writable in the guest's file."""

    def __init__(
        self, lab: Lab, trace: Trace, survey: Survey, path: Path, *, anonymous: bool, writebacks: int
    ) -> None:
        super().__init__(lab, trace, survey, anonymous=anonymous, on_window=self._maybe_sync)
        shift = np.uint64(survey.page_shift)
        pages = self.relocation.vaddrs(survey.pages << shift) >> shift
        order = np.argsort(pages)
        self._pages: U64Array = pages[order]
        self._pgoffs: U64Array = survey.first_order[order]
        self.path = path
        with path.open("wb") as file:
            file.truncate(len(pages) * self.page_size)
        self.shadow = Shadow(bytes(len(pages) * self.page_size))
        self.shadows.append((FILE_NAME, self.shadow))
        self.shared.append((_GUEST, 0))
        self._sync_at = {round(number * WINDOWS / (writebacks + 1)) for number in range(1, writebacks + 1)}
        self._nr_windows = 0

    def map(self, call: Call, vaddr: int) -> None:
        """Map what is private and writable from the guest's file; all else as it was recorded."""
        if call.flags & host_mmap.MAP_PRIVATE and call.prot & host_mmap.PROT_WRITE:
            self.map_guest(vaddr, vaddr + self.whole_pages(call.nbytes), call.prot)
        else:
            super().map(call, vaddr)

    def map_missing(self, start: int, end: int, prot: int) -> None:
        """Map what no call maps from the guest's file, too."""
        self.map_guest(start, end, prot)

    def map_guest(self, start: int, end: int, prot: int) -> None:
        """Map a range of the file, and remap each of its pages that the trace touches."""
        self.process.sys_mmap(start, end - start, prot, _MAP_SHARED_FIXED, str(self.path), 0)
        self.place(start, end, Sort.ANONYMOUS, _GUEST)
        shift = self.survey.page_shift
        low, high = np.searchsorted(self._pages, [start >> shift, end >> shift])
        self.process.remap_file_pages_bulk(self._pages[low:high] << np.uint64(shift), self._pgoffs[low:high])

    def remap(self, call: Call, vaddr: int, new_vaddr: int) -> None:
        """Let the guest's pages of the new place be other ones; what lay in the old place is gone."""
        old = self.space.within(vaddr, vaddr + 1)
        if not old or old[0][3] != _GUEST:
            super().remap(call, vaddr, new_vaddr)
            return
        self.process.munmap(vaddr, call.nbytes)
        self.space.remove(vaddr, vaddr + self.whole_pages(call.nbytes))
        self.map_guest(
            new_vaddr, new_vaddr + self.whole_pages(call.new_nbytes), host_mmap.PROT_READ | host_mmap.PROT_WRITE
        )

    def places_of(self, vaddrs: U64Array) -> tuple[npt.NDArray[np.int64], U64Array]:
        """Return the places of stores in the files: in the guest's, by its page table."""
        shadows, places = super().places_of(vaddrs)
        shift = np.uint64(self.survey.page_shift)
        guest = np.flatnonzero(shadows == _GUEST)
        at = np.searchsorted(self._pages, vaddrs[guest] >> shift)
        places[guest] = self._pgoffs[at] << shift | vaddrs[guest] & np.uint64(self.page_size - 1)
        return shadows, places

    @property
    def accounted(self) -> bool:
        """Whether the guest's file is written back at all; bytes in RAM only are gone after any power cut."""
        found = [vma.mapping for vma in self.process.vmas if vma.mapping is not None and vma.flags & VM_SHARED]
        return any(each.account_dirty for each in found if each.host.name.endswith(FILE_NAME))

    def _maybe_sync(self, _position: int) -> None:
        self._nr_windows += 1
        if self._nr_windows in self._sync_at:
            self.machine.sync()

    def msync_all(self) -> None:
        """Sync all that is mapped of the guest's file; it returns success, or raises."""
        for start, end in self._guest_ranges():
            self.process.msync(start, end - start)

    def _guest_ranges(self) -> list[tuple[int, int]]:
        everything = self.space.within(0, 1 << 64)
        return [(start, end) for start, end, _sort, shared in everything if shared == _GUEST]

    def promised_pages(self) -> set[int]:
        """Return the pages of the guest's file that are mapped: what was unmapped before is no business of msync's."""
        found: set[int] = set()
        for start, end in self._guest_ranges():
            low, high = np.searchsorted(self._pages, [start >> self.survey.page_shift, end >> self.survey.page_shift])
            found |= set(self._pgoffs[low:high].tolist())
        return found


def price(
    lab: Lab, trace: Trace, survey: Survey, *, anonymous: bool = False, writebacks: int, advance: Callable[[int], None]
) -> StrategyRow:
    """Replay a trace as a guest's under the lab's reverse map, cut the power, and return what it paid."""
    began_s = time.perf_counter()
    lab.boot(ram=ram_for(survey), huge_pages=False)
    with lab.new_file(FILE_NAME) as path:
        player = RewiredPlayer(lab, trace, survey, path, anonymous=anonymous, writebacks=writebacks)
        try:
            player.play(advance)
            row = _cut_power(lab, player)
        finally:
            player.close()
    row.seconds = round(time.perf_counter() - began_s, 3)
    return row


def _cut_power(lab: Lab, player: RewiredPlayer) -> StrategyRow:
    """Call msync, cut the power, compare the file with what was stored."""
    machine = lab.machine
    memory = measure_mapping(machine, player.process)
    player.msync_all()
    stat = machine.vmstat
    visits = stat.mkclean_pte_visits + stat.mkclean_node_visits
    if player.accounted:
        machine.power_off()
        lab.ground.crash()
    else:
        machine.shutdown()
    places = lab.ground.places(FILE_NAME)
    promised = player.promised_pages()
    wrong = [player.shadow.differing_pages(path, player.page_size) for path in places.values()]
    lost = [promised.intersection(pages) for pages in wrong]
    if any(each != lost[0] for each in lost):
        raise BrokenExpectation(f"{' and '.join(places)} differ in which pages are lost")
    return StrategyRow(
        rmap=lab.options.rmap,
        faults=stat.pgfault,
        mkclean_calls=stat.mkclean_calls,
        visits_per_mkclean=round(visits / stat.mkclean_calls, 2) if stat.mkclean_calls else 0.0,
        pte_visits=stat.mkclean_pte_visits,
        node_visits=stat.mkclean_node_visits,
        own_bytes=machine.kernel.rmap.cost.nbytes_peak,
        pte_bytes=memory.pte_bytes,
        nr_vmas=memory.nr_vmas,
        dirty_pages=player.shadow.nr_stored_pages(player.page_size),
        lost_pages=len(lost[0]),
    )
