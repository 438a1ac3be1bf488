"""Sizes in bytes, and their reading and writing as people put them."""

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SUFFIXES = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Read a size such as ``64M``, ``1.5GiB`` or ``4096`` and return bytes.

    Raises
    ------
    ValueError
        If the text is not a size.

    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number with K, M, G or T, such as 64M")
    return int(float(match[1]) * _SUFFIXES[match[2].lower()])


def format_size(nbytes: float) -> str:
    """Write a number of bytes with a binary prefix, such as ``1.5 MiB``."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
