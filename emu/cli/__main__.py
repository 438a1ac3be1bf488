"""``python -m emu.cli`` is ``fremap``."""

from emu.cli.start import main

main()
