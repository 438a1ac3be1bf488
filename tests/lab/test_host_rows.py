"""The kernel underneath in a comparison, and under the workloads: fremap compare --rmap linux, fremap run --host."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emu.cli.experiments import CompareOrder, every_or, run_matrix
from emu.cli.workload_run import run_workload
from emu.host import HostProcess
from emu.host_machine import HostMachine
from emu.lab import host_late_store as room
from emu.lab.compare import combinations, run_all
from emu.lab.errors import BrokenExpectation, LabError
from emu.lab.ground import Ground, fuse_ground, plain_ground
from emu.lab.host_lab import HostLab, host_format, without_unknowns
from emu.lab.host_late_store import host_late_store
from emu.lab.lab import Lab, LabOptions
from emu.lab.rows import Row, as_json
from emu.lab.verify import read_by_ordinary_process
from emu.lab.workload import load_workload
from emu.report.table import verdicts


def open_plain(_caps: str) -> AbstractContextManager[Ground]:
    return plain_ground()


def test_a_row_of_this_kernel_has_the_same_fields_and_none_where_it_cannot_know() -> None:
    rows = run_all(combinations(["linux", "dirty_index"], ["disk"], [host_format()]), 256, open_plain)
    emulated, host = rows
    assert (host.rmap, host.error, host.note) == ("linux", None, None)
    assert (host.lost_pages, host.dirty_pages) == (0, 26)
    # Every page but those that happen to continue their neighbour is a mapping of its own.
    assert host.nr_vmas is not None
    assert 240 <= host.nr_vmas <= 256
    assert host.mkclean_calls is host.rmap_bytes is host.unaccounted_dirty_max is host.pte_upper_bytes is None
    assert host.pte_bytes
    assert host.remap_us_per_page
    assert not host.broken
    assert list(as_json([host])["runs"][0]) == list(as_json([emulated])["runs"][0])
    assert as_json([replace(host, note="told")])["runs"][0]["note"] == "told"


def test_one_row_for_each_capability_whatever_the_formats() -> None:
    rows = combinations(["linux", "none"], ["disk", "ramfs"], ["i386", "sv39"])
    host = [row for row in rows if row.rmap == "linux"]
    assert [(row.caps, row.format) for row in host] == [("disk", host_format()), ("ramfs", host_format())]
    assert len(rows) == 6


def test_where_mappings_run_out_there_is_a_row_and_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = HostProcess.remap_in_turn

    def some(self: HostProcess, vaddrs: object, pgoffs: object, *more: int) -> tuple[int, float, int]:
        done, seconds, _failed = real(self, vaddrs[:40], pgoffs[:40], *more)  # type: ignore[index]
        return done, seconds, 12

    monkeypatch.setattr(HostProcess, "remap_in_turn", some)
    (row,) = run_all(combinations(["linux"], ["disk"], []), 64, open_plain, share=1.0)
    assert row.error is None
    assert row.dirty_pages == 40
    assert row.note is not None
    assert "40 of 64 pages were remapped, then remap_file_pages failed with ENOMEM" in row.note
    assert (True, f"linux on disk: {row.note}") in verdicts([row])


@pytest.mark.slow
def test_it_ends_where_the_kernel_says() -> None:
    (row,) = run_all(combinations(["linux"], ["disk"], []), room.max_map_count() + 100, open_plain, share=0.01)
    assert row.error is None
    assert row.note is not None
    assert row.lost_pages == 0


def test_a_page_that_nobody_stored_to_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(paths: list[Path], *_more: object) -> object:
        with paths[0].open("r+b") as file:
            file.write(b"spoiled!" * 512)
        return real(paths, *_more)  # type: ignore[arg-type]

    real = read_by_ordinary_process
    monkeypatch.setattr(room, "read_by_ordinary_process", spoiled)
    with plain_ground() as ground, Lab(ground, LabOptions(seed=1)) as lab, pytest.raises(BrokenExpectation):
        host_late_store(lab, 64, 0.1)


@pytest.mark.fuse
def test_on_a_mount_the_daemon_is_killed_and_nothing_is_lost() -> None:
    with fuse_ground("disk") as ground, Lab(ground, LabOptions()) as lab:
        found = host_late_store(lab, 64, 0.5)
    assert (found.nr_lost_pages, found.nr_dirty_pages, found.nr_remapped) == (0, 32, 64)


def test_counts_that_cannot_be_are_refused() -> None:
    with plain_ground() as ground, Lab(ground, LabOptions()) as lab, pytest.raises(LabError, match="at least 2 pages"):
        host_late_store(lab, 1)


def test_what_a_real_kernel_does_not_tell_comes_out_as_none() -> None:
    with HostMachine(max_map_count=5) as machine:
        process = machine.spawn(privileged=False)
        counters = machine.vmstat
        process.mmap(-1, process.page_size)[0] = 1
        visits = counters.mkclean_pte_visits + counters.mkclean_node_visits
        outcome: dict[str, Any] = {"visits": visits, "faults": counters.pgfault}
        outcome |= {"snapshot": counters.snapshot()["nr_dirty"], "rows": (round(machine.kernel.lru.nr[2], 1), "text")}
        machine.sync()
        machine.power_off()
    assert machine.vmstat.pgfault >= outcome["faults"] > 0
    assert without_unknowns(outcome) == {
        "visits": None, "faults": outcome["faults"], "snapshot": None, "rows": [None, "text"],
    }  # fmt: skip
    assert [note.split(":")[0] for note in machine.notes] == ["max_map_count", "privileged=False", "power_off()"]
    with pytest.raises(OSError, match="off"):
        machine.spawn()
    with pytest.raises(OSError, match="drop_caches has no meaning on the host"):
        machine.drop_caches()


def test_one_lab_one_host() -> None:
    with plain_ground() as ground, HostLab(ground, LabOptions()) as lab:
        with pytest.raises(LabError, match="must boot"):
            _ = lab.machine
        assert lab.counters() == {}
        assert lab.boot() is lab.machine
        with pytest.raises(LabError, match="booted already"):
            lab.boot()
        assert "pgfault" in lab.counters()["host"]


def fremap(*args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "emu.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("late_store", {"pages": 64}),
        ("shuffle", {"pages": 128, "writes": 0.1}),
        ("rewire", {"blocks": 8, "block_pages": 2, "swaps": 4}),
        ("reverse", {"pages": 64}),
        ("uml", {"guests": 2, "memory_pages": 64, "space_pages": 32, "rounds": 2}),
        ("adversary", {"pages": 64}),
        ("buffer_pool", {"pool_gib": 0.01, "window_mib": 1, "accesses": 200, "hot_pages": 300}),
    ],
)
def test_a_bundled_workload_runs_on_the_host(name: str, values: dict[str, float]) -> None:
    with plain_ground() as ground, HostLab(ground, LabOptions()) as lab:
        outcome = without_unknowns(load_workload(name).function(lab, **values))
        assert outcome
        json.dumps(outcome, allow_nan=False)


def test_fremap_run_host(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = fremap("run", "window", "--host", "--json", "--on", str(tmp_path), "--out", str(out), "--pool", "64",
                  "--window", "8", "--accesses", "200")  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["pages_with_lost_updates"] == 0
    assert outcome["mkclean_calls"] is None
    kept = json.loads((out / "counters.json").read_text())
    assert kept["outcome"] == outcome
    assert kept["host"]["pgfault"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_has_no_meaning_there_is_told_in_a_line(tmp_path: Path) -> None:
    done = fremap("run", "reverse", "--host", "--rmap", "scan", "--pages", "16", "--on", str(tmp_path), "--out",
                  str(tmp_path / "run"))  # fmt: skip
    assert done.returncode == 0
    told = [line for line in done.stderr.splitlines() if line.startswith("fremap: ")]
    assert told == [
        "fremap: --rmap has no meaning with --host: this kernel and its memory are what they are",
        "fremap: on the host: max_map_count: the machine is the computer as it is",
    ]


def test_what_cannot_be_is_refused_in_a_line(tmp_path: Path) -> None:
    workload = load_workload("reverse")
    values = {"rmap": "scan", "format": "x86_64", "ram": None, "caps": "disk", "seed": 0, "events": True, "host": True}
    with pytest.raises(LabError, match="no --events"):
        run_workload(workload, {}, values | {"proc": False, "on": tmp_path, "out": tmp_path / "run", "json": False})
    order = CompareOrder(64, ("linux",), ("disk",), ("x86_64",), 0.1, 0, None, require_fuse=False)
    with pytest.raises(LabError, match="leave it out"):
        run_matrix(order, None, tmp_path / "run")
    assert every_or(["all", "linux"], (), ["none", "scan"]) == ("none", "scan", "linux")
    assert not list(tmp_path.iterdir())


def test_a_row_with_a_note_is_a_row() -> None:
    row = Row(rmap="linux", caps="disk", format="x86_64", pages=4, dirty_pages=1, lost_pages=0, note="as told")
    assert row.expected_lost == 0
    assert not row.broken
