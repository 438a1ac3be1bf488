"""One writer under a dirty limit on real filesystems of loop devices: it holds, in the mount and in the kernel."""

import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from emu.lab.disk_writeback import Cell, Via, run_cell, watch_writer
from emu.lab.errors import LabError
from emu.lab.loopdisk import FILESYSTEMS, loop_disk, why_no_loop_disk
from emu.lab.observe import FIELDS, Sample, _disk_of
from emu.lab.record import read_samples
from emu.report.disk_page import cells_of, write_disk_page
from emu.report.disk_pictures import TOLERANCE
from emu.units import MIB

pytestmark = [pytest.mark.disk, pytest.mark.fuse]


def loop_devices_of(place: Path) -> list[str]:
    listed = subprocess.run(["losetup", "--list", "--noheadings"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(place) in line]


def mounts_under(place: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(place) in line]


def limits_of_loop_devices() -> dict[str, str]:
    names = ("strict_limit", "max_ratio_fine")
    return {str(path): path.read_text() for name in names for path in Path("/sys/class/bdi").glob(f"7:*/{name}")}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "place"
    directory.mkdir()
    before = limits_of_loop_devices()
    yield directory
    assert limits_of_loop_devices() == before
    assert loop_devices_of(tmp_path) == []
    assert mounts_under(tmp_path) == []
    assert list(directory.iterdir()) == []


def needs(filesystem: str) -> None:
    reason = why_no_loop_disk(filesystem)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_the_limit_holds_in_the_mount_and_in_the_kernel(filesystem: str, place: Path, tmp_path: Path) -> None:
    needs(filesystem)
    vias: tuple[Via, ...] = ("fremap", "kernel")
    cells = [Cell(filesystem, via, 8 * MIB, 48 * MIB, log_every_ms=10) for via in vias]
    found = [run_cell(cell, tmp_path / cell.name, place) for cell in cells]
    for one in found:
        assert one.most_dirty <= one.cell.limit * TOLERANCE, one.row
        assert one.fsync_s
        # The limit is in force, not only far away.
        assert max(sample.own_limit for sample in one.samples) == pytest.approx(one.cell.limit, rel=0.05)
        assert one.row.disk_per_byte >= 1
        # What the page shows is what was recorded.
        kept = read_samples(tmp_path / one.cell.name)
        assert kept == one.samples
        assert one.row.most_mib == round(max(s.dirty + s.writeback for s in kept) / MIB, 2)
    throttled, _kernel = found
    assert throttled.row.paused_s is not None
    assert throttled.most_dirty > 2 * MIB, "the writer was to be faster than the disk"
    page = write_disk_page(found, tmp_path).read_text()
    for one in found:
        for cell in cells_of(asdict(one.row)):
            assert f"<td>{cell}</td>" in page
    assert page.count("data:image/png;base64,") == 3


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_the_disk_under_a_directory_is_found(filesystem: str, place: Path) -> None:
    needs(filesystem)
    with loop_disk(filesystem, 320 * MIB, place) as disk:
        (disk.directory / "store").mkdir()
        assert _disk_of(str(disk.directory / "store")) == Path(disk.device).name


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    needs("ext4")
    nothing = Sample.from_mapping(dict.fromkeys(FIELDS, 0))
    large = Cell("ext4", "kernel", 8 * MIB, 64 * MIB)
    with pytest.raises(LabError, match="No space left"), loop_disk("ext4", 16 * MIB, place) as disk:
        watch_writer(large, disk.directory, lambda: nothing, tmp_path / "records")


def test_what_cannot_be_made_is_said(place: Path) -> None:
    unknown = pytest.raises(LabError, match="no filesystem reiserfs; there are ext4, xfs, btrfs")
    with unknown, loop_disk("reiserfs", 64 * MIB, place):
        pass
    with pytest.raises(LabError, match="mkfs"), loop_disk("ext4", 4096, place):
        pass
