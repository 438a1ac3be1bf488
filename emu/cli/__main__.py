"""``python -m emu.cli`` is ``fremap``."""

from emu.cli.frame import main

main()
