"""The frame of the command: help, version, and errors of one line with the right exit code."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer

from emu.cli import frame
from emu.errors import KernelBug
from emu.lab.errors import LabError

WHERE = "(FREMAP_TRACEBACK=1 shows where)"


def fremap(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "100", **more}
    return subprocess.run(
        [sys.executable, "-m", "emu.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )


def test_version() -> None:
    result = fremap("--version")
    assert (result.returncode, result.stdout) == (0, f"fremap {metadata.version('fremap')}\n")


def test_help_without_arguments_and_for_each_subcommand() -> None:
    result = fremap()
    assert result.returncode == 0
    for word in ("compare", "run", "mount", "umount", "status"):
        assert re.search(rf"\b{word}\b", result.stdout)
    assert fremap("compare", "--help").returncode == 0
    result = fremap("run")
    assert (result.returncode, result.stderr) == (0, "")
    for word in ("late_store", "shuffle", "window"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command"),
        (["--nonsense"], "No such option"),
        (["compare", "--pages", "1"], "--pages"),
        (["compare", "--pages", "many"], "--pages"),
        (["compare", "--share", "2"], "share"),
        (["compare", "--ram", "much"], "64M"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    result = fremap(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("fremap: ")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "--rmap", "magic"], "dirty_index"),
        (["compare", "--format", "vax"], "x86_64"),
        (["compare", "--caps", "floppy"], "ramfs"),
        (["run", "no_such_workload"], "late_store"),
    ],
)
def test_what_does_not_exist_is_one_line_that_names_what_does(arguments: list[str], says: str) -> None:
    result = fremap(*arguments)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LabError("the words"), 1, "fremap: the words\n"),
        (FileNotFoundError(2, "No such file or directory", "/no"), 1, "fremap: /no: No such file or directory\n"),
        (OSError("only words"), 1, "fremap: only words\n"),
        (KernelBug("pfn=7"), 70, f"fremap: the emulated kernel broke an invariant: pfn=7 {WHERE}\n"),
        (ZeroDivisionError("oh"), 70, f"fremap: a bug in fremap: ZeroDivisionError: oh {WHERE}\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_is_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.callback()
    def _nothing() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(frame, "app", app)
    assert frame.run(["fail"]) == code
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


def test_the_exit_code_of_a_command_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(lambda: 3)
    monkeypatch.setattr(frame, "app", app)
    with pytest.raises(SystemExit) as stop:
        frame.main(["--"])
    assert stop.value.code == 3


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    program = [sys.executable, "-m", "emu.cli", "--help"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path.cwd()) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        complaint = child.stderr.read()
    assert b"Traceback" not in complaint
