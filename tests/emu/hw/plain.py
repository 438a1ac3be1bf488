"""The kernels as plain Python: each replaced by its source, and so is every kernel that it calls."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

from emu.hw.jit import pure

_made: dict[int, Callable[..., Any]] = {}


def plain(kernel: Any) -> Callable[..., Any]:
    """Return `kernel` as a plain function that calls plain functions only."""
    if id(kernel) not in _made:
        source = pure(kernel)
        names = dict(source.__globals__)
        copy = FunctionType(source.__code__, names)
        _made[id(kernel)] = copy
        for name in source.__code__.co_names:
            if name == "prefetch":      # it does nothing that can be seen
                names[name] = lambda *_: None
            if hasattr(names.get(name), "py_func"):
                names[name] = plain(names[name])
    return _made[id(kernel)]
