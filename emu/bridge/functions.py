"""numpy's functions and ufuncs over arrays in emulated memory: load, compute on the host, store what is changed."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from emu.bridge.ghost import Array, reserve
from emu.bridge.locate import locate
from emu.bridge.operand import Operand, on_host

_VIEWING: frozenset[Any] = frozenset({
    np.transpose, np.swapaxes, np.moveaxis, np.rollaxis, np.squeeze, np.expand_dims, np.atleast_1d, np.atleast_2d,
    np.atleast_3d, np.broadcast_to, np.flip, np.fliplr, np.flipud, np.rot90, np.diagonal, np.split, np.array_split,
    np.hsplit, np.vsplit, np.dsplit, np.matrix_transpose,
})  # fmt: skip
"""Functions of one array whose results are views of it, always."""


# -- ufuncs ------------------------------------------------------------------------------------------------


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what `ufunc(*inputs, **kwargs)` or one of its methods means; outputs with `where` are stored there alone."""
    if method == "at":
        return _at(ufunc, *inputs)
    loaded = [on_host(value) for value in inputs]
    options = {key: on_host(value) for key, value in kwargs.items() if key != "out"}
    outs = kwargs.get("out")
    call: Callable[..., Any] = getattr(ufunc, method)
    if outs is None:
        return call(*loaded, **options)
    outs = outs if isinstance(outs, tuple) else (outs,)
    where = options.get("where", True)
    # What is input and output is computed in its copy, as in-place operators do.
    known = {id(value): copy for value, copy in zip(inputs, loaded, strict=True) if isinstance(value, Operand)}
    host_outs = tuple(_scratch_for(out, where, known.get(id(out))) for out in outs)
    results = call(*loaded, out=host_outs if len(host_outs) > 1 or method == "__call__" else host_outs[0], **options)
    for out, scratch in zip(outs, host_outs, strict=True):
        if isinstance(out, Operand):
            _store_where(out, scratch, where)
    shown = tuple(
        out if out is not None else result
        for out, result in zip(outs, results if isinstance(results, tuple) else (results,), strict=True)
    )
    return shown if len(shown) > 1 else shown[0]


def _scratch_for(out: Any, where: Any, copy: Array | None) -> Any:
    """Return a host array for an output to be computed in: nothing is loaded that will not be kept."""
    if not isinstance(out, Operand):
        return out
    out.window.check_writable()
    if copy is not None:
        return copy
    return np.empty(out.window.ghost.shape, out.window.ghost.dtype) if where is True else out.window.load()


def _store_where(out: Operand, content: Array, where: Any) -> None:
    mask = np.asarray(where)
    if where is True or mask.ndim > content.ndim:
        out.window.store(content)
        return
    chosen = np.broadcast_to(mask, content.shape)
    out.window.store_places(locate(out.window.ghost, chosen), content[chosen])


def _at(ufunc: np.ufunc, target: Any, key: Any, *values: Any) -> None:
    """Do `ufunc.at`: loads and stores the elements that the index means, each once, and no others."""
    key = tuple(on_host(one) for one in key) if isinstance(key, tuple) else on_host(key)
    loaded = [on_host(value) for value in values]
    if not isinstance(target, Operand):
        ufunc.at(target, key, *loaded)
        return
    target.window.check_writable()
    meant = locate(target.window.ghost, key)
    places, where = np.unique(meant, return_inverse=True)
    elements = target.window.load_places(places)
    ufunc.at(elements, where.reshape(meant.shape), *loaded)
    target.window.store_places(places, elements)


# -- functions ---------------------------------------------------------------------------------------------


def call_function(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what a numpy function means for operands in emulated memory."""
    if func in _VIEWING and args and isinstance(args[0], Operand):
        found = func(args[0].window.ghost, *args[1:], **kwargs)
        return _wrap(args[0], found)
    if func in _MEANT and args and isinstance(args[0], Operand):
        return _MEANT[func](*args, **kwargs)
    if func in {np.shares_memory, np.may_share_memory}:
        return _share(func, *args, **kwargs)
    args, kwargs, out = _take_out(func, args, kwargs)
    if out is None:
        return func(*[on_host(value) for value in args], **{key: on_host(value) for key, value in kwargs.items()})
    scratch = out.window.load()
    out.window.check_writable()
    func(*[on_host(value) for value in args], **{key: on_host(value) for key, value in kwargs.items()}, out=scratch)
    out.window.store(scratch)
    return out


def _share(func: Callable[..., Any], first: Any, second: Any, max_work: int | None = None) -> bool:
    """Tell whether two arrays share bytes of one mapping: their ghosts do, laid over the same origin."""
    if not isinstance(first, Operand) or not isinstance(second, Operand):
        return False
    if first.window.mapping is not second.window.mapping:
        return False
    everything = reserve(len(first.window.mapping))
    moved = [
        np.ndarray(ghost.shape, ghost.dtype, everything.data, one.window.offset, ghost.strides)
        for one in (first, second)
        for ghost in (one.window.ghost,)
    ]
    return bool(func(*moved, max_work))


def _wrap(origin: Operand, found: Any) -> Any:
    return [origin.like(one) for one in found] if isinstance(found, (list, tuple)) else origin.like(found)


def _take_out(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Operand | None]:
    """Split the operand off that is the function's `out`, given by name or by place."""
    given = kwargs.get("out")
    if isinstance(given, tuple) and len(given) == 1:
        given = given[0]
    if isinstance(given, Operand):
        return args, {key: value for key, value in kwargs.items() if key != "out"}, given
    names = _names_by_place(func)
    place = names.index("out") if "out" in names else len(args)
    if place < len(args) and isinstance(args[place], Operand):
        behind = dict(zip(names[place + 1 :], args[place + 1 :], strict=False))
        return args[:place], behind | kwargs, args[place]
    return args, kwargs, None


@cache
def _names_by_place(func: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters that may be given by place; none if it does not tell."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return ()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in parameters if one.kind in by_place)


# -- functions that change their first argument, or may copy -------------------------------------------------


def _reshape(target: Operand, /, shape: Any, order: Any = "C", *, copy: bool | None = None) -> Any:
    if copy:
        return np.reshape(target.window.load(), shape, order=order)
    try:
        return target.like(np.reshape(target.window.ghost, shape, order=order, copy=False))
    except ValueError:
        if copy is False:
            raise
        return np.reshape(target.window.load(), shape, order=order)


def _ravel(target: Operand, order: Any = "C") -> Any:
    return _reshape(target, -1, order)


def _real(target: Operand) -> Any:
    return target.like(target.window.ghost.real)


def _imag(target: Operand) -> Any:
    ghost = target.window.ghost
    return target.like(ghost.imag) if ghost.dtype.kind == "c" else np.imag(target.window.load())


def _copyto(target: Operand, src: Any, casting: Any = "same_kind", where: Any = True) -> None:
    content = np.empty(target.window.ghost.shape, target.window.ghost.dtype)
    mask = on_host(where)
    np.copyto(content, on_host(src), casting=casting, where=mask)
    target.window.check_writable()
    _store_where(target, content, mask)


def _putmask(target: Operand, mask: Any, values: Any) -> None:
    changed, chosen = target.window.load(), np.asarray(on_host(mask), bool)
    np.putmask(changed, chosen, on_host(values))
    target.window.check_writable()
    _store_where(target, changed, chosen.reshape(changed.shape))


def _place(target: Operand, mask: Any, vals: Any) -> None:
    changed, chosen = target.window.load(), np.asarray(on_host(mask), bool)
    np.place(changed, chosen, on_host(vals))
    target.window.check_writable()
    _store_where(target, changed, chosen.reshape(changed.shape))


def _put(target: Operand, ind: Any, v: Any, mode: Any = "raise") -> None:
    target.put(ind, v, mode)


def _whole(func: Callable[..., Any]) -> Callable[..., None]:
    """Return a stand-in for a function that changes its first argument: loaded, changed, stored as a whole."""

    def changed(target: Operand, *args: Any, **kwargs: Any) -> None:
        loaded = target.window.load()
        func(loaded, *[on_host(one) for one in args], **{key: on_host(one) for key, one in kwargs.items()})
        target.window.store(loaded)

    return changed


def _nan_to_num(target: Operand, copy: bool = True, **kwargs: Any) -> Any:
    found = np.nan_to_num(target.window.load(), copy=True, **kwargs)
    if copy:
        return found
    target.window.store(found)
    return target


_MEANT: dict[Any, Callable[..., Any]] = {
    np.reshape: _reshape,
    np.ravel: _ravel,
    np.real: _real,
    np.imag: _imag,
    np.copyto: _copyto,
    np.putmask: _putmask,
    np.place: _place,
    np.put: _put,
    np.put_along_axis: _whole(np.put_along_axis),
    np.fill_diagonal: _whole(np.fill_diagonal),
    np.nan_to_num: _nan_to_num,
}
