"""fremap tables: explain a page-table format, and show a live page table."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("tables", rich_help_panel="Look")(tables)


def _read_vaddr(text: str) -> int:
    try:
        vaddr = int(text, 0)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no address: write it as 0x... or as a number") from error
    if not 0 <= vaddr < 1 << 64:
        raise typer.BadParameter(f"{text} is no address of 64 bits")
    return vaddr


def tables(
    *,
    format: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(help="The format to explain; without it, a list of all.")
    ] = None,
    va: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Cut this address up, and walk it in the live table. Repeatable."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Run a small nonlinear mapping and show its whole page table.")
    ] = False,
) -> None:
    """Explain a page-table format: how addresses are cut, what each bit of an entry means.

    With --live a process maps a file of 8 pages nonlinearly, touches some, protects one; then every entry of its
    page table is read from the machine's RAM and explained. With --va only those on the way to an address.
    """
    # Here, not at the top: the machine takes a second to load, and --help does not need it.
    from emu.hw.pte import FORMATS, get_format  # noqa: PLC0415 - see above
    from emu.report.tables_layout import address_lines, explain, size_of  # noqa: PLC0415

    if format is None:
        if va or live:
            raise typer.BadParameter("say which format: --format x86_64, for one")
        for fmt in FORMATS.values():
            large = [size_of(1 << fmt.levels[n].shift) for n in range(fmt.nr_levels) if fmt.has_huge(n)]
            typer.echo(
                f"{fmt.name:<12} {fmt.nr_levels} levels, {fmt.va_bits}-bit addresses, "
                f"pages of {size_of(fmt.page_size)} ({', '.join(large)}), {fmt.file_bits}-bit file PTEs"
            )
        return
    try:
        fmt = get_format(format)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    vaddrs = [_read_vaddr(text) for text in va or ()]
    if not vaddrs and not live:
        typer.echo("\n".join(explain(fmt)))
        return
    for vaddr in vaddrs:
        typer.echo("\n".join([f"{vaddr:#x} in {fmt.name}", *address_lines(fmt, vaddr)]))

    from emu.report.tables_live import live_example  # noqa: PLC0415 - see above

    typer.echo("\n".join(live_example(fmt.name, tuple(vaddrs))))
