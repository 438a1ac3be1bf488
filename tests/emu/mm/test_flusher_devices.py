"""The flusher and several devices: each has its part of the limit; one that is over it is written, and it alone."""

from pathlib import Path

from emu.check import check
from emu.machine import Machine
from emu.mapping import Mapping
from emu.mm.page_writeback import global_dirty_limits
from emu.mm_types.clock import VirtualClock
from emu.process import Process
from fsbackend.throttle import DirtyParams
from tests.emu.mm.helpers import PAGE, settle, virtual_machine

NR_PAGES = 600


def device(process: Process, directory: Path, caps: str) -> Mapping:
    """Map a file of its own device: what differs in its capabilities is another one."""
    path = directory / caps
    path.write_bytes(bytes(NR_PAGES * PAGE))
    process.kernel.options.plain_caps = caps
    return process.mmap(str(path), 0)


def store(mapping: Mapping, count: int) -> None:
    for page in range(count):
        mapping[page * PAGE] = 1


def nr_dirty(machine: Machine) -> list[int]:
    return [bdi.nr_dirty for bdi in machine.kernel.bdis.values()]


def boot(**options: object) -> tuple[Machine, VirtualClock, Process]:
    machine, clock = virtual_machine(ram="16M", **options)
    return machine, clock, machine.spawn()


def test_a_strict_device_is_written_when_its_own_part_is_full(tmp_path: Path) -> None:
    machine, clock, process = boot()
    disk = device(process, tmp_path, "disk")
    strict = device(process, tmp_path, "strict")
    store(disk, 20)
    begin_s = clock.now()
    store(strict, NR_PAGES)
    assert clock.now() - begin_s < 5, "paused until the pages expired"
    assert machine.vmstat.nr_throttled
    assert nr_dirty(machine)[0] == 20, "a device that is not over was written"
    assert nr_dirty(machine)[1] < 100
    check(machine)
    machine.shutdown()


def test_what_nobody_waits_for_is_written_at_the_next_turn(tmp_path: Path) -> None:
    machine, clock, process = boot(params=DirtyParams(periodic_s=5.0, expire_s=1000.0))
    strict = device(process, tmp_path, "strict")
    store(strict, 7)
    machine.kernel.bdis[next(iter(machine.kernel.bdis))].max_ratio = 0
    clock.advance(5.0)
    settle(machine)
    assert nr_dirty(machine) == [0]
    machine.shutdown()


def test_above_the_limit_of_all_every_device_is_written(tmp_path: Path) -> None:
    machine, _, process = boot(params=DirtyParams(background_bytes=100 * PAGE, dirty_bytes=1000 * PAGE))
    first = device(process, tmp_path, "disk")
    second = device(process, tmp_path, "disk,stable_writes")
    store(first, 90)
    store(second, 60)
    assert nr_dirty(machine)[0] == 0
    machine.shutdown()


def test_the_limit_is_divided_by_what_devices_write(tmp_path: Path) -> None:
    machine, clock, process = boot(params=DirtyParams(background_bytes=400 * PAGE, dirty_bytes=800 * PAGE))
    mappings = [device(process, tmp_path, caps) for caps in ("disk", "disk,stable_writes")]
    fast, slow = machine.kernel.bdis.values()
    for bdi, rate in ((fast, 300.0), (slow, 100.0)):
        bdi.throttle.write_bandwidth = bdi.throttle.avg_write_bandwidth = rate
    store(mappings[1], 1)
    wait(machine, clock)
    assert (fast.share, slow.share) == (0.75, 1.0), "an idle device takes nothing from one that writes"
    store(mappings[0], 1)
    wait(machine, clock)
    assert (fast.share, slow.share) == (0.75, 0.25)
    assert slow.thresholds(global_dirty_limits(machine.kernel)) == (100, 200)
    store(mappings[1], 150)
    wait(machine, clock)
    assert nr_dirty(machine) == [1, 0], "over its part of the background limit"
    machine.shutdown()


def test_dirty_pages_below_the_limit_are_no_word_on_the_device(tmp_path: Path) -> None:
    machine, clock, process = boot(params=DirtyParams(background_bytes=400 * PAGE, dirty_bytes=800 * PAGE))
    mapping = device(process, tmp_path, "disk")
    [bdi] = machine.kernel.bdis.values()
    before = bdi.throttle.avg_write_bandwidth
    store(mapping, 1)
    for _ in range(4):
        wait(machine, clock)
    assert nr_dirty(machine) == [1]
    assert bdi.throttle.avg_write_bandwidth == before
    machine.shutdown()


def wait(machine: Machine, clock: VirtualClock) -> None:
    """Come to the flusher's next turn, before any page expires."""
    clock.advance(5.0)
    settle(machine)
