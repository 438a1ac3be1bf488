"""The frame of the command: help, version, and errors of one line with the right exit code."""

import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import typer

from emu.cli import frame
from emu.cli.compare import _RMAPS
from emu.errors import KernelBug
from emu.lab.errors import LabError, Terminated
from emu.mm.rmap import STRATEGIES

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
        (["compare", "--rmap", "magic"], "dirty_index, all, linux"),
        (["compare", "--format", "vax"], "x86_64"),
        (["compare", "--caps", "floppy"], "Invalid value: --caps floppy: caps 'floppy' must start with a"),
        (["run", "shuffle", "--rmap", "nosuch"], "Invalid value: --rmap nosuch: "),
        (["compare", "--ram", "much"], "64M"),
        (["compare", "--ram", "1M"], "at least 128.0 MiB"),
        (["compare", "--pages", "999999999999"], "fewer --pages"),
        (["compare", "--seed", "-1"], "--seed"),
        (["compare", "--matrix", "--pages", "8"], "leave --pages"),
        (["compare", "--matrix", "--share", "0.5"], "leave --share out"),
        (["compare", "--all", "--matrix"], "leave --matrix out"),
        (["compare", "--max-pages", "2048"], "leave --max-pages out"),
        (["mount", "/s", "/m", "--override", "a"], "GLOB=CAPS"),
        (["run", "shuffle", "--seed", "-1"], "--seed"),
        (["mount", "/s", "/m", "--dirty-bytes", "lots"], "--dirty-bytes"),
        (["mount", "/s", "/m", "--dirty-bytes=-5"], "--dirty-bytes"),
        (["mount", "/s", "/m", "--dirty-bytes", "1"], "at least 8.0 KiB"),
        (["mount", "/s", "/m", "--expire", "nan"], "--expire"),
        (["mount", "/s", "/m", "--dirty-ratio", "5", "--background-ratio", "5"], "must lie below"),
        (["mount", "/s", "/m", "--background-ratio", "20"], "20 by default"),
        (["mount", "/s", "/m", "--dirty-ratio", "5", "--dirty-bytes", "1M"], "two ways"),
        (["mount", "/s", "/m", "--caps", "disk,max_ratio=5", "--max-ratio", "6"], "max_ratio=5"),
        (["mount", "/s", "/m", "--kernel-max-ratio", "500"], "--kernel-max-ratio"),
        (["record", "/m", "--seconds", "-1"], "--seconds"),
        (["record"], "give a MOUNTPOINT, or -- COMMAND"),
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
        (["replay", "no_such_trace"], "sqlite3"),
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
        (
            OSError(28, "No space left on device", "out/samples.csv"),
            1,
            "fremap: out/samples.csv: No space left on device; make room there, or write elsewhere\n",
        ),
        (KernelBug("pfn=7"), 70, f"fremap: the emulated kernel broke an invariant: pfn=7 {WHERE}\n"),
        (ZeroDivisionError("oh"), 70, f"fremap: a bug in fremap: ZeroDivisionError: oh {WHERE}\n"),
        (KeyboardInterrupt(), 130, "fremap: interrupted; cleaned up\n"),
        (Terminated(15), 143, "fremap: ended by SIGTERM; cleaned up\n"),
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


def test_help_lists_every_reverse_map() -> None:
    assert set(_RMAPS) == set(STRATEGIES)


def test_what_a_signal_ends_is_cleaned_up_and_says_so(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "emu.cli", "compare", "--pages", "65536", "--report", str(tmp_path / "out")]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as child:
        until_s = time.monotonic() + 60
        while not list(tmp_path.glob("fremap-*/**/late_store.dat")) and time.monotonic() < until_s:
            time.sleep(0.05)
        child.terminate()
        assert child.stderr is not None
        assert child.stderr.read().endswith(b"fremap: ended by SIGTERM; cleaned up\n")
    assert child.returncode == 143
    assert not list(tmp_path.glob("fremap-*"))


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    program = [sys.executable, "-m", "emu.cli", "--help"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path.cwd()) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        complaint = child.stderr.read()
    assert complaint == b""
    assert child.returncode == 0


def test_an_interrupt_during_the_imports_is_one_line() -> None:
    script = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from emu.cli import main\n"
        "main(['tables'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "fremap: interrupted\n")
