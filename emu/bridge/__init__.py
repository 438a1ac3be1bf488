"""Bridges: numpy arrays and memoryviews whose bytes lie in emulated memory."""

from emu.bridge.array import MappedArray
from emu.bridge.view import MappedView

__all__ = ["MappedArray", "MappedView"]
