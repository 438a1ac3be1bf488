"""What commands print for programs has a schema: names and types that may grow, but never change or vanish.

A program that reads one of them may rely on every name that is required here.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from emu.cli import frame
from fsbackend.mount import temporary_mount

AMOUNT = {"type": "integer", "minimum": 0}
RATE = {"type": "number", "minimum": 0}
TEXT = {"type": "string"}
MAYBE_AMOUNT = {"type": ["integer", "null"], "minimum": 0}
MAYBE_NUMBER = {"type": ["number", "null"]}


def required(**properties: object) -> dict[str, object]:
    """Return the schema of an object that has at least these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def rows_of(**properties: object) -> dict[str, object]:
    """Return the schema of a list of such objects that is not empty."""
    return {"type": "array", "minItems": 1, "items": required(**properties)}


COMPARE = required(
    version={"const": 1},
    runs=rows_of(
        rmap=TEXT, caps=TEXT, format=TEXT, pages=AMOUNT, dirty_pages=MAYBE_AMOUNT, lost_pages=MAYBE_AMOUNT,
        unaccounted_dirty_max=MAYBE_AMOUNT, mkclean_calls=MAYBE_AMOUNT, mkclean_pte_visits=MAYBE_AMOUNT,
        mkclean_node_visits=MAYBE_AMOUNT, rmap_bytes=MAYBE_AMOUNT, rmap_bytes_per_mapped_page=MAYBE_NUMBER,
        pte_bytes=MAYBE_AMOUNT, pte_upper_bytes=MAYBE_AMOUNT, remap_us_per_page=MAYBE_NUMBER, fault_us=MAYBE_NUMBER,
        nr_vmas=MAYBE_AMOUNT, seconds=MAYBE_NUMBER, error={"type": ["string", "null"]},
    ),
)  # fmt: skip

STATUS = rows_of(
    mountpoint=TEXT, store={"type": ["string", "null"]}, pid={"type": ["integer", "null"]}, log={"type": "string"},
    stale={"type": "boolean"}, caps=TEXT, dirty=AMOUNT, writeback=AMOUNT, limit=AMOUNT, bandwidth=AMOUNT,
)  # fmt: skip

WATCH = required(
    mountpoint=TEXT, store=TEXT, disk=TEXT, time_s=RATE, dirty=AMOUNT, writeback=AMOUNT, own_limit=AMOUNT,
    limit=AMOUNT, background=AMOUNT, dirtied=AMOUNT, written=AMOUNT, bandwidth=AMOUNT, rate_limit=AMOUNT,
    pauses=AMOUNT, paused_s=RATE, errors=AMOUNT, disk_read=AMOUNT, disk_written=AMOUNT, disk_busy_s=RATE,
    disk_reads=AMOUNT, disk_writes=AMOUNT, disk_queue_s=RATE, disk_in_flight=AMOUNT,
    kernel_dirty=AMOUNT, kernel_writeback=AMOUNT, setpoint=RATE,
    rates=required(
        dirtied=RATE, written=RATE, disk_read=RATE, disk_written=RATE, disk_busy=RATE, disk_reads=RATE,
        disk_writes=RATE, disk_queue=RATE, paused=RATE,
    ),
    requests={
        "type": "object",
        "additionalProperties": required(
            count=AMOUNT, per_s=RATE, mean_us=RATE, p50_us=RATE, p90_us=RATE, p99_us=RATE, max_us=RATE
        ),
    },
    flusher_file=TEXT, kernel_bdi={"type": "object", "additionalProperties": AMOUNT}, kernel_bdi_unreadable=TEXT,
    throttled={"type": "array", "items": required(tid=AMOUNT, comm=TEXT, paused_ms=AMOUNT)},
    paused_writers={"type": "array", "items": required(tid=AMOUNT, comm=TEXT, pauses=AMOUNT, paused_ms=RATE)},
)  # fmt: skip

LATE_STORE = required(
    nr_pages=AMOUNT, nr_dirty_pages=AMOUNT, nr_lost_pages=AMOUNT, accounted={"type": "boolean"},
    mkclean_calls=AMOUNT, rmap_bytes=AMOUNT, pte_bytes=AMOUNT, nr_vmas=AMOUNT,
)  # fmt: skip

MANIFEST = required(
    version={"const": 1}, name=TEXT, command={"type": "array", "items": TEXT}, started=TEXT, status=TEXT,
    seconds=MAYBE_NUMBER, seed=AMOUNT, config={"type": "object"},
    versions=required(python=TEXT, kernel=TEXT, fremap=TEXT, numpy=TEXT),
    machine=required(cpu=TEXT, cores=AMOUNT, ram_bytes=AMOUNT, system=TEXT),
)  # fmt: skip


def valid(told: Any, schema: dict[str, object]) -> None:
    jsonschema.Draft202012Validator(schema).validate(told)


def test_compare(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    options = ["--pages", "64", "--rmap", "none", "--rmap", "dirty_index", "--json", str(rows)]
    assert frame.run(["compare", *options, "--caps", "ramfs", "--report", str(tmp_path / "report")]) == 0
    valid(json.loads(rows.read_text()), COMPARE)
    valid(json.loads((tmp_path / "report" / "manifest.json").read_text()), MANIFEST)


def test_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--pages", "64", "--on", str(tmp_path), "--out", str(out), "--json"]
    assert frame.run(["run", "late_store", *options]) == 0
    valid(json.loads(capsys.readouterr().out), LATE_STORE)
    valid(json.loads((out / "manifest.json").read_text()), MANIFEST)
    counters = json.loads((out / "counters.json").read_text())
    valid(counters["vmstat"], required(nr_dirty=AMOUNT, nr_writeback=AMOUNT, pgfault=AMOUNT, pgmajfault=AMOUNT))
    valid(counters["rmap"], required(pte_visits=AMOUNT, node_visits=AMOUNT, nbytes=AMOUNT, nbytes_peak=AMOUNT))


@pytest.mark.fuse
def test_status_and_watch(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_mount("disk") as mounted:
        (Path(mounted.path) / "file").write_bytes(b"x" * 100_000)
        assert frame.run(["status", str(mounted.path), "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert frame.run(["watch", str(mounted.path), "--once", "--json"]) == 0
        watched = json.loads(capsys.readouterr().out)
    valid(status, STATUS)
    valid(watched, WATCH)
    assert status[0]["dirty"] == watched["dirty"] == 25 * 4096
    assert watched["requests"]["control"]["count"] > 0


def test_a_schema_finds_what_is_missing_or_of_another_type() -> None:
    row = {"rmap": "none", "caps": "disk"}
    with pytest.raises(jsonschema.ValidationError, match="'format' is a required property"):
        valid({"version": 1, "runs": [row]}, COMPARE)
    with pytest.raises(jsonschema.ValidationError, match="is not of type 'integer'"):
        valid({"a": "1"}, required(a=AMOUNT))


def test_what_a_workload_prints_does_not_mix_with_its_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of rows is an outcome, too."""
    file = tmp_path / "rows.py"
    file.write_text("def rows(lab):\n    print('busy')\n    return [{'a': 1}, {'a': 2.5}]\n")
    monkeypatch.chdir(tmp_path)
    assert frame.run(["run", str(file), "--on", str(tmp_path), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"rows": [{"a": 1}, {"a": 2.5}]}
    assert "busy" in err
    assert frame.run(["run", str(file), "--on", str(tmp_path)]) == 0
    assert "2.5" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("option", "code", "says"),
    [("--pages=999999999999", 1, "PiB|TiB, and"), ("--ram=1K", 2, "--ram 1.0 KiB is too little")],
)
def test_what_cannot_fit_is_refused_at_once(
    option: str, code: int, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert frame.run(["run", "shuffle", "--on", str(tmp_path), "--pages=64", option]) == code
    err = capfd.readouterr().err
    assert re.search(says, err), err
    assert err.count("\n") == 1


def test_a_dash_is_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert frame.run(["compare", "--matrix", "--rmap", "none", "--json", "-"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)
    assert "mkclean" in err
    assert not (tmp_path / "-").exists()
