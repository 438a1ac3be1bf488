"""fremap replay and fremap record without a mount, as a user meets them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emu.cli.frame import run
from emu.report.replay_page import replay_from_json

LACKEY = "==1== Lackey\n" + "".join(
    f"I  {0x400000 + 4 * number:08x},4\n S {0x10000000 + 640 * number:08x},8\n L 1fff{number:06x},4\n"
    for number in range(3000)
)


@pytest.fixture
def lackey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "on").mkdir()
    path = tmp_path / "lackey.txt"
    path.write_text(LACKEY)
    return path


def test_a_lackey_text_is_replayed_and_reported(lackey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(lackey), "--on", "on", "-o", "run", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["accesses"] == 9000
    assert printed["by_kind"] == {"instructions": 3000, "loads": 3000, "stores": 3000, "modifies": 0}
    pages = 3 + 3000 * 640 // 4096 + 1 + 1
    assert printed["pages_touched"] == printed["pages_mapped_on_demand"] == pages
    assert printed["faults"]["page faults"] == pages
    assert [row["rmap"] for row in printed["strategies"]] == ["none", "scan", "dirty_index"]
    assert [bool(row["lost_pages"]) for row in printed["strategies"]] == [True, False, False]
    kept = json.loads(Path("run/counters.json").read_text())
    assert kept["replay"] == printed
    assert kept["vmstat"]["pgfault"] >= pages
    assert replay_from_json(kept["replay"]).accesses == 9000
    assert not list(Path("on").iterdir())
    assert run(["report", "run"]) == 0
    page = Path("run/index.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert f"{pages:,}" in page
    assert "<td>dirty_index</td><td>0</td>" in page
    assert "mapped by no call of the trace" in page


def test_the_tables_say_it_in_words(lackey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(lackey), "--on", "on", "-o", "run", "--only", "--events"]) == 0
    assert run(["trace", "run", "--ftrace", "-o", "run/ftrace.txt"]) == 0
    assert Path("run/ftrace.txt").read_text().count("page_fault_user") == 473
    said = capsys.readouterr().out
    assert "lackey.txt: 9,000 accesses (3,000 instructions, 3,000 loads, 3,000 stores, 0 modifies) on x86_64" in said
    assert "page faults by memory" in said
    assert "working set: pages within 141 accesses" in said
    assert "ok 473 pages mapped by no call of the trace" in said
    assert "reverse map" not in said
    for line in said.splitlines()[1:]:
        assert len(line) <= 100


def test_a_trace_that_is_cut_short_is_replayed_and_says_so(lackey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lackey.write_text(LACKEY[:-10])
    assert run(["replay", str(lackey), "--on", "on", "-o", "run", "--only"]) == 0
    said = capsys.readouterr().out
    assert "8,999 accesses" in said
    assert "is cut short: this is what it has" in said


def test_converting_there_and_back(lackey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(lackey), "--convert", "a.ftr.xz"]) == 0
    assert run(["replay", "a.ftr.xz", "--convert", "b.txt"]) == 0
    lines = [line for line in Path("b.txt").read_text().splitlines(keepends=True) if not line.startswith("=fremap=")]
    assert "".join(lines) == LACKEY.partition("\n")[2]
    said = capsys.readouterr().err.replace("\n", " ")
    assert "a.ftr.xz: 9,000 accesses, 0 calls, fremap's form, compressed by xz" in said


def test_without_a_trace_the_bundled_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay"]) == 0
    said = capsys.readouterr().out
    for name in ("gzip", "sort", "sqlite3", "fremap record -o FILE -- COMMAND"):
        assert name in said


@pytest.mark.parametrize("option", [["--json"], ["--convert", "x.ftr"], ["--out", "run"]])
def test_options_without_a_trace_are_wrong_usage(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", *option]) == 2
    assert "name a file, or a trace of the list" in capsys.readouterr().err
    assert not Path(option[-1]).exists()


def test_ram_that_the_computer_cannot_give_is_named(lackey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(lackey), "--on", "on", "-o", "run", "--only", "--ram", "999T"]) == 1
    assert "this computer cannot give 999.0 TiB of RAM: ask for less" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "nosuch: no such trace; with fremap come gzip, sort, sqlite3"),
        ([""], "'': no such trace; with fremap come gzip, sort, sqlite3"),
        (["bad.txt"], "bad.txt, line 2: 'rubbish' is no access (I, L, S or M, then address,bytes)"),
        (["lackey.txt", "--format", "vax"], "--format vax"),
        (["lackey.txt", "--rmap", "vax"], "--rmap vax: no such strategy"),
        (["lackey.txt", "--ram", "1K"], "--ram 1.0 KiB is too little for x86_64: give at least 128.0 KiB"),
        (["lackey.txt", "--on", "missing"], "--on missing: no such directory"),
        (["lackey.txt", "--convert", "missing/x.ftr"], "no directory missing to write x.ftr into: make it first"),
        (["gzip", "--format", "arm64_64k"], "choose another --format, or --anonymous"),
        (["lackey.txt", "-o", "held"], "held holds a run already"),
    ],
)
def test_what_cannot_be_is_one_line(
    lackey: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    lackey.with_name("bad.txt").write_text("I  00400000,4\nrubbish\n")
    lackey.with_name("held").mkdir()
    lackey.with_name("held").joinpath("manifest.json").write_text("{}")
    given = arguments if "--on" in arguments else [*arguments, "--on", "on"]
    assert run(["replay", *given]) == (2 if {"vax", "1K", "missing/x.ftr"} & set(arguments) else 1)
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.fuse
def test_a_program_is_replayed_on_a_mount(lackey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del lackey
    assert run(["replay", "gzip", "--rmap", "none", "--rmap", "dirty_index", "-o", "run"]) == 0
    said = capsys.readouterr().out
    assert "ok none: msync returned success and lost" in said
    assert "ok 1 reverse map kept every byte that was stored" in said
    rows = json.loads(Path("run/counters.json").read_text())["replay"]["strategies"]
    assert [row["error"] for row in rows] == [None, None]
    assert rows[0]["lost_pages"] > 0
    assert rows[1]["lost_pages"] == 0


@pytest.mark.valgrind
def test_record_without_a_mount_traces_memory(tmp_path: Path) -> None:
    target = tmp_path / "t.ftr"
    done = subprocess.run(
        [sys.executable, "-m", "emu.cli", "record", "-o", str(target), "--", "sh", "-c", "echo hello; exit 3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert f"calls in {target}" in done.stderr.replace("\n", " ")
    assert target.read_bytes().startswith(b"FREMAP-TRACE")


@pytest.mark.valgrind
def test_ctrl_c_ends_the_program_and_keeps_the_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "t.ftr"
    command = [sys.executable, "-m", "emu.cli", "record", "-o", str(target), "--", "sh", "-c", "echo on; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as recorder:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == b"on\n"
        recorder.send_signal(signal.SIGINT)
        recorder.wait(timeout=60)
    assert recorder.returncode == 128 + signal.SIGTERM
    assert run(["replay", str(target), "--convert", str(tmp_path / "t.txt.gz")]) == 0
    said = capsys.readouterr().err
    assert "calls, lackey's text" in said
    assert "cut short" not in said


def test_record_knows_a_mount_from_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in ([], ["--"], ["-o", "x", "--"]):
        assert run(["record", *arguments]) == 2
        assert "give a MOUNTPOINT, or -- COMMAND" in capsys.readouterr().err
    assert run(["record", str(tmp_path), "-o", str(tmp_path / "t"), "--", "true"]) == 1
    assert "is no mount of fremap" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["record", "-o", str(tmp_path / "t"), "--interval", "0.5", "--", sys.executable]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fremap: valgrind is not installed: install it (Debian and Ubuntu: apt-get install valgrind")
    assert said.count("\n") == 1
