"""Paths that scripts really give: empty ones, brackets, bytes that are no UTF-8, a directory that is gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from emu.cli import frame
from emu.cli.outcome import show_outcome
from emu.cli.show import print_marked, say
from emu.lab.activity import Activity
from emu.lab.observe import Sample
from emu.report.live import MountView, gauge, mount_panel
from emu.report.save import save_page

NO_UTF8 = os.fsdecode(b"b\xff")


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--report", ""],
        ["compare", "--json", ""],
        ["trackers", "--report", ""],
        ["run", "window", "--out", ""],
        ["run", "window", "--on", ""],
        ["replay", "gzip", "--out", ""],
        ["replay", "gzip", "--on", ""],
        ["replay", "gzip", "--convert", ""],
        ["report", ""],
        ["report", "x", "--out", ""],
        ["trace", ""],
        ["trace", "x", "--out", ""],
        ["status", ""],
        ["watch", "", "--once"],
        ["record", ""],
        ["record", "x", "--out", ""],
        ["mount", "", "x"],
        ["mount", "x", "x", "--log", ""],
        ["power-cut", "x", "--at", ""],
        ["power-cut", "x", "--survive", ""],
    ],
)
def test_an_empty_value_is_not_the_current_directory(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert frame.run(arguments) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert "is empty: give" in told.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "says"),
    [("/proc", "is a directory: give a file"), ("nowhere/rows.json", "no directory nowhere to write rows.json into")],
)
@pytest.mark.parametrize("option", [["compare", "--json"], ["replay", "gzip", "--convert"], ["trace", "x", "--out"]])
def test_a_file_that_cannot_be_made_is_refused_before_the_work(
    option: list[str], path: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert frame.run([*option, path]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_brackets_are_the_users_own_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    say("records: a[/b]")
    print_marked(Console(highlight=False), "[green]ok[/]", "a[/b] [red]")
    show_outcome({"what": "a[/b]", "rows": [{"what": "c[/d]"}]}, as_json=False, title="e[/f]")
    sample = Sample.from_mapping(dict.fromkeys(Sample.__dataclass_fields__, 0))
    activity = Activity(0.0, "dir/[/g]", (), {}, {})
    view = MountView("h[/i]", "j[/k]", "", sample, sample, activity, {}, (), {}, "")
    Console(width=100, markup=False).print(mount_panel(view))
    told = capsys.readouterr()
    assert told.err == "records: a[/b]\n"
    assert "ok a[/b] [red]\n" in told.out
    for text in ("a[/b]", "c[/d]", "e[/f]", "writes dir/[/g]", "h[/i]  <-  j[/k]"):
        assert text in told.out


def test_the_bar_says_without_colours_what_it_says_with_them() -> None:
    assert gauge(10, 10, 15, 30, 40).plain == "##########wwwwwbwwww..........s........."


def test_a_table_is_whole_where_nobody_has_that_width(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{f"a long heading {number}": "123456789" for number in range(12)}]
    show_outcome({"rows": rows}, as_json=False, title="wide")
    told = capsys.readouterr().out
    assert told.count("123456789") == 12
    assert "…" not in told


def test_a_page_takes_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    save_page(tmp_path / "index.html", f"<p>{NO_UTF8}</p>")
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "<p>b\\udcff</p>"


def _fremap(arguments: str, *, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[bytes]:
    line = f"exec {sys.executable} -m emu.cli {arguments}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd()), **more}
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=False, env=environment, cwd=cwd)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", b"b\xff: no such trace"), ("latin-1", b"b\\udcff: no such trace")]
)
def test_a_path_is_printed_whatever_the_terminal_takes(encoding: str, shown: bytes) -> None:
    done = _fremap("replay \"$(printf 'b\\377')\"", PYTHONIOENCODING=f"{encoding}:strict", PYTHONUTF8="1")
    assert done.returncode == 1
    assert shown in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_bug(closed: str) -> None:
    done = _fremap(f"tables {closed}")
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_directory_that_is_gone_is_said(tmp_path: Path) -> None:
    line = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m emu.cli mount store mnt"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, check=False, env=environment, cwd=tmp_path, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "fremap: No such file or directory; the current directory was removed: go to another one (cd)\n"
    )
