"""The dirty limits that a user gives `fremap mount`: read, and refused where they contradict each other.

The control files take more (as /proc/sys/vm does, where one knob is turned after the other); here all are known
at once, so nonsense is said before anything is mounted. Sizes in bytes, times in seconds.
"""

import math
from collections.abc import Iterable

import typer

from emu.units import format_size, parse_size
from fsbackend.bdi import parse_caps
from fsbackend.handles import Override
from fsbackend.throttle import DirtyParams

LEAST_DIRTY_NBYTES = 8192
"""Two pages; Linux mm/page-writeback.c takes no smaller vm.dirty_bytes."""
LEAST_BACKGROUND_NBYTES = 4096


def _read_bytes(option: str, text: str | None, least_nbytes: int) -> int | None:
    if text is None:
        return None
    try:
        nbytes = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from error
    if nbytes < least_nbytes:
        raise typer.BadParameter(f"{option} {text} is too small: give at least {format_size(least_nbytes)}")
    return nbytes


def _refuse_pair(one: str, other: str, given: tuple[float | None, float | None]) -> None:
    if None not in given:
        raise typer.BadParameter(f"{one} and {other} say the same in two ways: give one of them")


def _refuse_order(names: tuple[str, str], background: float | None, dirty: float | None) -> None:
    if background is not None and dirty is not None and background >= dirty:
        raise typer.BadParameter(f"{names[0]} must lie below {names[1]}, or writeback would begin too late")


def read_params(
    kernel: str,
    *,
    background_ratio: int | None,
    dirty_ratio: int | None,
    background_bytes: str | None,
    dirty_bytes: str | None,
    expire_s: float | None,
    interval_s: float | None,
) -> DirtyParams:
    """Return the limits; BadParameter with one line that names the option."""
    background_nbytes = _read_bytes("--background-bytes", background_bytes, LEAST_BACKGROUND_NBYTES)
    dirty_nbytes = _read_bytes("--dirty-bytes", dirty_bytes, LEAST_DIRTY_NBYTES)
    for option, ratio in (("--background-ratio", background_ratio), ("--dirty-ratio", dirty_ratio)):
        if ratio is not None and not 0 <= ratio <= 100:
            raise typer.BadParameter(f"{option} is a percentage: give 0 to 100, not {ratio}")
    for option, seconds in (("--expire", expire_s), ("--interval", interval_s)):
        if seconds is not None and (not math.isfinite(seconds) or seconds < 0):
            raise typer.BadParameter(f"{option} takes seconds from 0 up, not {seconds:g}")
    _refuse_pair("--dirty-bytes", "--dirty-ratio", (dirty_nbytes, dirty_ratio))
    _refuse_pair("--background-bytes", "--background-ratio", (background_nbytes, background_ratio))
    _refuse_order(("--background-bytes", "--dirty-bytes"), background_nbytes, dirty_nbytes)
    _refuse_order(("--background-ratio", "--dirty-ratio"), background_ratio, dirty_ratio)
    given = {
        "background_ratio": background_ratio,
        "dirty_ratio": dirty_ratio,
        "background_bytes": background_nbytes,
        "dirty_bytes": dirty_nbytes,
        "expire_s": expire_s,
        "periodic_s": interval_s,
    }
    try:
        preset = DirtyParams.preset(kernel)
    except ValueError as error:
        raise typer.BadParameter(f"--kernel: {error}") from error
    if dirty_ratio is not None and background_ratio is None and background_nbytes is None:
        given["background_ratio"] = _fitting_background(dirty_ratio, preset.background_ratio)
    if background_ratio is not None and dirty_ratio is None and dirty_nbytes is None:
        _refuse_default_order(background_ratio, preset.dirty_ratio)
    return preset.with_(**{name: value for name, value in given.items() if value is not None})


def _fitting_background(dirty_ratio: int, default: int) -> int:
    """Return where writeback begins if only the limit was given, and say so where the default would not fit."""
    if default < dirty_ratio:
        return default
    ratio = dirty_ratio // 2  # as Linux does: mm/page-writeback.c, domain_dirty_limits()
    typer.echo(
        f"note: --dirty-ratio {dirty_ratio} is not above the background ratio, {default} by default; writeback begins"
        f" at {ratio} percent (--background-ratio says otherwise)",
        err=True,
    )
    return ratio


def _refuse_default_order(background_ratio: int, default: int) -> None:
    if background_ratio >= default:
        raise typer.BadParameter(
            f"--background-ratio {background_ratio} must lie below the dirty ratio, {default} by default:"
            " give --dirty-ratio, too"
        )


def check_overrides(overrides: Iterable[str]) -> None:
    """Refuse what is no GLOB=CAPS."""
    try:
        for text in overrides:
            Override(text)
    except ValueError as error:
        raise typer.BadParameter(f"--override: {error}") from error


def check_ratios(caps: str, max_ratio: int | None, min_ratio: int) -> None:
    """Refuse shares that contradict the capabilities or each other; the capabilities' own mistakes come later."""
    try:
        of_caps = parse_caps(caps).max_ratio
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if max_ratio is not None and "max_ratio=" in caps and of_caps != max_ratio:
        raise typer.BadParameter(f"--caps says max_ratio={of_caps}, --max-ratio says {max_ratio}: give one of them")
    most = of_caps if max_ratio is None else max_ratio
    if min_ratio > most:
        raise typer.BadParameter(f"--min-ratio {min_ratio} lies above the most it may use, {most} percent")
