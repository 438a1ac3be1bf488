"""fremap run: a workload's parameters become the command's options.

`run` is a group whose subcommands are files: `fremap run late_store --help` shows the workload's own words, its
parameters, and the laboratory's options beside them.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from emu.cli.options import read_place, read_size
from emu.lab.workload import Workload, bundled_names, load_workload

_LAB = "Laboratory"
_Option = inspect.Parameter


def _lab_parameters() -> list[inspect.Parameter]:
    """Return the options that every workload has, as parameters that typer reads."""

    def option(name: str, kind: Any, default: Any, help_text: str, *flags: str, **more: Any) -> _Option:
        annotation = Annotated[kind, typer.Option(*flags, help=help_text, rich_help_panel=_LAB, **more)]
        return _Option(name, _Option.KEYWORD_ONLY, default=default, annotation=annotation)

    return [
        option(
            "on", Path | None, None, "A directory to run in, such as a mount; else a temporary mount.", metavar="PATH",
            parser=read_place,
        ),
        option("rmap", str, "dirty_index", "The reverse-map strategy."),
        option("format", str, "x86_64", "The page-table format."),
        option("ram", int | None, None, "RAM of the machine, such as 64M.", parser=read_size, metavar="SIZE"),
        option("caps", str, "disk", "Capabilities of the mount; with --on only for files that tell none."),
        option("seed", int, 0, "Decides everything random.", min=0),
        option("out", Path | None, None, "The run directory; else runs/TIME-NAME.", metavar="DIR", parser=read_place),
        option("events", bool, False, "Record events too.", "--events"),
        option("proc", bool, False, "Leave the machine's /proc, too: meminfo, smaps, sparse pagemaps.", "--proc"),
        option("host", bool, False, "On this kernel instead of an emulated machine.", "--host"),
        option("json", bool, False, "Print the outcome as JSON.", "--json"),
    ]


LAB_NAMES = frozenset(parameter.name for parameter in _lab_parameters())


def _as_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """Make an option of a parameter without default, too; typer would take it for a positional argument."""
    if parameter.default is not parameter.empty:
        return parameter
    return parameter.replace(annotation=Annotated[parameter.annotation, typer.Option()])


def command_of(workload: Workload) -> Callable[..., int]:
    """Return a function whose signature holds the workload's parameters and the laboratory's."""

    def command(**values: Any) -> int:
        # Here, not at the top: numba and the machine take a second to load, and --help needs neither.
        from emu.cli.workload_run import run_workload  # noqa: PLC0415 - see above

        lab_values = {name: values.pop(name) for name in LAB_NAMES}
        return run_workload(workload, values, lab_values)

    parameters = [*map(_as_option, workload.parameters), *_lab_parameters()]
    command.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
    command.__doc__ = workload.help
    command.__name__ = workload.name
    return command


class WorkloadGroup(TyperGroup):
    """Finds a subcommand by loading the file of that name."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's interface
        """Return the bundled workloads."""
        return bundled_names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer's interface
        """Return the command of a workload, by path or bundled name; LabError if there is none."""
        single = typer.Typer(rich_markup_mode="markdown", add_completion=False)
        single.command(context_settings={"help_option_names": ["-h", "--help"]})(
            command_of(load_workload(cmd_name))
        )
        command = typer.main.get_command(single)
        command.name = cmd_name
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Allow the laboratory's options before the file, too: they are moved behind it."""
        return super().parse_args(ctx, _file_first(args))


def _file_first(args: list[str]) -> list[str]:
    """Return the arguments with FILE in front, if only known options of the laboratory come before it."""
    flags = {f"--{p.name}" for p in _lab_parameters() if p.default is False}
    valued = {f"--{name}" for name in LAB_NAMES} - flags
    at = 0
    while at < len(args) and args[at].startswith("--"):
        name, equals, _value = args[at].partition("=")
        if name in valued:
            at += 1 if equals else 2
        elif name in flags:
            at += 1
        else:
            return args
    return args if at >= len(args) else [args[at], *args[:at], *args[at + 1 :]]


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    group = typer.Typer(cls=WorkloadGroup, rich_markup_mode="markdown")

    @group.callback(
        invoke_without_command=True,
        subcommand_metavar="FILE [OPTIONS]",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    def _run(context: typer.Context) -> None:
        """Run a workload: a Python file with one typed function, or the name of one that comes with fremap.

        The function's parameters become options; `fremap run FILE --help` shows them. Without `--on` it runs on
        a temporary mount that is gone afterwards. Every run leaves a run directory: manifest, counters, outcome.
        """
        if context.invoked_subcommand is None:
            # With rich it prints by itself and returns nothing.
            text = context.get_help()
            if text:
                typer.echo(text)

    app.add_typer(group, name="run", rich_help_panel="Experiments")
