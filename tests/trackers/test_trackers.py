"""The trackers of this kernel report the pages stored to, on every memory, and what is not there is said in a line."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from emu.cli import frame
from emu.cli.trackers import _TRACKERS
from emu.lab.progress import NoProgress
from emu.trackers import measure as measuring
from emu.trackers.base import Tracker
from emu.trackers.emulated import measure_dirty_index
from emu.trackers.kernel_memory import KernelMemory, kernel_memory
from emu.trackers.libc import PAGE_SIZE, Unavailable
from emu.trackers.measure import TRACKERS, MeasureOrder, measure, what_is_wrong
from emu.trackers.region import MEMORIES, Pages, Region, filesystem_of
from emu.trackers.rows import EMULATED, FAILED, OK, UNAVAILABLE, WRONG, TrackerRow
from emu.trackers.run import _read_line, _WorkerDiedError, run_trackers
from emu.trackers.segv import MprotectSegv

ORDER = MeasureOrder(pages=512, dirty=100, rounds=2)


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], TrackerRow]:
    """Measure all of them in one process of their own, as the command does."""
    todo = [(name, memory) for memory in MEMORIES for name in TRACKERS]
    return {(row.tracker, row.memory): row for row in run_trackers(todo, ORDER, NoProgress())}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("name", TRACKERS)
def test_right_or_not_there(rows: dict[tuple[str, str], TrackerRow], name: str, memory: str) -> None:
    row = rows[name, memory]
    if row.status == UNAVAILABLE:
        assert row.reason
        assert row.us is None
        pytest.skip(f"{name} on {memory}: {row.reason}")
    assert row.status == OK, row.reason
    assert row.us is not None
    assert row.us > 0
    assert row.user_bytes is not None


def test_mprotect_works_everywhere_and_pays_in_vmas(rows: dict[tuple[str, str], TrackerRow]) -> None:
    for memory in MEMORIES:
        row = rows["mprotect", memory]
        assert row.nr_vmas is not None
        # Up to two VMAs more for each page that lies alone.
        assert ORDER.dirty < row.nr_vmas <= 2 * ORDER.dirty
        assert row.user_bytes == 8 * ORDER.dirty


def test_userfaultfd_makes_no_vmas(rows: dict[tuple[str, str], TrackerRow]) -> None:
    for (name, _memory), row in rows.items():
        if name != "mprotect" and row.status == OK:
            assert row.nr_vmas == 0
            assert row.kernel_bytes is not None
            assert row.kernel_bytes < 100 * ORDER.dirty


def test_dirty_index_knows_the_same_pages() -> None:
    row = measure_dirty_index(ORDER)
    assert (row.status, row.clock, row.reason) == (OK, EMULATED, None)
    assert row.us is None
    assert row.bytes_a_page is not None
    # The index is a hash of 16 or 24 bytes an entry, which doubles.
    assert 12 <= row.bytes_a_page <= 48
    assert row.visits is not None
    assert 1 <= row.visits <= 4


class _Forgetful(Tracker):
    """A tracker that is wrong on purpose."""

    name = "forgetful"
    title = "reports what it likes"

    told: Pages = np.arange(3)

    def attach(self) -> None:
        pass

    def arm(self) -> None:
        pass

    def collect(self) -> Pages:
        return self.told

    def detach(self) -> None:
        pass


def test_a_wrong_tracker_is_an_error_not_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "forgetful", _Forgetful)
    row = measure("forgetful", "anonymous", ORDER)
    assert row.status == WRONG
    assert row.reason is not None
    assert "not reported" in row.reason
    assert row.us is None


def test_a_tracker_that_sees_too_much_is_wrong_too() -> None:
    stored = np.array([5, 3])
    assert what_is_wrong(np.array([3, 5]), stored) is None
    assert "reported that nobody stored to, such as page 9" in str(what_is_wrong(np.array([3, 5, 9]), stored))
    assert "1 of 2 dirtied pages not reported, such as page 5" in str(what_is_wrong(np.array([3]), stored))
    assert "twice" in str(what_is_wrong(np.array([3, 5, 5]), stored))


def test_the_limit_of_vmas_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real limit would take some 30,000 faults; what the handler leaves then is put there by hand.
    class Refused(MprotectSegv):
        def collect(self) -> Pages:
            self._log[1] = 1
            return super().collect()

    monkeypatch.setitem(TRACKERS, "mprotect", Refused)
    row = measure("mprotect", "anonymous", ORDER)
    assert row.status == FAILED
    assert "vm.max_map_count" in str(row.reason)
    with Region("anonymous", 4) as region:
        # The old handler of SIGSEGV and the protection are as before.
        region.store(np.arange(4), 9)


def test_a_process_that_dies_costs_its_row_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The worker of this test imports a package that kills it in the middle of a row.
    (tmp_path / "sitecustomize.py").write_text(
        "import emu.trackers.pagemap as p, os, signal\n"
        "p.SoftDirty.attach = lambda self: os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(measuring.__file__).parents[2]}")
    todo = [("soft_dirty", "anonymous"), ("mprotect", "anonymous")]
    dead, alive = run_trackers(todo, ORDER, NoProgress())
    assert (dead.status, dead.reason) == (FAILED, "its process died: ended by SIGSEGV")
    assert alive.status == OK


def test_rows_that_come_together_are_told_apart() -> None:
    # As they do where the reader waits for a processor.
    with subprocess.Popen(["printf", r"one\ntwo\nthr"], stdout=subprocess.PIPE) as worker:
        worker.wait()
        pending = bytearray()
        until_s = time.monotonic() + 10
        assert [_read_line(worker, until_s, pending) for _ in range(2)] == [b"one", b"two"]
        with pytest.raises(_WorkerDiedError, match="exit code 0"):
            _read_line(worker, until_s, pending)


def test_a_row_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import emu.trackers.pagemap as p, signal\np.SoftDirty.attach = lambda self: signal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(measuring.__file__).parents[2]}")
    (row,) = run_trackers([("soft_dirty", "anonymous")], ORDER, NoProgress(), timeout_s=1.0)
    assert row.status == FAILED
    assert "killed" in str(row.reason)


def test_no_userfaultfd_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(1, "userfaultfd: Operation not permitted")

    monkeypatch.setattr("emu.trackers.libc.userfaultfd", refuse)
    row = measure("pagemap_scan", "anonymous", ORDER)
    assert row.status == UNAVAILABLE
    assert "Operation not permitted" in str(row.reason)


def test_kernel_memory_counts_the_range_alone() -> None:
    with Region("anonymous", 16) as region:
        before = kernel_memory(region.vaddr, region.nbytes)
        assert before.nr_vmas == 1
        assert KernelMemory(8192, 1).added_since(KernelMemory(4096, 1)) == 4096


def test_unknown_memory_and_filesystem(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no memory"):
        Region("moon", 4)
    assert filesystem_of(tmp_path) not in {"", "?"}
    assert filesystem_of(Path("/proc")) == "proc"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "rows.json", tmp_path / "report"
    arguments = ["trackers", "--pages", "256", "--memory", "anonymous", "--tracker", "mprotect", "--tracker",
                 "dirty_index", "--rounds", "1", "--json", str(out), "--report", str(report)]  # fmt: skip
    assert frame.run(arguments) == 0
    shown = capsys.readouterr().out
    assert "256 pages mapped, 25 of them stored to" in shown
    assert "ok 2 rows report exactly the pages stored to" in shown
    records = json.loads(out.read_text())
    assert [row["status"] for row in records["rows"]] == [OK, OK]
    assert records["rows"][0]["us"] > 0
    assert records["rows"][1]["us"] is None
    page = (report / "index.html").read_text()
    assert "data:image/png" in page
    assert "mprotect" in page
    assert (report / "trackers.png").stat().st_size > 1000
    assert json.loads((report / "counters.json").read_text()) == records
    assert PAGE_SIZE


def test_help_names_every_tracker() -> None:
    assert (*TRACKERS, "dirty_index") == _TRACKERS


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--tracker", "nonsense"], "--tracker nonsense: there are mprotect,"),
        (["--memory", "nonsense"], "--memory nonsense: there are anonymous,"),
        (["--pages", "10", "--dirty", "11"], "--dirty 11 is more than --pages 10"),
        (["--pages", "1000000000000"], "of memory"),
    ],
)
def test_wrong_usage(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["trackers", *arguments]) == 2
    assert line in capsys.readouterr().err
