"""fremap dos: what one unprivileged process can do to one page_mkclean and one page's reclaim, and the guards."""

from dataclasses import asdict
from typing import Annotated

import typer

from emu.cli.options import JsonPath, tables_apart_from

_STEP = 4


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("dos", rich_help_panel="Experiments")(dos)


def dos(
    *,
    max_pages: Annotated[
        int, typer.Option(min=64, max=1 << 24, help="Largest mapping of each process, in pages.")
    ] = 65536,
    max_aliases: Annotated[int, typer.Option(min=64, max=1 << 20, help="Most addresses that show one page.")] = 4096,
    max_processes: Annotated[int, typer.Option(min=1, max=1000, help="Most processes that map the file.")] = 8,
    rmap: Annotated[
        list[str] | None, typer.Option(help="A reverse-map strategy; all of them if not given. Repeatable.")
    ] = None,
    format: Annotated[str, typer.Option(help="The page-table format.")] = "x86_64",  # noqa: A002 - the option's name
    bound: Annotated[int, typer.Option(min=2, help="The bound on nonlinear pages that is tried as a guard.")] = 1000,
    attack_seconds: Annotated[float, typer.Option(min=0, help="Leave attacks out that would take longer.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides the orders.")] = 0,
    json_path: JsonPath = None,
) -> int:
    """Attack one page's page_mkclean and reclaim: what an unprivileged process can make them cost.

    Each attack runs under every reverse map, with more pages, processes and addresses from row to row. Then the
    guards are tried: privilege required, and a bound on nonlinear pages. Exits with 1 if a guard does not hold.
    """
    # Here, not at the top: numba and the machine take a second to load, and --help needs neither.
    from rich.console import Console  # noqa: PLC0415 - see above

    from emu.cli.progress import RichProgress  # noqa: PLC0415 - see above
    from emu.cli.show import print_marked, print_whole  # noqa: PLC0415 - see above
    from emu.lab.dos import DosPlan, run_attacks, try_guards  # noqa: PLC0415 - see above
    from emu.lab.rundir import write_records  # noqa: PLC0415 - see above
    from emu.mm.rmap import STRATEGIES  # noqa: PLC0415 - see above
    from emu.report.answer_dos import attack_tables, dos_verdicts, guard_table  # noqa: PLC0415 - see above

    chosen = tuple(STRATEGIES) if not rmap or "all" in rmap else tuple(rmap)
    plan = DosPlan(chosen, format, _growing(max_pages), _growing(max_aliases), _doubling(max_processes), seed)
    rows = run_attacks(plan, attack_seconds, RichProgress())
    guards = try_guards(bound, fmt=format)
    if json_path is not None:
        attacks = [asdict(row) for row in rows]
        records = {"version": 1, "attacks": attacks, "guards": [asdict(guard) for guard in guards]}
        write_records(json_path, records)
    said = dos_verdicts(rows, guards)
    with tables_apart_from(json_path):
        console = Console(highlight=False)
        for table in attack_tables(rows):
            print_whole(console, table)
        print_whole(console, guard_table(guards))
        for good, sentence in said:
            print_marked(console, "[green]ok[/]" if good else "[bold red]BROKEN[/]", sentence)
    return 0 if all(good for good, _ in said) else 1


def _growing(most: int) -> tuple[int, ...]:
    """Return three sizes up to `most`, each a quarter or a sixteenth of it."""
    return tuple(sorted({max(most // _STEP**step, 2) for step in range(3)}))


def _doubling(most: int) -> tuple[int, ...]:
    return tuple(sorted({1, most}))
