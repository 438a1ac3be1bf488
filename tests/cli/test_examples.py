"""The examples in each command's help: there for all of them, and words that the command takes."""

import shlex
from typing import Any

import pytest
import typer

from emu.cli import frame
from emu.cli.examples import EXAMPLES

frame.register_all()
COMMANDS: dict[str, Any] = vars(typer.main.get_command(frame.app))["commands"]
LINES = [(name, line) for name, lines in EXAMPLES.items() for line in lines]


def test_every_command_has_some(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(COMMANDS) == set(EXAMPLES)
    monkeypatch.setenv("TERMINAL_WIDTH", "120")
    for name, lines in EXAMPLES.items():
        assert frame.run([name, "--help"]) == 0
        shown = capsys.readouterr().out
        for line in lines:
            assert f"{line}\n" in "\n".join(row.rstrip() for row in shown.splitlines()) + "\n"


@pytest.mark.parametrize(("name", "line"), LINES)
def test_the_command_takes_its_examples(name: str, line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert (program, command) == ("fremap", name)
    if name == "run":
        return  # its options are those of the file
    # Reads every value, as the command itself does, and asks nothing of any mount.
    COMMANDS[name].make_context(name, arguments)
