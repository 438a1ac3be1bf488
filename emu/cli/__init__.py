"""The fremap command."""

from emu.cli.start import main

__all__ = ["main"]
