"""Operand: what numpy's functions find in the place of an array, and how its elements come to the host."""

from abc import ABC, abstractmethod
from typing import Any

from emu.bridge.ghost import Array
from emu.bridge.window import Window


class Operand(ABC):
    """An array in emulated memory, as far as functions of numpy see it: its window, and views of it."""

    __slots__ = ("window",)

    window: Window

    @abstractmethod
    def like(self, ghost: Array) -> Any:
        """Return the view that a view of the ghost stands for."""

    @abstractmethod
    def put(self, indices: Any, values: Any, mode: Any = "raise") -> None:
        """Store values at flat indices."""


def on_host(value: Any) -> Any:
    """Load what lies in emulated memory, also within lists and tuples; anything else is itself."""
    if isinstance(value, Operand):
        return value.window.load()
    if isinstance(value, (list, tuple)) and any(isinstance(one, (Operand, list, tuple)) for one in value):
        loaded = [on_host(one) for one in value]
        return loaded if isinstance(value, list) else tuple(loaded)
    return value
