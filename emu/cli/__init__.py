"""The fremap command."""

from emu.cli.frame import main

__all__ = ["main"]
