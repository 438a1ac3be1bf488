"""Pages that are made when the site is built: each command's own --help, and each class's own docstring."""

import os
import re

# Before the command is imported: how wide its help is drawn.
os.environ |= {"COLUMNS": "82", "TERMINAL_WIDTH": "82", "NO_COLOR": "1", "TERM": "dumb"}

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from emu.cli import frame
from emu.lab.workload import bundled_names

_PYTHON = """# Python

What programs use. Everything else is written down in the code, where it is.

## The emulated machine

::: emu.machine.Machine

::: emu.process.Process

::: emu.mapping.Mapping

::: emu.host.HostProcess

## numpy on emulated memory

::: emu.bridge.MappedArray

::: emu.bridge.MappedView

## Workloads

::: emu.lab.lab.Lab

## Checks

::: emu.check.check
"""

_FILESYSTEM = """# Filesystem

Mounts from Python, as the commands make them.

::: fsbackend.mount.mount

::: fsbackend.mount.umount

::: fsbackend.mount.temporary_mount

::: fsbackend.mount.TemporaryMount

::: fsbackend.pytest_plugin.fremap_mount

## Capabilities

::: fsbackend.bdi.BackingDevInfo

## The control law

::: fsbackend.throttle
"""


def _help_of(words: list[str]) -> str:
    done = CliRunner().invoke(frame.app, [*words, "--help"], prog_name="fremap")
    if done.exit_code:
        raise RuntimeError(f"fremap {' '.join(words)} --help failed: {done.output} {done.exception}")
    lines = (line.rstrip() for line in done.output.splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _commands() -> str:
    """Return the page of all commands, in the order in which `fremap --help` lists them."""
    frame.register_all()
    group = typer.main.get_command(frame.app)
    parts = ["# Commands", "What `--help` says of each, as of this build.", f"```text\n{_help_of([])}\n```"]
    for name in group.list_commands(click.Context(click.Command("fremap"))):
        parts += [f"## fremap {name}", f"```text\n{_help_of([name])}\n```"]
    for name in bundled_names():
        parts += [f"## fremap run {name}", f"```text\n{_help_of(['run', name])}\n```"]
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages to those that were written."""
    for uri, text in (
        ("reference/commands.md", _commands()),
        ("reference/python.md", _PYTHON),
        ("reference/filesystem.md", _FILESYSTEM),
    ):
        files.append(File.generated(config, uri, content=text))
    return files
